//! The public face: a machine with memory, modules, launches.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::error::{Error, Result};
use crate::exec::block::Block;
use crate::exec::image::Image;
use crate::exec::memory::DeviceMemory;
use crate::lower::ops::Function;
use crate::numeric::product::Arithmetic;
use crate::parse::ast::{Init, RawModule, VarSpace};
use crate::profile::Profile;
use crate::target::Target;
use crate::tensor_map::TensorMap;

/// The most threads of a block.
const MAX_THREADS: u64 = 1024;

/// Modules are told apart by number: a machine keeps the variables of each.
static NEXT_MODULE: AtomicU64 = AtomicU64::new(0);

/// Compiled PTX: parsed, checked against its target, and lowered.
pub struct Module {
    id: u64,
    text: String,
    raw: RawModule,
    target: Target,
    functions: Vec<Function>,
    files: HashMap<u32, String>,
}

impl Module {
    /// Reads a module's PTX.
    ///
    /// # Errors
    /// [`Error::Parse`] for text that is not PTX, [`Error::Unsupported`] for an instruction
    /// that is not executed here, [`Error::IllegalForTarget`] for one that the declared
    /// target does not have: each with its line. Nothing is guessed and nothing is left for
    /// later: a module that loads has only instructions that run.
    pub fn from_ptx(ptx: &str) -> Result<Module> {
        let raw = crate::parse::parse_module(ptx)?;
        let (target, functions) = crate::lower::lower_module(&raw, ptx)?;
        let files = raw.files.iter().cloned().collect();
        let id = NEXT_MODULE.fetch_add(1, Relaxed);
        Ok(Module { id, text: ptx.to_string(), raw, target, functions, files })
    }

    /// The target that the module declares.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The names of the module's kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.functions.iter().filter(|f| f.entry).map(|f| f.name.as_str())
    }

    /// Names and sizes in bytes of a kernel's parameters; `None` without such a kernel.
    pub fn parameters(&self, kernel: &str) -> Option<Vec<(&str, u32)>> {
        let f = self.functions.iter().find(|f| f.entry && f.name == kernel)?;
        Some(f.params.iter().map(|p| (p.name.as_str(), p.bytes)).collect())
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kernels: Vec<_> = self.kernels().collect();
        f.debug_struct("Module").field("target", &self.target).field("kernels", &kernels).finish()
    }
}

/// An address in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DevicePtr(u64);

impl DevicePtr {
    /// The address.
    pub fn address(self) -> u64 {
        self.0
    }

    /// An address some bytes further.
    pub fn offset(self, bytes: u64) -> DevicePtr {
        DevicePtr(self.0.wrapping_add(bytes))
    }
}

/// A kernel argument: the bytes of one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg(Vec<u8>);

macro_rules! arg_from {
    ($($t:ty),*) => {$(
        impl From<$t> for Arg {
            fn from(v: $t) -> Arg {
                Arg(v.to_le_bytes().to_vec())
            }
        }
    )*};
}

arg_from!(u8, u16, u32, u64, i8, i16, i32, i64, f32, f64);

impl From<DevicePtr> for Arg {
    fn from(p: DevicePtr) -> Arg {
        p.0.into()
    }
}

impl From<&TensorMap> for Arg {
    fn from(m: &TensorMap) -> Arg {
        Arg(m.encode().to_vec())
    }
}

impl Arg {
    /// A parameter passed by value, as its bytes.
    pub fn bytes(bytes: &[u8]) -> Arg {
        Arg(bytes.to_vec())
    }
}

/// How to launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Whether reads, races and the like are checked.
    pub checks: bool,
    /// Whether to count what every instruction does.
    pub profile: bool,
    /// Host threads that run blocks; 0 takes as many as there are processors.
    pub host_threads: usize,
    /// Warp instructions that one block may run before it counts as endless.
    pub max_instructions: u64,
}

impl LaunchConfig {
    /// A launch with checks on, no profile, no dynamic shared memory, as many host threads as
    /// there are processors, and a limit of 10^10 warp instructions a block.
    pub fn new(grid: impl Into<Dim>, block: impl Into<Dim>) -> LaunchConfig {
        LaunchConfig {
            grid: grid.into().0,
            block: block.into().0,
            dynamic_shared: 0,
            checks: true,
            profile: false,
            host_threads: 0,
            max_instructions: 10_000_000_000,
        }
    }

    /// Sets the bytes of dynamic shared memory.
    #[must_use]
    pub fn dynamic_shared(mut self, bytes: u32) -> LaunchConfig {
        self.dynamic_shared = bytes;
        self
    }

