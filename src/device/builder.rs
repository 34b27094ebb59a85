//! What a device is made with.

use crate::caps::{Isa, MemoryKind};
#[cfg(any(feature = "cpu", feature = "cuda", feature = "emulator"))]
use crate::error::{Error, Result};
use crate::memory::{Pool, SystemMemory};
use crate::registry::{KERNEL_VARIABLE, Numerics, Request};

/// The environment variable that holds CPU devices to some instruction-set levels: `portable` for
/// none, or a comma-separated list of names. [`DeviceBuilder::isa`] goes before it.
///
/// | name | instructions | what uses them |
/// |---|---|---|
/// | `avx2` | AVX2, FMA, F16C | everything |
/// | `avx512` | AVX-512 F, BW, DQ, VL, and those of `avx2` | everything |
/// | `avx512vnni` | AVX-512 VNNI and VBMI, and those of `avx512` | products of FP4 in integers, unpacking FP8 |
/// | `neon` | Advanced SIMD, which every 64-bit Arm processor has | everything |
/// | `dotprod` | `FEAT_DotProd` | products of FP4 in integers |
/// | `i8mm` | `FEAT_I8MM` | the same, two rows with two rows |
///
/// All levels with fused multiply-add, all of Arm among them, give the same bits.
///
/// Of Arm's other extensions none is used. `FEAT_BF16`: `BFDOT` and `BFMMLA` round in a way of their
/// own, and would give other bits; `BFMLALB` and `BFMLALT` are fused multiply-adds like any other
/// and save instructions that widen, but where those count, with few rows, the loops without them
/// already take more bytes a cycle than memory sends. SVE2: the vectors of Cortex-X925, Cortex-A725
/// and Neoverse V2 are 128 bits wide, as those of Advanced SIMD, and go through the same units at
/// the same rate.
pub const ISA_VARIABLE: &str = "FERROCERIUM_ISA";

/// The levels that a value of [`ISA_VARIABLE`] names.
#[cfg(feature = "cpu")]
fn parse_isa(text: &str) -> Result<Vec<Isa>> {
    let names = text.split(',').map(str::trim).filter(|name| !matches!(*name, "" | "portable"));
    let level = |name| match name {
        "avx2" => Ok(Isa::Avx2Fma),
        "avx512" => Ok(Isa::Avx512),
        "avx512vnni" => Ok(Isa::Avx512Vnni),
        "neon" => Ok(Isa::Neon),
        "dotprod" => Ok(Isa::NeonDot),
        "i8mm" => Ok(Isa::NeonI8mm),
        other => Err(Error::value(
            "device",
            ISA_VARIABLE,
            format!(
                "`{other}`; portable, avx2, avx512, avx512vnni, neon, dotprod and i8mm are known"
            ),
        )),
    };
    names.map(level).collect()
}

/// Limits and threads of a device; ends in the constructor of a backend (`.cpu()`,
/// `.reference()`).
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct DeviceBuilder {
    memory_limit: Option<u64>,
    memory_reserve: Option<u64>,
    threads: Option<usize>,
    strict: bool,
    numerics: Numerics,
    isa: Option<Vec<Isa>>,
    memory: Option<MemoryKind>,
}

impl DeviceBuilder {
    /// The most bytes that live buffers may hold. Whatever it is, they stay within what the system
    /// has available, less a reserve.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Bytes to leave to the rest of the machine or container. Without it 1/32 of the memory, at
    /// least [`RESERVE_MIN`](crate::memory::RESERVE_MIN) and at most
    /// [`RESERVE_MAX`](crate::memory::RESERVE_MAX).
    pub fn memory_reserve(mut self, bytes: u64) -> Self {
        self.memory_reserve = Some(bytes);
        self
    }

    /// The kind of memory that results on a GPU live in, instead of what suits the machine: the
    /// host's where the GPU reads it, the GPU's own where it does not. CPU devices keep to
    /// [`MemoryKind::Host`].
    pub fn memory(mut self, kind: MemoryKind) -> Self {
        self.memory = Some(kind);
        self
    }

