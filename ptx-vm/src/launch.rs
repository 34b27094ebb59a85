//! What a launch is given, and what it reports.

use crate::error::{Error, Result};
use crate::lower::function::Function;
use crate::profile::Profile;
use crate::target::Target;
use crate::tensor_map::TensorMap;

/// The most threads of a block.
const MAX_THREADS: u64 = 1024;

/// An address in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DevicePtr(pub(crate) u64);

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

/// Refuses what the target would.
pub(crate) fn check_config(f: &Function, config: &LaunchConfig, target: Target) -> Result<()> {
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

/// The bytes of a kernel's parameters.
pub(crate) fn pack(f: &Function, args: &[Arg]) -> Result<Vec<u8>> {
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