    /// Sets whether the checker runs.
    #[must_use]
    pub fn checks(mut self, on: bool) -> LaunchConfig {
        self.checks = on;
        self
    }

    /// Sets whether the launch is profiled.
    #[must_use]
    pub fn profile(mut self, on: bool) -> LaunchConfig {
        self.profile = on;
        self
    }

    /// Sets the number of host threads.
    #[must_use]
    pub fn host_threads(mut self, n: usize) -> LaunchConfig {
        self.host_threads = n;
        self
    }

    /// Sets how many warp instructions one block may run.
    #[must_use]
    pub fn max_instructions(mut self, n: u64) -> LaunchConfig {
        self.max_instructions = n;
        self
    }
}

/// Up to three sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dim([u32; 3]);

impl From<u32> for Dim {
    fn from(x: u32) -> Dim {
        Dim([x, 1, 1])
    }
}

impl From<(u32, u32)> for Dim {
    fn from((x, y): (u32, u32)) -> Dim {
        Dim([x, y, 1])
    }
}

impl From<(u32, u32, u32)> for Dim {
    fn from((x, y, z): (u32, u32, u32)) -> Dim {
        Dim([x, y, z])
    }
}

/// What a launch did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Instructions run by warps.
    pub warp_instructions: u64,
    /// The same, times the lanes that took part.
    pub lane_instructions: u64,
    /// What the kernel printed, block by block in the order in which they ended.
    pub output: String,
    /// Present if asked for.
    pub profile: Option<Profile>,
}

/// A device: memory, and kernels to run on it.
pub struct Machine {
    memory: DeviceMemory,
    symbols: HashMap<u64, HashMap<String, u64>>,
    arithmetic: Arithmetic,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine::new()
    }
}

impl Machine {
    /// An empty device.
    pub fn new() -> Machine {
        Machine {
            memory: DeviceMemory::new(),
            symbols: HashMap::new(),
            arithmetic: Arithmetic::default(),
        }
    }

    /// Sets the rounding of matrix instructions.
    pub fn set_arithmetic(&mut self, arithmetic: Arithmetic) {
        self.arithmetic = arithmetic;
    }

    /// Memory that counts as never written.
    ///
    /// # Errors
    /// A size of 0 or over 2^40, or more than the host has.
    pub fn alloc(&mut self, bytes: u64) -> Result<DevicePtr> {
        self.alloc_named(bytes, "an allocation")
    }

    /// Memory with a name that reports show.
    ///
    /// # Errors
    /// A size of 0 or over 2^40, or more than the host has.
    pub fn alloc_named(&mut self, bytes: u64, name: &str) -> Result<DevicePtr> {
        if bytes == 0 || bytes > 1 << 40 {
            return Err(Error::Launch(format!("an allocation of {bytes} bytes is not possible")));
        }
        self.allocate(bytes, 1, name).map(DevicePtr)
    }

    fn allocate(&mut self, bytes: u64, align: u64, name: &str) -> Result<u64> {
        let refused =
            || Error::Launch(format!("the host has no memory for {bytes} bytes of {name}"));
        self.memory.allocate(bytes, align, name).ok_or_else(refused)
    }

    /// Memory with these contents.
    ///
    /// # Errors
    /// As [`Self::alloc`].
    pub fn upload(&mut self, data: &[u8]) -> Result<DevicePtr> {
        let p = self.alloc(data.len() as u64)?;
        self.write(p, data)?;
        Ok(p)
    }

    /// Gives memory back; kernels that still use it are reported.
    ///
    /// # Errors
    /// An address that is not the start of an allocation in use.
    pub fn free(&mut self, p: DevicePtr) -> Result<()> {
        if self.memory.free(p.0) {
            return Ok(());
        }
        Err(Error::Launch(format!("{:#x} is not the start of an allocation in use", p.0)))
    }

    /// Forbids kernels to write an allocation; the host still may.
    ///
    /// # Errors
    /// An address that is not the start of an allocation in use.
    pub fn protect(&mut self, p: DevicePtr) -> Result<()> {
        if self.memory.protect(p.0) {
            return Ok(());
        }
        Err(Error::Launch(format!("{:#x} is not the start of an allocation in use", p.0)))
    }

    /// Copies bytes to the device.
    ///
    /// # Errors
    /// A range outside an allocation.
    pub fn write(&self, p: DevicePtr, data: &[u8]) -> Result<()> {
        self.memory.host_write(p.0, data).map_err(|e| Error::Launch(e.to_string()))
    }

