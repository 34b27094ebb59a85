//! A GPU that runs nothing and keeps what it was asked to run: for looking at machine code.

use std::any::Any;
use std::sync::{Arc, Mutex};

use super::driver::{Driver, Grid, Image, ModuleId, Queue, Session};
use super::dry::DrySession;
use super::gpu::Gpu;
use super::lock::lock;
use crate::caps::{Arch, Caps, MemoryKind};
use crate::device::{Device, DeviceBuilder};
use crate::error::Result;
use crate::memory::{Earlier, Fence, RawMemory, Refusal};

/// A launch that a recording device was asked for.
#[derive(Clone, Debug)]
pub struct Launched {
    /// The module, compiled for the device's architecture.
    pub ptx: Arc<str>,
    /// The kernel in it.
    pub entry: String,
    /// How many threads would run it.
    pub grid: Grid,
}

/// The launches of a recording device.
#[derive(Clone, Default)]
pub struct Recording(Arc<Mutex<Vec<Launched>>>);

impl Recording {
    /// The launches since this was asked last, in order.
    pub fn take(&self) -> Vec<Launched> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl DeviceBuilder {
    /// A GPU of this architecture and so many multiprocessors that runs no kernel: operations
    /// leave their outputs as they were, and what they would have launched is in the recording.
    /// It shows which code and which tiles an operation gets, on a machine without that GPU; what
    /// a graph of it would launch is in the recording once it is captured.
    /// Operations without a GPU kernel run by the reference.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where NVRTC, the compiler, is not there.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, bf16, caps::Arch};
    ///
    /// # if Device::emulated(Arch::SM121A).is_err() { return Ok(()); } // no NVRTC here
    /// let (device, recording) = Device::builder().recorded(Arch::SM121A, 48)?;
    /// let x = Tensor::<bf16, 2>::zeros(&device, [512, 512])?;
    /// x.matmul(&x.t())?;
    /// let launch = &recording.take()[0];
    /// println!("{} blocks of {} threads", launch.grid.blocks, launch.grid.threads);
    /// assert!(launch.ptx.contains("mma.sync"));
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn recorded(self, arch: Arch, units: usize) -> Result<(Device, Recording)> {
        self.record_only(arch, units, Image::Ptx, "recorded")
    }

    /// The same, for finding out how soon kernels are ready: they are compiled to machine code and
    /// kept on disk, as for a GPU that is there. Nothing loads that code, and nothing is recorded.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where NVRTC, the compiler, is not there.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, bf16, caps::Arch};
    ///
    /// # if Device::emulated(Arch::SM121A).is_err() { return Ok(()); } // no NVRTC here
    /// let device = Device::builder().compiled(Arch::SM121A, 48)?;
    /// let x = Tensor::<bf16, 2>::zeros(&device, [512, 512])?;
    /// let start = std::time::Instant::now();
    /// x.matmul(&x.t())?;
    /// println!("{:.2?} until it could have run", start.elapsed());
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn compiled(self, arch: Arch, units: usize) -> Result<Device> {
        Ok(self.record_only(arch, units, Image::Cubin, "compiled")?.0)
    }

    fn record_only(
        self,
        arch: Arch,
        units: usize,
        image: Image,
        name: &str,
    ) -> Result<(Device, Recording)> {
        let recording = Recording::default();
        let recorder = Recorder { image, recording: recording.clone(), modules: Arc::default() };
        let gpu = Arc::new(Gpu::new(arch, Arc::new(recorder))?);
        let caps = Caps::gpu(arch, units, &[MemoryKind::Host, MemoryKind::Mapped]);
        Ok((super::device(self, &format!("{name}:{arch}"), caps, &gpu)?, recording))
    }
}

/// The driver of such a GPU, and all its queues.
#[derive(Clone)]
struct Recorder {
    image: Image,
    recording: Recording,
    modules: Arc<Mutex<Vec<Arc<str>>>>,
}

impl Driver for Recorder {
    fn image(&self) -> Image {
        self.image
    }

    fn load(&self, code: &[u8]) -> Result<ModuleId, String> {
        let ptx = match self.image {
            Image::Ptx => std::str::from_utf8(code).map_err(|e| e.to_string())?,
            Image::Cubin => "",
        };
        let mut modules = lock(&self.modules);
        modules.push(ptx.into());
        Ok(ModuleId(modules.len() - 1))
    }

    fn allocate(&self, kind: MemoryKind, _len: usize) -> Result<Box<dyn RawMemory>, Refusal> {
        Err(Refusal::Device(format!("no machine is here that has {kind} memory")))
    }

    fn gives_resident(&self) -> bool {
        false
    }

    fn own_memory(&self) -> Result<Option<(u64, u64)>, String> {
        Ok(None)
    }

    fn queue(&self, _number: u64) -> Result<Box<dyn Queue>, String> {
        Ok(Box::new(self.clone()))
    }
}

impl Queue for Recorder {
    fn session(&self, _earlier: &[Earlier]) -> Result<Box<dyn Session + '_>, String> {
        let keep = |module: ModuleId, entry: &str, grid| {
            let modules = lock(&self.modules);
            let ptx = modules.get(module.0).cloned().ok_or("the module is of another GPU")?;
            if self.image == Image::Cubin {
                return Ok(());
            }
            let mut launches = lock(&self.recording.0);
            launches.push(Launched { ptx, entry: entry.to_owned(), grid });
            Ok(())
        };
        Ok(Box::new(DrySession(keep)))
    }

    fn record(&self) -> Result<(), String> {
        Ok(())
    }

    fn recorded(&self) -> Result<Box<dyn Any + Send + Sync>, String> {
        Ok(Box::new(()))
    }

    fn replay(&self, _: &(dyn Any + Send + Sync), _: &[Earlier]) -> Result<Fence, String> {
        Err("a device that runs nothing replays no graphs".to_owned())
    }
}
