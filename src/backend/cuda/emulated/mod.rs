//! A GPU on the CPU: the emulator as a driver.

mod queue;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ptx_vm::Module;

use self::queue::EmulatedQueue;
use super::driver::{Driver, Image, ModuleId, Queue};
use super::gpu::Gpu;
use crate::caps::{Arch, Caps, MemoryKind};
use crate::device::{Device, DeviceBuilder};
use crate::error::Result;
use crate::memory::{EmulatedMemory, RawMemory, Refusal};

/// Multiprocessors that cost estimates assume: those of GB10.
const UNITS: usize = 48;

/// What an emulated GPU with memory of its own has of it.
const OWN_MEMORY: u64 = 8 << 30;

impl Device {
    /// An emulated GPU of this architecture, sharing the host's memory as GB10 does.
    ///
    /// Kernels are compiled for the architecture as for a real one, and executed instruction by
    /// instruction by [`ptx_vm`], which checks every access: out of bounds, misaligned, never
    /// written, racing, not waited for. What it finds is an [`Error::Kernel`] with the kernel,
    /// the line, the block and the thread, for whoever reads what the kernel should have written.
    /// Operations without a GPU kernel run by the reference.
    ///
    /// Kernels run in streams, as on a GPU: operations return when they are enqueued.
    ///
    /// It is for writing and testing kernels: some 10⁴ times slower than a GPU.
    ///
    /// # Errors
    /// [`Error::Device`] where NVRTC, the compiler, is not there: it says what was looked for
    /// where.
    ///
    /// [`Error::Device`]: crate::Error::Device
    /// [`Error::Kernel`]: crate::Error::Kernel
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, bf16, caps::Arch};
    ///
    /// # if Device::emulated(Arch::SM121A).is_err() { return Ok(()); } // no NVRTC here
    /// let device = Device::emulated(Arch::SM121A)?;
    /// let x = Tensor::from_fn(&device, [2, 64], |[i, j]| bf16::from_f32((i + j) as f32))?;
    /// let y = x.matmul(&x.t())?;
    /// assert_eq!(y.host()?[[0, 0]], bf16::from_f32(85344.0));
    /// assert_eq!(device.launches()["cuda.gemm.stream"], 1);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn emulated(arch: Arch) -> Result<Device> {
        Self::builder().emulated(arch)
    }
}

impl DeviceBuilder {
    /// An emulated GPU with these limits; `threads` run its blocks. See [`Device::emulated`].
    ///
    /// # Errors
    /// Those of [`Device::emulated`]; [`Error::Value`](crate::Error::Value) for 0 threads, and for
    /// a kind of memory that results can not live in.
    pub fn emulated(self, arch: Arch) -> Result<Device> {
        use MemoryKind::{Device, Host, Managed, Mapped, Pinned};
        self.emulate(arch, &[Host, Mapped, Pinned, Managed, Device], None)
    }

    /// An emulated GPU with memory of its own, as in a server: it does not reach the host's heap
    /// nor mapped files, results live in [`MemoryKind::Device`] memory, which the host does not
    /// reach, and operations without a GPU kernel do not run on it.
    ///
    /// ```
    /// use ferrocerium::caps::{Arch, MemoryKind};
    /// use ferrocerium::{Device, Tensor, bf16};
    ///
    /// # if Device::emulated(Arch::SM90A).is_err() { return Ok(()); } // no NVRTC here
    /// let device = Device::builder().emulated_discrete(Arch::SM90A)?;
    /// let x = Tensor::from_host(&device, [1, 2], &[bf16::ONE; 2])?;     // copied there
    /// let y = x.matmul(&x.t())?;
    /// assert!(y.host().is_err_and(|e| e.to_string().contains("device memory")));
    /// assert_eq!(y.to_vec()?, [bf16::from_f32(2.0)]);                   // copied back
    /// assert_eq!(y.to_kind(MemoryKind::Pinned)?.host()?[[0, 0]], bf16::from_f32(2.0));
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`DeviceBuilder::emulated`].
    pub fn emulated_discrete(self, arch: Arch) -> Result<Device> {
        use MemoryKind::{Device, Managed, Pinned};
        self.emulate(arch, &[Device, Pinned, Managed], Some(OWN_MEMORY))
    }

    fn emulate(self, arch: Arch, kinds: &[MemoryKind], own_memory: Option<u64>) -> Result<Device> {
        let emulator = Emulator::new(self.thread_count()?, own_memory);
        let gpu = Arc::new(Gpu::new(arch, Arc::new(emulator))?);
        super::device(self, &format!("emulated:{arch}"), Caps::gpu(arch, UNITS, kinds), &gpu)
    }
}

impl Gpu {
    /// An emulated GPU for kernels of your own; `threads` of the host run its blocks.
    ///
    /// # Errors
    /// Those of [`Device::emulated`].
    pub fn emulated(arch: Arch, threads: usize) -> Result<Arc<Gpu>> {
        Ok(Arc::new(Gpu::new(arch, Arc::new(Emulator::new(threads, None)))?))
    }
}

/// The emulator with its loaded modules.
struct Emulator {
    /// Host threads that run blocks.
    threads: usize,
    modules: Modules,
    own_memory: Option<u64>,
    /// Bytes of [`MemoryKind::Device`] that are in use.
    used: Arc<AtomicU64>,
}

/// The loaded modules, by number.
type Modules = Arc<RwLock<Vec<Arc<Module>>>>;

impl Emulator {
    fn new(threads: usize, own_memory: Option<u64>) -> Self {
        Emulator { threads, modules: Modules::default(), own_memory, used: Arc::default() }
    }
}

impl Driver for Emulator {
    fn image(&self) -> Image {
        Image::Ptx
    }

    fn load(&self, code: &[u8]) -> Result<ModuleId, String> {
        let ptx = std::str::from_utf8(code).map_err(|e| e.to_string())?;
        let module = Arc::new(Module::from_ptx(ptx).map_err(|e| e.to_string())?);
        let mut modules = self.modules.write().unwrap_or_else(PoisonError::into_inner);
        modules.push(module);
        Ok(ModuleId(modules.len() - 1))
    }

    fn allocate(&self, kind: MemoryKind, len: usize) -> Result<Box<dyn RawMemory>, Refusal> {
        let visible = kind != MemoryKind::Device;
        let counter = (!visible).then(|| self.used.clone());
        let memory = EmulatedMemory::new(len, visible, counter);
        let none = || Refusal::OutOfMemory("the host has no memory for it".to_owned());
        Ok(Box::new(memory.ok_or_else(none)?))
    }

    fn gives_resident(&self) -> bool {
        false
    }

    fn own_memory(&self) -> Result<Option<(u64, u64)>, String> {
        let used = self.used.load(Ordering::Relaxed);
        Ok(self.own_memory.map(|total| (total.saturating_sub(used), total)))
    }

    fn queue(&self, number: u64) -> Result<Box<dyn Queue>, String> {
        Ok(Box::new(EmulatedQueue::new(number, self.modules.clone(), self.threads)?))
    }
}