    /// Copies bytes from the device. Bytes that nobody wrote are zero.
    ///
    /// # Errors
    /// A range outside an allocation.
    pub fn read(&self, p: DevicePtr, out: &mut [u8]) -> Result<()> {
        self.memory.host_read(p.0, out).map_err(|e| Error::Launch(e.to_string()))
    }

    /// Copies bytes from the device, all of which must have been written.
    ///
    /// # Errors
    /// A range outside an allocation, or one with bytes that nobody wrote.
    pub fn read_written(&self, p: DevicePtr, out: &mut [u8]) -> Result<()> {
        let bytes = u32::try_from(out.len())
            .map_err(|_| Error::Launch("over 4 GiB are read in one call".into()))?;
        match self.memory.fully_written(p.0, bytes) {
            Ok(true) => self.read(p, out),
            Ok(false) => {
                Err(Error::Launch(format!("the {bytes} bytes at {:#x} were not all written", p.0)))
            }
            Err(e) => Err(Error::Launch(e.to_string())),
        }
    }

    /// The address of a module's variable, which gets its memory and initial value now if no
    /// launch gave it before.
    ///
    /// # Errors
    /// A name that is no variable of the module, or no memory for its variables.
    pub fn symbol(&mut self, module: &Module, name: &str) -> Result<DevicePtr> {
        self.load(module)?;
        let found = self.symbols.get(&module.id).and_then(|s| s.get(name));
        found
            .map(|a| DevicePtr(*a))
            .ok_or_else(|| Error::Launch(format!("the module has no variable `{name}`")))
    }

    /// Gives a module's variables memory.
    fn load(&mut self, module: &Module) -> Result<()> {
        if self.symbols.contains_key(&module.id) {
            return Ok(());
        }
        let mut symbols = HashMap::new();
        let own = |v: &&crate::parse::ast::Variable| {
            matches!(v.space, VarSpace::Global | VarSpace::Const) && v.bytes > 0
        };
        for v in module.raw.variables.iter().filter(own) {
            let at = self.allocate(v.bytes, u64::from(v.align), &v.name)?;
            symbols.insert(v.name.clone(), at);
        }
        for v in module.raw.variables.iter().filter(own) {
            let base = symbols.get(&v.name).copied().unwrap_or(0);
            let element = v.ty.bytes() as usize;
            let mut data = Vec::new();
            for init in &v.init {
                let value = match init {
                    Init::Bits(b) => *b,
                    Init::Address { symbol, offset, .. } => match symbols.get(symbol) {
                        Some(a) => a.wrapping_add_signed(*offset),
                        None => {
                            return Err(Error::Parse {
                                line: v.line,
                                message: format!(
                                    "the initial value of `{}` names `{symbol}`, which has no address",
                                    v.name
                                ),
                            });
                        }
                    },
                };
                data.extend_from_slice(value.to_le_bytes().get(..element).unwrap_or(&[]));
            }
            // Module variables without a value start as zero.
            data.resize(v.bytes as usize, 0);
            self.memory.host_write(base, &data).map_err(|e| Error::Launch(e.to_string()))?;
            if v.space == VarSpace::Const {
                self.memory.protect(base);
            }
        }
        self.symbols.insert(module.id, symbols);
        Ok(())
    }

    /// Runs a kernel to its end.
    ///
    /// # Errors
    /// [`Error::Launch`] for a launch that the target would refuse, [`Error::Fault`] for
    /// what the kernel does wrong. After a fault, memory holds what was written until then.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        config: &LaunchConfig,
        args: &[Arg],
    ) -> Result<Report> {
        let entry = module.functions.iter().position(|f| f.entry && f.name == kernel);
        let Some(entry) = entry else {
            let names: Vec<_> = module.kernels().collect();
            return Err(Error::Launch(format!(
                "the module has no kernel `{kernel}`; it has {}",
                names.join(", ")
            )));
        };
        let f = &module.functions[entry];
        check_config(f, config, module.target)?;
        let params = pack(f, args)?;
        self.load(module)?;
        let empty = HashMap::new();
        let symbols = self.symbols.get(&module.id).unwrap_or(&empty);
        let image = Image::new(
            &module.functions,
            entry,
            symbols,
            params,
            &self.memory,
            config.clone(),
            module.target,
            &module.files,
            &module.text,
            self.arithmetic,
        )?;
        run_grid(&image)
    }
}

