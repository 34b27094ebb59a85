//! One GPU: its compiler, its modules, its streams.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::cache::DiskCache;
use super::driver::{Driver, Grid, Image, ModuleId, Session};
use super::failure::{Failure, Problem};
use super::lock::lock;
use super::nvrtc::{Nvrtc, Translated, Translation};
use super::nvtx::Range;
use super::stream::{GpuStream, Streams};
use crate::caps::Arch;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::memory::{Access, Region};
use crate::registry::{Accelerator, Launch, Stream};

/// What kernel sources can include.
const HEADERS: [(&str, &str); 29] = [
    ("blocks.cuh", include_str!("../../../kernels/include/blocks.cuh")),
    ("epilogue.cuh", include_str!("../../../kernels/include/epilogue.cuh")),
    ("fold.cuh", include_str!("../../../kernels/include/fold.cuh")),
    ("index.cuh", include_str!("../../../kernels/include/index.cuh")),
    ("join.cuh", include_str!("../../../kernels/include/join.cuh")),
    ("key_codes.cuh", include_str!("../../../kernels/include/key_codes.cuh")),
    ("key_order.cuh", include_str!("../../../kernels/include/key_order.cuh")),
    ("key_runs.cuh", include_str!("../../../kernels/include/key_runs.cuh")),
    ("keys.cuh", include_str!("../../../kernels/include/keys.cuh")),
    ("load.cuh", include_str!("../../../kernels/include/load.cuh")),
    ("matrix.cuh", include_str!("../../../kernels/include/matrix.cuh")),
    ("mma.cuh", include_str!("../../../kernels/include/mma.cuh")),
    ("mxfp8.cuh", include_str!("../../../kernels/include/mxfp8.cuh")),
    ("numbers.cuh", include_str!("../../../kernels/include/numbers.cuh")),
    ("nvfp4.cuh", include_str!("../../../kernels/include/nvfp4.cuh")),
    ("online.cuh", include_str!("../../../kernels/include/online.cuh")),
    ("order.cuh", include_str!("../../../kernels/include/order.cuh")),
    ("ptx.cuh", include_str!("../../../kernels/include/ptx.cuh")),
    ("quantize.cuh", include_str!("../../../kernels/include/quantize.cuh")),
    ("queries.cuh", include_str!("../../../kernels/include/queries.cuh")),
    ("row.cuh", include_str!("../../../kernels/include/row.cuh")),
    ("rows.cuh", include_str!("../../../kernels/include/rows.cuh")),
    ("scales.cuh", include_str!("../../../kernels/include/scales.cuh")),
    ("shares.cuh", include_str!("../../../kernels/include/shares.cuh")),
    ("tile.cuh", include_str!("../../../kernels/include/tile.cuh")),
    ("tiles.cuh", include_str!("../../../kernels/include/tiles.cuh")),
    ("values.cuh", include_str!("../../../kernels/include/values.cuh")),
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

/// What the compiler makes of a program.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Instructions of a virtual machine, as text.
    pub ptx: String,
    /// Machine code.
    pub cubin: Vec<u8>,
    /// Warnings, and what the assembler says of each kernel: its registers, and how many bytes of
    /// them are spilled to memory.
    pub log: String,
}

/// A GPU, real or emulated: compiles programs for it, once each, and runs them.
pub struct Gpu {
    arch: Arch,
    streams: Arc<Streams>,
    /// For launches that come without a stream of this GPU.
    default: OnceLock<Arc<GpuStream>>,
    nvrtc: Arc<Nvrtc>,
    disk: DiskCache,
    modules: Mutex<HashMap<ProgramKey, Slot>>,
    /// Whether the driver refused machine code, and took PTX.
    wants_ptx: AtomicBool,
}