    /// The kind of memory asked for, or the first of those that the device has.
    ///
    /// # Errors
    /// [`Error::Value`] for one that it has not, or that is never written.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn memory_kind(&self, kinds: &[MemoryKind]) -> Result<MemoryKind> {
        let mut fit = kinds.iter().copied().filter(|&kind| kind != MemoryKind::Mapped);
        let found = match self.memory {
            None => fit.next(),
            Some(asked) => fit.find(|&kind| kind == asked),
        };
        found.ok_or_else(|| {
            let names: Vec<_> = kinds.iter().map(ToString::to_string).collect();
            let asked = self.memory.map_or_else(|| "any".to_owned(), |kind| kind.to_string());
            let names = names.join(", ");
            Error::value("device", "memory", format!("{asked}; results can be in {names}"))
        })
    }

    /// How many threads kernels use. Without it, one per core that the process may run on.
    pub fn threads(mut self, n: usize) -> Self {
        self.threads = Some(n);
        self
    }

    /// Use only these instruction-set levels, of those that the machine has; none for what every
    /// machine of its architecture has. Without it, those that [`ISA_VARIABLE`] names, or all that
    /// there are.
    pub fn isa(mut self, levels: &[Isa]) -> Self {
        self.isa = Some(levels.to_vec());
        self
    }

    /// The levels to use of those present.
    #[cfg(any(feature = "cpu", feature = "cuda", feature = "emulator"))]
    pub(crate) fn allowed_isa(&self, mut present: Vec<Isa>) -> Vec<Isa> {
        if let Some(allowed) = &self.isa {
            present.retain(|level| allowed.contains(level));
        }
        present
    }

    /// Holds the device to what [`ISA_VARIABLE`] names, where nothing else was asked for.
    ///
    /// # Errors
    /// [`Error::Value`] for a name that is none.
    #[cfg(feature = "cpu")]
    pub(crate) fn isa_of_environment(mut self) -> Result<Self> {
        if self.isa.is_none()
            && let Some(text) = std::env::var_os(ISA_VARIABLE)
        {
            self.isa = Some(parse_isa(&text.to_string_lossy())?);
        }
        Ok(self)
    }

    /// Fail rather than run a kernel that is only a fallback.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// The freest treatment of numbers that operations accept; without it, operands as they are
    /// given. The handle that [`Device::with_request`](crate::Device::with_request) makes has its own.
    ///
    /// ```
    /// # use ferrocerium::registry::Numerics;
    /// # use ferrocerium::{Device, Tensor, format::Nvfp4};
    /// let device = Device::builder().numerics(Numerics::NarrowedOperands).cpu()?;
    /// let x = Tensor::<f32, 2>::zeros(&device, [1, 64])?;
    /// let w = Tensor::<f32, 2>::zeros(&device, [8, 64])?.quantize::<Nvfp4>()?;
    /// let product = x.gemm(&w.t()).spec::<f32>()?;
    /// let explanation = device.explain(&product)?;
    /// assert_eq!(explanation.chosen().map(|kernel| &*kernel.name), Some("cpu.gemm.int8"));
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn numerics(mut self, freest: Numerics) -> Self {
        self.numerics = freest;
        self
    }

    /// The memory pool for a device of that name.
    pub(crate) fn pool(&self, name: &str) -> Pool {
        let system = SystemMemory::default().with_reserve(self.memory_reserve);
        Pool::within_system(name, self.memory_limit.unwrap_or(u64::MAX), system)
    }

    /// The number of threads asked for, or that of the machine.
    #[cfg(any(feature = "cpu", feature = "emulator"))]
    pub(crate) fn thread_count(&self) -> Result<usize> {
        match self.threads {
            Some(0) => Err(Error::value("device", "threads", "0; at least 1 is needed")),
            Some(n) => Ok(n),
            None => Ok(self.default_threads()),
        }
    }

    /// One thread for each core that the process may run on.
    #[cfg(any(feature = "cpu", feature = "emulator"))]
    pub(crate) fn default_threads(&self) -> usize {
        std::thread::available_parallelism().map_or(1, |n| n.get())
    }

    /// How kernels are chosen: strictness, and what the environment forces.
    pub(crate) fn request(&self) -> Request {
        let text = std::env::var(KERNEL_VARIABLE).unwrap_or_default();
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let forced = names.map(str::to_owned).collect();
        Request { strict: self.strict, numerics: self.numerics, forced, ..Request::default() }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    #[test]
    fn instruction_sets_are_named_in_a_list() {
        assert_eq!(parse_isa("avx2, avx512").unwrap(), [Isa::Avx2Fma, Isa::Avx512]);
        assert_eq!(parse_isa("avx512vnni").unwrap(), [Isa::Avx512Vnni]);
        let arm = [Isa::Neon, Isa::NeonDot, Isa::NeonI8mm];
        assert_eq!(parse_isa("neon,dotprod,i8mm").unwrap(), arm);
        assert_eq!(parse_isa("portable").unwrap(), []);
        let error = parse_isa("avx2,sse9").unwrap_err().to_string();
        assert!(error.contains("FERROCERIUM_ISA") && error.contains("`sse9`"), "{error}");
    }
}
