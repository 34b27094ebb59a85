//! One GPU: its compiler, its modules, its driver.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::cache::DiskCache;
use super::driver::{Driver, Grid, ModuleId, Session};
use super::nvrtc::{Nvrtc, Translation};
use crate::caps::Arch;
use crate::error::{Error, Result};
use crate::memory::Region;
use crate::registry::Launch;

/// What kernel sources can include.
const HEADERS: [(&str, &str); 15] = [
    ("blocks.cuh", include_str!("../../../kernels/include/blocks.cuh")),
    ("epilogue.cuh", include_str!("../../../kernels/include/epilogue.cuh")),
    ("index.cuh", include_str!("../../../kernels/include/index.cuh")),
    ("keys.cuh", include_str!("../../../kernels/include/keys.cuh")),
    ("load.cuh", include_str!("../../../kernels/include/load.cuh")),
    ("mma.cuh", include_str!("../../../kernels/include/mma.cuh")),
    ("numbers.cuh", include_str!("../../../kernels/include/numbers.cuh")),
    ("order.cuh", include_str!("../../../kernels/include/order.cuh")),
    ("ptx.cuh", include_str!("../../../kernels/include/ptx.cuh")),
    ("quantize.cuh", include_str!("../../../kernels/include/quantize.cuh")),
    ("rows.cuh", include_str!("../../../kernels/include/rows.cuh")),
    ("scales.cuh", include_str!("../../../kernels/include/scales.cuh")),
    ("tile.cuh", include_str!("../../../kernels/include/tile.cuh")),
    ("views.cuh", include_str!("../../../kernels/include/views.cuh")),
    ("weights.cuh", include_str!("../../../kernels/include/weights.cuh")),
];

/// A CUDA source, and the macros that make it the kernel that is needed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    /// The file's name in messages.
    pub name: &'static str,
    /// The source. It can include the files of `kernels/include`.
    pub source: &'static str,
    /// Macros and their values.
    pub defines: Vec<(&'static str, u32)>,
}

/// A GPU, real or emulated: compiles programs for it, once each, and runs them.
pub struct Gpu {
    arch: Arch,
    driver: Box<dyn Driver>,
    nvrtc: Arc<Nvrtc>,
    disk: DiskCache,
    modules: Mutex<HashMap<ProgramKey, Slot>>,
}