fn run_grid(image: &Image<'_>) -> Result<Report> {
    let grid = image.config.grid;
    let blocks: u64 = grid.iter().map(|g| u64::from(*g)).product();
    let wanted = match image.config.host_threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    let threads = wanted.min(usize::try_from(blocks).unwrap_or(usize::MAX)).max(1);
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    // The fault of the lowest block, so that reports do not depend on timing more than
    // they must.
    let result: Mutex<(Report, Option<(u64, Error)>)> = Mutex::new((Report::default(), None));
    let work = || {
        while !stop.load(Relaxed) {
            let i = next.fetch_add(1, Relaxed);
            if i >= blocks {
                break;
            }
            let (x, y) = (u64::from(grid[0]), u64::from(grid[1]));
            let at = [(i % x) as u32, (i / x % y) as u32, (i / x / y) as u32];
            let outcome = Block::new(image, at).run();
            let mut guard = result.lock().unwrap_or_else(|e| e.into_inner());
            match outcome {
                Ok(env) => {
                    let report = &mut guard.0;
                    report.warp_instructions += env.executed;
                    report.lane_instructions += env.lanes;
                    report.output += &String::from_utf8_lossy(&env.output);
                    if let Some(p) = &env.profile {
                        report.profile.get_or_insert_default().add(p);
                    }
                }
                Err(e) => {
                    stop.store(true, Relaxed);
                    if guard.1.as_ref().is_none_or(|(b, _)| i < *b) {
                        guard.1 = Some((i, e));
                    }
                }
            }
        }
    };
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(work);
            }
        });
    }
    let (mut report, fault) = result.into_inner().unwrap_or_else(|e| e.into_inner());
    if let Some(p) = &mut report.profile {
        p.name(image.text);
    }
    match fault {
        Some((_, e)) => Err(e),
        None => Ok(report),
    }
}

fn check_config(f: &Function, config: &LaunchConfig, target: Target) -> Result<()> {
    let refuse = |m: String| Err(Error::Launch(format!("kernel `{}`: {m}", f.name)));
    let threads: u64 = config.block.iter().map(|b| u64::from(*b)).product();
    let [x, y, z] = config.block;
    if threads == 0 || threads > MAX_THREADS || x > 1024 || y > 1024 || z > 64 {
        return refuse(format!(
            "a block of {x}×{y}×{z} threads; 1 to {MAX_THREADS} in all and at most 1024×1024×64 are possible"
        ));
    }
    let [gx, gy, gz] = config.grid;
    if gx == 0 || gy == 0 || gz == 0 || gx > i32::MAX as u32 || gy > 65_535 || gz > 65_535 {
        return refuse(format!(
            "a grid of {gx}×{gy}×{gz} blocks; at most 2^31-1 × 65535 × 65535 are possible"
        ));
    }
    if let Some(r) = f.tuning.req_ntid
        && r != config.block
    {
        return refuse(format!("a block of {x}×{y}×{z} threads, the kernel requires {r:?}"));
    }
    if let Some(m) = f.tuning.max_ntid {
        let most: u64 = m.iter().map(|b| u64::from(*b)).product();
        if threads > most {
            return refuse(format!("{threads} threads a block, the kernel is compiled for {most}"));
        }
    }
    if let Some(r) = f.tuning.max_nreg
        && u64::from(r) * threads > u64::from(Target::REGISTERS)
    {
        return refuse(format!(
            "{threads} threads of {r} registers do not fit in the {} of {target}",
            Target::REGISTERS
        ));
    }
    if f.tuning.req_cluster.is_some_and(|c| c != [1, 1, 1]) {
        return refuse("clusters of more than one block are not supported".into());
    }
    Ok(())
}

fn pack(f: &Function, args: &[Arg]) -> Result<Vec<u8>> {
    if f.params.len() != args.len() {
        return Err(Error::Launch(format!(
            "kernel `{}` takes {} arguments, {} are given",
            f.name,
            f.params.len(),
            args.len()
        )));
    }
    let mut out = vec![0u8; f.param_bytes as usize];
    for (i, (p, a)) in f.params.iter().zip(args).enumerate() {
        if a.0.len() != p.bytes as usize {
            return Err(Error::Launch(format!(
                "kernel `{}`: argument {i} (`{}`) has {} bytes, {} are given",
                f.name,
                p.name,
                p.bytes,
                a.0.len()
            )));
        }
        out[p.offset as usize..][..a.0.len()].copy_from_slice(&a.0);
    }
    Ok(out)
}