/// A program by the address of its source, which lives as long as the process.
pub(super) type ProgramKey = (usize, Vec<(&'static str, u32)>);

impl Program {
    pub(super) fn key(&self) -> ProgramKey {
        (self.source.as_ptr().addr(), self.defines.clone())
    }
}

/// A module once it is there; locked while it is compiled.
type Slot = Arc<Mutex<Option<ModuleId>>>;

impl Gpu {
    pub(super) fn new(arch: Arch, driver: Arc<dyn Driver>) -> Result<Self> {
        let (nvrtc, disk) = (Nvrtc::get()?, DiskCache::of_environment());
        let (streams, default) = (Streams::new(driver), OnceLock::new());
        let (modules, wants_ptx) = (Mutex::default(), AtomicBool::new(false));
        Ok(Gpu { arch, streams, default, nvrtc, disk, modules, wants_ptx })
    }

    /// The architecture that kernels are compiled for.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    pub(super) fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// The program, compiled and loaded: at its first use, or taken from the cache on disk.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the compiler's messages.
    pub fn module(&self, program: &Program) -> Result<ModuleId> {
        let mut modules = lock(&self.modules);
        let slot = modules.entry(program.key()).or_default().clone();
        // Others can compile meanwhile.
        drop(modules);
        let mut slot = lock(&slot);
        if let Some(module) = *slot {
            return Ok(module);
        }
        let module = self.load(program)?;
        *slot = Some(module);
        Ok(module)
    }

    fn load(&self, program: &Program) -> Result<ModuleId> {
        let driver = self.streams.driver();
        let load = |image| self.compiled(program, image).map(|code| driver.load(&code));
        let error = |problem| Error::kernel(program.name, problem);
        let Image::Cubin = driver.image() else { return load(Image::Ptx)?.map_err(error) };
        let mut refused = String::new();
        if !self.wants_ptx.load(Ordering::Relaxed) {
            match load(Image::Cubin)? {
                Ok(module) => return Ok(module),
                Err(problem) => refused = format!("{problem}; PTX: "),
            }
        }
        // A driver that has no use for the compiler's machine code has a compiler of its own.
        let module = load(Image::Ptx)?.map_err(|problem| error(format!("{refused}{problem}")))?;
        self.wants_ptx.store(true, Ordering::Relaxed);
        Ok(module)
    }

    /// Compiles and loads programs ahead of their first use, as many at once as there are
    /// processors.
    ///
    /// # Errors
    /// The first of those of [`Gpu::module`].
    pub fn prepare(&self, programs: &[Program]) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let next = AtomicUsize::new(0);
        let work = || {
            let next = || programs.get(next.fetch_add(1, Ordering::Relaxed));
            std::iter::from_fn(next).try_for_each(|program| self.module(program).map(drop))
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..threads.min(programs.len())).map(|_| scope.spawn(work)).collect();
            let panicked = || Err(Error::device("a thread that compiled kernels panicked"));
            let results = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| panicked()));
            // All threads are waited for before the first error counts.
            results.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// What the compiler makes of a program, afresh: nothing is taken from the cache on disk, and
    /// nothing kept there.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the compiler's messages.
    pub fn compile(&self, program: &Program) -> Result<Compiled> {
        let mut options = self.options(program, self.arch.name());
        // To tell of registers.
        options.push("--ptxas-options=-v".to_owned());
        let compiled = self.translate(program, &options, |translated| {
            let ptx = String::from_utf8(translated.image(Image::Ptx)?);
            let ptx = ptx.map_err(|error| error.to_string())?;
            Ok(Compiled { ptx, cubin: translated.image(Image::Cubin)?, log: translated.log()? })
        });
        compiled.map_err(|problem| Error::kernel(program.name, problem))
    }

    fn compiled(&self, program: &Program, image: Image) -> Result<Vec<u8>> {
        let name = self.arch.name();
        let target = match image {
            Image::Ptx => name.replace("sm_", "compute_"),
            Image::Cubin => name.to_owned(),
        };
        let options = self.options(program, &target);
        let (major, minor) = self.nvrtc.version();
        let mut key = format!("nvrtc {major}.{minor} {image:?} {}\n", options.join(" "));
        for (name, text) in HEADERS.into_iter().chain([(program.name, program.source)]) {
            key += &format!("--- {name}\n{text}");
        }
        if let Some(kept) = self.disk.get(&key) {
            return Ok(kept);
        }
        tracing::debug!(program = program.name, %target, "compile");
        let code = self.translate(program, &options, |translated| translated.image(image));
        let code = code.map_err(|problem| Error::kernel(program.name, problem))?;
        self.disk.put(&key, &code);
        Ok(code)
    }

    fn options(&self, program: &Program, target: &str) -> Vec<String> {
        let macros = program.defines.iter().map(|(name, value)| format!("-D{name}={value}"));
        [format!("--gpu-architecture={target}"), "--std=c++17".into(), "-lineinfo".into()]
            .into_iter()
            .chain(macros)
            .collect()
    }

    fn translate<T>(
        &self,
        program: &Program,
        options: &[String],
        take: impl FnOnce(Translated<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        let Program { name, source: text, .. } = *program;
        take(self.nvrtc.compile(&Translation { name, text, headers: &HEADERS, options })?)
    }

    /// Begins to run `kernel` over the operands of a launch.
    pub fn call<'s, 'a: 's>(&'s self, kernel: &'s str, launch: &'s Launch<'a>) -> Call<'s, 'a> {
        Call { kernel, launch, gpu: self, open: None }
    }

    /// The stream of a launch, or one of this GPU's own where the launch is of another device.
    fn stream_of<'s>(&'s self, launch: &'s Launch<'_>) -> Result<&'s GpuStream> {
        if let Some(own) = launch.stream().and_then(|stream| self.streams.own(&**stream)) {
            return Ok(own);
        }
        if launch.locks().are_recorded() {
            return Err(Error::device("the kernel is for another device than that which records"));
        }
        if let Some(stream) = self.default.get() {
            return Ok(stream);
        }
        let stream = self.streams.open()?;
        Ok(self.default.get_or_init(|| stream))
    }
}