/// A program by the address of its source, which lives as long as the process.
type ProgramKey = (usize, Vec<(&'static str, u32)>);

/// A module once it is there; locked while it is compiled.
type Slot = Arc<Mutex<Option<ModuleId>>>;

impl Gpu {
    pub(super) fn new(arch: Arch, driver: Box<dyn Driver>) -> Result<Self> {
        let (nvrtc, disk) = (Nvrtc::get()?, DiskCache::of_environment());
        Ok(Gpu { arch, driver, nvrtc, disk, modules: Mutex::default() })
    }

    /// The architecture that kernels are compiled for.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The program, compiled and loaded: at its first use, or taken from the cache on disk.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the compiler's messages.
    pub fn module(&self, program: &Program) -> Result<ModuleId> {
        let key = (program.source.as_ptr().addr(), program.defines.clone());
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = modules.entry(key).or_default().clone();
        // Others can compile meanwhile.
        drop(modules);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = *slot {
            return Ok(module);
        }
        let error = |problem| Error::kernel(program.name, problem);
        let module = self.driver.load(&self.ptx(program)?).map_err(error)?;
        *slot = Some(module);
        Ok(module)
    }

    /// The PTX of a program.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the compiler's messages.
    pub fn ptx(&self, program: &Program) -> Result<String> {
        let mut options = vec![
            format!("--gpu-architecture={}", self.arch.name().replace("sm_", "compute_")),
            "--std=c++17".to_owned(),
            "-lineinfo".to_owned(),
        ];
        options.extend(program.defines.iter().map(|(name, value)| format!("-D{name}={value}")));
        let (major, minor) = self.nvrtc.version();
        let mut key = format!("nvrtc {major}.{minor} {}\n", options.join(" "));
        for (name, text) in HEADERS.into_iter().chain([(program.name, program.source)]) {
            key += &format!("--- {name}\n{text}");
        }
        let kept = self.disk.get(&key).and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some(ptx) = kept {
            return Ok(ptx);
        }
        tracing::debug!(program = program.name, arch = %self.arch, "compile");
        let translation = Translation {
            name: program.name,
            text: program.source,
            headers: &HEADERS,
            options: &options,
        };
        let compiled = self.nvrtc.compile(&translation);
        let ptx = compiled.map_err(|problem| Error::kernel(program.name, problem))?;
        self.disk.put(&key, ptx.as_bytes());
        Ok(ptx)
    }

    /// Begins to run `kernel` over the operands of a launch.
    pub fn call<'s, 'a: 's>(&'s self, kernel: &'s str, launch: &'s Launch<'a>) -> Call<'s, 'a> {
        Call { kernel, launch, session: self.driver.session() }
    }
}

/// Operands of one operation as kernels see them, and kernels running over them.
pub struct Call<'s, 'a> {
    kernel: &'s str,
    launch: &'s Launch<'a>,
    session: Box<dyn Session<'a> + 's>,
}

impl Call<'_, '_> {
    /// The address that kernels read a region at; 0 for an empty one.
    pub fn input(&mut self, region: &Region) -> Result<u64> {
        let bytes = self.launch.read(region)?;
        let address = self.session.read(bytes, region.buffer().label());
        address.map_err(|problem| Error::kernel(self.kernel, problem))
    }

    /// The address that kernels read values at that only this call knows; 0 for none.
    pub fn constants<T: bytemuck::NoUninit>(&mut self, values: &[T], label: &str) -> Result<u64> {
        // Words, so that they are as aligned as 64-bit numbers.
        let address = self.session.keep(bytemuck::cast_slice(values).to_vec(), label);
        address.map_err(|problem| Error::kernel(self.kernel, problem))
    }

    /// The address that kernels write a region at, once; 0 for an empty one.
    pub fn output(&mut self, region: &Region) -> Result<u64> {
        let bytes = self.launch.write(region)?;
        let address = self.session.write(bytes, region.buffer().label());
        address.map_err(|problem| Error::kernel(self.kernel, problem))
    }

    /// The address of memory that only the kernels of this call use, for what one leaves to the
    /// next; not written yet.
    pub fn scratch(&mut self, bytes: usize, label: &str) -> Result<u64> {
        let address = self.session.scratch(bytes, label);
        address.map_err(|problem| Error::kernel(self.kernel, problem))
    }

    /// The same, of zeros: for what kernels count up, or report.
    pub fn zeros(&mut self, bytes: usize, label: &str) -> Result<u64> {
        let address = self.scratch(bytes, label)?;
        let cleared = self.session.clear(address, bytes);
        cleared.map_err(|problem| Error::kernel(self.kernel, problem))?;
        Ok(address)
    }

    /// Waits for the kernels so far; the number that they left in scratch memory.
    pub fn fetch(&mut self, address: u64) -> Result<u64> {
        let mut bytes = [0; size_of::<u64>()];
        let fetched = self.session.fetch(address, &mut bytes);
        fetched.map_err(|problem| Error::kernel(self.kernel, problem))?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Runs an entry of a module whose one parameter is a struct, given by its bytes.
    ///
    /// # Errors
    /// [`Error::Kernel`] for a launch that the machine refuses, and for whatever the emulator
    /// finds wrong with the kernel.
    pub fn run(&mut self, module: ModuleId, entry: &str, grid: Grid, args: &[u8]) -> Result<()> {
        let launched = self.session.launch(module, entry, grid, args);
        launched.map_err(|problem| Error::kernel(self.kernel, problem))
    }

    /// Waits for the work: outputs are in their place then.
    pub fn finish(self) -> Result<()> {
        self.session.finish().map_err(|problem| Error::kernel(self.kernel, problem))
    }
}
