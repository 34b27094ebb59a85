//! A GPU on the CPU: the emulator as a driver.

use std::sync::{Arc, PoisonError, RwLock};

use ptx_vm::{Arg, DevicePtr, LaunchConfig, Machine, Module};

use super::driver::{Driver, Grid, ModuleId, Session};
use super::gpu::Gpu;
use crate::backend::reference;
use crate::caps::{Arch, Caps, MemoryKind};
use crate::device::{Device, DeviceBuilder};
use crate::error::Result;
use crate::registry::{KernelRegistry, Workers};

/// Multiprocessors that cost estimates assume: those of GB10.
const UNITS: usize = 48;

/// How the driver aligns allocations, and buffers are aligned on the host.
const ALIGNMENT: usize = 256;

impl Device {
    /// An emulated GPU of this architecture, sharing the host's memory as GB10 does.
    ///
    /// Kernels are compiled for the architecture as for a real one, and executed instruction by
    /// instruction by [`ptx_vm`], which checks every access: out of bounds, misaligned, never
    /// written, racing, not waited for. What it finds is an [`Error::Kernel`] with the kernel,
    /// the line, the block and the thread. Operations without a GPU kernel run by the reference.
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
    /// Those of [`Device::emulated`]; [`Error::Value`](crate::Error::Value) for 0 threads.
    pub fn emulated(self, arch: Arch) -> Result<Device> {
        let gpu = Gpu::emulated(arch, self.thread_count()?)?;
        Ok(self.without_gpu(&format!("emulated:{arch}"), &gpu, UNITS))
    }

    /// A device for what stands in for a GPU and shares the host's memory.
    pub(super) fn without_gpu(self, name: &str, gpu: &Arc<Gpu>, units: usize) -> Device {
        let kinds = [MemoryKind::Host, MemoryKind::Mapped, MemoryKind::Pinned, MemoryKind::Managed];
        let caps = Caps::gpu(gpu.arch(), units, &kinds);
        Device::from_parts(
            name,
            Caps { isa: self.allowed_isa(caps.isa.clone()), ..caps },
            self.pool(name),
            Workers::sequential(),
            KernelRegistry::from_kernels(super::kernels(gpu).chain(reference::kernels())),
            self.request(),
        )
    }
}

impl Gpu {
    /// An emulated GPU for kernels of your own; `threads` of the host run its blocks.
    ///
    /// # Errors
    /// Those of [`Device::emulated`].
    pub fn emulated(arch: Arch, threads: usize) -> Result<Arc<Gpu>> {
        let emulator = Emulator { threads, modules: RwLock::default() };
        Ok(Arc::new(Gpu::new(arch, Box::new(emulator))?))
    }
}

/// The emulator with its loaded modules.
struct Emulator {
    /// Host threads that run blocks.
    threads: usize,
    modules: RwLock<Vec<Arc<Module>>>,
}

impl Driver for Emulator {
    fn load(&self, ptx: &str) -> Result<ModuleId, String> {
        let module = Arc::new(Module::from_ptx(ptx).map_err(|e| e.to_string())?);
        let mut modules = self.modules.write().unwrap_or_else(PoisonError::into_inner);
        modules.push(module);
        Ok(ModuleId(modules.len() - 1))
    }

    fn session<'s, 'a: 's>(&'s self) -> Box<dyn Session<'a> + 's> {
        Box::new(EmulatedSession {
            emulator: self,
            machine: Machine::new(),
            outputs: Vec::new(),
            scratch: Vec::new(),
        })
    }
}

/// A machine of its own, so that sessions of several threads know nothing of each other.
struct EmulatedSession<'s, 'a> {
    emulator: &'s Emulator,
    machine: Machine,
    outputs: Vec<(DevicePtr, &'a mut [u8])>,
    scratch: Vec<DevicePtr>,
}

impl EmulatedSession<'_, '_> {
    /// The bytes in memory of the machine, as aligned as they are on the host; the allocation,
    /// and where in it they begin. What lies before them was never written.
    fn place(&mut self, bytes: &[u8], label: &str) -> Result<(DevicePtr, DevicePtr), String> {
        let skew = (bytes.as_ptr().addr() % ALIGNMENT) as u64;
        let error = |e: ptx_vm::Error| format!("`{label}`: {e}");
        let base = self.machine.alloc_named(skew + bytes.len() as u64, label).map_err(error)?;
        let start = base.offset(skew);
        self.machine.write(start, bytes).map_err(error)?;
        Ok((base, start))
    }

    /// Scratch memory that begins at an address.
    fn scratch_at(&self, address: u64) -> Result<DevicePtr, String> {
        let mut all = self.scratch.iter().copied();
        let found = all.find(|scratch| scratch.address() == address);
        found.ok_or_else(|| format!("no scratch memory begins at {address:#x}"))
    }

    /// Bytes that kernels may not write.
    fn place_input(&mut self, bytes: &[u8], label: &str) -> Result<u64, String> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let (base, start) = self.place(bytes, label)?;
        self.machine.protect(base).map_err(|e| e.to_string())?;
        Ok(start.address())
    }
}

impl<'a> Session<'a> for EmulatedSession<'_, 'a> {
    fn read(&mut self, bytes: &'a [u8], label: &str) -> Result<u64, String> {
        self.place_input(bytes, label)
    }

    fn keep(&mut self, bytes: Vec<u8>, label: &str) -> Result<u64, String> {
        self.place_input(&bytes, label)
    }

    fn write(&mut self, bytes: &'a mut [u8], label: &str) -> Result<u64, String> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let (_, start) = self.place(bytes, label)?;
        self.outputs.push((start, bytes));
        Ok(start.address())
    }

    fn scratch(&mut self, bytes: usize, label: &str) -> Result<u64, String> {
        let base = self.machine.alloc_named(bytes as u64, label).map_err(|e| e.to_string())?;
        self.scratch.push(base);
        Ok(base.address())
    }

    fn clear(&mut self, address: u64, bytes: usize) -> Result<(), String> {
        let zeros = vec![0; bytes];
        self.machine.write(self.scratch_at(address)?, &zeros).map_err(|e| e.to_string())
    }

    fn fetch(&mut self, address: u64, into: &mut [u8]) -> Result<(), String> {
        self.machine.read(self.scratch_at(address)?, into).map_err(|e| e.to_string())
    }

    fn launch(
        &mut self,
        module: ModuleId,
        kernel: &str,
        grid: Grid,
        parameter: &[u8],
    ) -> Result<(), String> {
        let modules = self.emulator.modules.read().unwrap_or_else(PoisonError::into_inner);
        let module = modules.get(module.0).cloned().ok_or("the module is of another GPU")?;
        drop(modules);
        let config = LaunchConfig::new(grid.blocks, grid.threads)
            .dynamic_shared(grid.shared_memory)
            .host_threads(self.emulator.threads);
        let launched = self.machine.launch(&module, kernel, &config, &[Arg::bytes(parameter)]);
        launched.map(drop).map_err(|e| e.to_string())
    }

    fn finish(mut self: Box<Self>) -> Result<(), String> {
        for (start, bytes) in &mut self.outputs {
            self.machine.read(*start, bytes).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}