impl Device {
    /// The GPU, real or emulated, that this device is: [`Kernel`]s of your own compile their programs for
    /// it and run them in its streams, beside those of the crate. `None` for a device that is no GPU.
    ///
    /// `examples/custom_gpu_kernel.rs` shows one from start to finish.
    ///
    /// ```
    /// # use ferrocerium::{Device, caps::Arch};
    /// assert!(Device::cpu().gpu().is_none());
    /// # #[cfg(feature = "emulator")]
    /// if let Ok(device) = Device::emulated(Arch::SM121A) {
    ///     assert_eq!(device.gpu().map(|gpu| gpu.arch()), Some(Arch::SM121A));
    /// }
    /// ```
    ///
    /// [`Kernel`]: crate::registry::Kernel
    pub fn gpu(&self) -> Option<Arc<Gpu>> {
        let accelerator: Arc<dyn Any + Send + Sync> = self.accelerator()?.clone();
        accelerator.downcast().ok()
    }
}

impl Accelerator for Gpu {
    fn open_stream(&self) -> Result<Arc<dyn Stream>> {
        Ok(self.streams.open()?)
    }

    fn prepare(&self, looked: &Arc<dyn Stream>) -> Result<()> {
        let own = self.streams.own(&**looked);
        let own = own.ok_or_else(|| Error::device("prepare: the stream is of another device"))?;
        Gpu::prepare(self, &own.looked())
    }

    fn synchronize(&self) -> Result<()> {
        self.streams.synchronize()
    }
}

/// Operands of one operation as kernels see them, and kernels running over them.
pub struct Call<'s, 'a> {
    kernel: &'s str,
    launch: &'s Launch<'a>,
    gpu: &'s Gpu,
    open: Option<Open<'s>>,
}

/// Work that was begun.
struct Open<'s> {
    stream: &'s GpuStream,
    session: Box<dyn Session + 's>,
    launched: bool,
}

