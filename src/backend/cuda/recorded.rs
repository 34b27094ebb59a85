//! A GPU that runs nothing and keeps what it was asked to run: for looking at machine code.

use std::sync::{Arc, Mutex, PoisonError};

use super::driver::{Driver, Grid, ModuleId, Session};
use super::gpu::Gpu;
use crate::caps::Arch;
use crate::device::{Device, DeviceBuilder};
use crate::error::Result;

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
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl DeviceBuilder {
    /// A GPU of this architecture and so many multiprocessors that runs no kernel: operations
    /// leave their outputs as they were, and what they would have launched is in the recording.
    /// It shows which code and which tiles an operation gets, on a machine without that GPU.
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
        let recording = Recording::default();
        let recorder = Recorder { recording: recording.clone(), modules: Mutex::default() };
        let gpu = Arc::new(Gpu::new(arch, Box::new(recorder))?);
        Ok((self.without_gpu(&format!("recorded:{arch}"), &gpu, units), recording))
    }
}

/// The driver of such a GPU.
struct Recorder {
    recording: Recording,
    modules: Mutex<Vec<Arc<str>>>,
}

impl Driver for Recorder {
    fn load(&self, ptx: &str) -> Result<ModuleId, String> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        modules.push(ptx.into());
        Ok(ModuleId(modules.len() - 1))
    }

    fn session<'s, 'a: 's>(&'s self) -> Box<dyn Session<'a> + 's> {
        Box::new(RecordedSession(self))
    }
}

/// Addresses are those on the host: nothing reads what is there.
struct RecordedSession<'s>(&'s Recorder);

impl<'a> Session<'a> for RecordedSession<'_> {
    fn read(&mut self, bytes: &'a [u8], _label: &str) -> Result<u64, String> {
        Ok(address(bytes))
    }

    fn keep(&mut self, bytes: Vec<u8>, _label: &str) -> Result<u64, String> {
        Ok(address(&bytes))
    }

    fn write(&mut self, bytes: &'a mut [u8], _label: &str) -> Result<u64, String> {
        Ok(address(bytes))
    }

    fn scratch(&mut self, bytes: usize, _label: &str) -> Result<u64, String> {
        const SOMEWHERE: u64 = 256;
        Ok(if bytes == 0 { 0 } else { SOMEWHERE })
    }

    fn clear(&mut self, _address: u64, _bytes: usize) -> Result<(), String> {
        Ok(())
    }

    fn fetch(&mut self, _address: u64, into: &mut [u8]) -> Result<(), String> {
        into.fill(0);
        Ok(())
    }

    fn launch(
        &mut self,
        module: ModuleId,
        kernel: &str,
        grid: Grid,
        _parameter: &[u8],
    ) -> Result<(), String> {
        let modules = self.0.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let ptx = modules.get(module.0).cloned().ok_or("the module is of another GPU")?;
        let mut launches = self.0.recording.0.lock().unwrap_or_else(PoisonError::into_inner);
        launches.push(Launched { ptx, entry: kernel.to_owned(), grid });
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), String> {
        Ok(())
    }
}

fn address(bytes: &[u8]) -> u64 {
    if bytes.is_empty() { 0 } else { bytes.as_ptr().addr() as u64 }
}