impl<'s> Call<'s, '_> {
    fn open(&mut self) -> Result<&mut Open<'s>> {
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let stream = self.gpu.stream_of(self.launch)?;
                let session = stream.session(self.launch.locks());
                let session = session.map_err(|problem| Error::kernel(self.kernel, problem))?;
                Open { stream, session, launched: false }
            }
        };
        Ok(self.open.insert(open))
    }

    fn bind(&mut self, region: &Region, access: Access) -> Result<u64> {
        let (kernel, launch) = (self.kernel, self.launch);
        let locks = launch.locks();
        let found = locks.access(region.buffer()).filter(|found| *found == access);
        let used = found.and_then(|_| locks.device_use(region.buffer()));
        let used = used.ok_or_else(|| launch.refuse(region, access))?;
        let address = self.open()?.session.bind(used, region.offset(), region.len());
        address.map_err(|problem| Error::kernel(kernel, problem))
    }

    /// The address that kernels read a region at; 0 for an empty one.
    pub fn input(&mut self, region: &Region) -> Result<u64> {
        self.bind(region, Access::Read)
    }

    /// The address that kernels write a region at, once; 0 for an empty one.
    pub fn output(&mut self, region: &Region) -> Result<u64> {
        self.bind(region, Access::Write)
    }

    /// The address that kernels read values at that only this call knows; 0 for none.
    pub fn constants<T: bytemuck::NoUninit>(&mut self, values: &[T], label: &str) -> Result<u64> {
        let kernel = self.kernel;
        // Words, so that they are as aligned as 64-bit numbers.
        let address = self.open()?.session.keep(bytemuck::cast_slice(values).to_vec(), label);
        address.map_err(|problem| Error::kernel(kernel, problem))
    }

    /// The address of memory that only the kernels of this call use, for what one leaves to the
    /// next; not written yet. 0 for none.
    pub fn scratch(&mut self, bytes: usize, label: &str) -> Result<u64> {
        let kernel = self.kernel;
        let address = self.open()?.session.scratch(bytes, label);
        address.map_err(|problem| Error::kernel(kernel, problem))
    }

    /// The same, of zeros: for what kernels count up, or report.
    pub fn zeros(&mut self, bytes: usize, label: &str) -> Result<u64> {
        let kernel = self.kernel;
        let address = self.scratch(bytes, label)?;
        let cleared = self.open()?.session.clear(address, bytes);
        cleared.map_err(|problem| Error::kernel(kernel, problem))?;
        Ok(address)
    }

    /// The address of a 64-bit word, zero when the kernels of this call begin, in which they report
    /// what is wrong with the data. Another number there when they have ended is the error of
    /// whoever waits for what they write: `problem` of that number.
    pub fn watch(&mut self, problem: impl Fn(u64) -> Error + Send + Sync + 'static) -> Result<u64> {
        let kernel = self.kernel;
        let problem: Problem = Arc::new(move |word| Failure::from(problem(word)));
        let address = self.open()?.session.watch(problem);
        address.map_err(|problem| Error::kernel(kernel, problem))
    }

    /// Runs an entry of a program whose one parameter is a struct, given by its bytes, after
    /// conflicting work and what this call ran before. It returns when the kernel is enqueued; the
    /// first time a program is used, it is compiled before.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the compiler's messages, and for a launch that the machine refuses.
    /// What goes wrong while it runs, and whatever the emulator finds wrong with the kernel, is the
    /// error of whoever waits for what it writes.
    pub fn run(&mut self, program: &Program, entry: &str, grid: Grid, args: &[u8]) -> Result<()> {
        let (kernel, gpu) = (self.kernel, self.gpu);
        let open = self.open()?;
        if open.stream.looks_at(program) {
            return Ok(());
        }
        let module = gpu.module(program)?;
        let Grid { blocks, threads, .. } = grid;
        let _range = Range::begin(|| format!("{kernel}: {entry}"));
        let _span = tracing::trace_span!("launch", kernel, entry, blocks, threads).entered();
        let launched = open.session.launch(module, entry, grid, args);
        open.launched = true;
        launched.map_err(|problem| Error::kernel(kernel, problem))
    }

    /// Ends the call: outputs are in their place when the work is done, for which all wait who
    /// read them.
    pub fn finish(mut self) -> Result<()> {
        self.submit()
    }

    fn submit(&mut self) -> Result<()> {
        let Some(open) = self.open.take().filter(|open| open.launched) else { return Ok(()) };
        let submitted = open.session.submit(self.kernel);
        let work = submitted.map_err(|problem| Error::kernel(self.kernel, problem))?;
        if let Some(work) = work {
            open.stream.keep(&work, self.launch.locks(), None);
        }
        Ok(())
    }
}

impl Drop for Call<'_, '_> {
    /// What was launched before an error runs nevertheless, and needs its operands.
    fn drop(&mut self) {
        if let Err(error) = self.submit() {
            tracing::error!(%error, kernel = self.kernel, "launched work is not waited for");
        }
    }
}
