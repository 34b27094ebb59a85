//! GPU architectures, by what each has.

use std::fmt;
use std::str::FromStr;

use super::Isa;
use crate::error::Error;

/// A GPU architecture as compilers name it.
///
/// What it has is a row of a table, never a comparison of numbers: `sm_121a` is not a larger
/// `sm_100a`.
///
/// ```
/// use ferrocerium::caps::{Arch, Isa};
///
/// let arch: Arch = "sm_90a".parse()?;
/// assert_eq!(arch, Arch::SM90A);
/// assert!(arch.isa().contains(&Isa::Wgmma));
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arch {
    name: &'static str,
    isa: &'static [Isa],
    shared_memory: usize,
}

const fn arch(name: &'static str, shared_kib: usize, isa: &'static [Isa]) -> Arch {
    Arch { name, isa, shared_memory: shared_kib << 10 }
}

// Sources: CUDA C++ programming guide, table of compute capabilities; PTX ISA 9.0, "Target ISA
// notes" of `mma`, `cvt`, `wgmma.mma_async`, `tcgen05.mma`, `cp.async.bulk.tensor`; `MmaFp8Fast`: what
// ptxas 13.0 makes of `mma.sync`.
impl Arch {
    /// A100.
    pub const SM80: Arch = arch("sm_80", 163, &[Isa::Mma]);
    /// RTX 30, A10, A40.
    pub const SM86: Arch = arch("sm_86", 99, &[Isa::Mma]);
    /// RTX 40, L4, L40.
    pub const SM89: Arch =
        arch("sm_89", 99, &[Isa::Mma, Isa::MmaFp8, Isa::MmaFp8Fast, Isa::ConvertFp8]);
    /// H100, H200.
    pub const SM90A: Arch =
        arch("sm_90a", 227, &[Isa::Mma, Isa::MmaFp8, Isa::ConvertFp8, Isa::Tma, Isa::Wgmma]);
    /// B200, GB200.
    pub const SM100A: Arch = arch(
        "sm_100a",
        227,
        &[Isa::Mma, Isa::MmaFp8, Isa::ConvertFp8, Isa::ConvertFp4, Isa::Tma, Isa::Tcgen05],
    );
    /// RTX 50, RTX PRO Blackwell.
    pub const SM120A: Arch = arch("sm_120a", 99, BLACKWELL_CONSUMER);
    /// GB10.
    pub const SM121A: Arch = arch("sm_121a", 99, BLACKWELL_CONSUMER);

    /// Every architecture that kernels are compiled for.
    pub const ALL: [Arch; 7] =
        [Arch::SM80, Arch::SM86, Arch::SM89, Arch::SM90A, Arch::SM100A, Arch::SM120A, Arch::SM121A];

    /// The architecture of GPUs of a compute capability, if there are kernels for it: a row of a
    /// table, because a larger number does not mean more.
    ///
    /// ```
    /// use ferrocerium::caps::Arch;
    /// assert_eq!(Arch::of_capability(12, 1), Some(Arch::SM121A));
    /// assert_eq!(Arch::of_capability(12, 2), None);
    /// ```
    pub const fn of_capability(major: u32, minor: u32) -> Option<Arch> {
        match (major, minor) {
            (8, 0) => Some(Arch::SM80),
            (8, 6) => Some(Arch::SM86),
            (8, 9) => Some(Arch::SM89),
            (9, 0) => Some(Arch::SM90A),
            (10, 0) => Some(Arch::SM100A),
            (12, 0) => Some(Arch::SM120A),
            (12, 1) => Some(Arch::SM121A),
            _ => None,
        }
    }

    /// The name: `"sm_121a"`.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The instruction-set levels that it has.
    pub const fn isa(self) -> &'static [Isa] {
        self.isa
    }

    /// Bytes of shared memory that a block can use.
    pub const fn shared_memory(self) -> usize {
        self.shared_memory
    }
}

/// What the chips of the `sm_12x` family have.
const BLACKWELL_CONSUMER: &[Isa] = &[
    Isa::Mma,
    Isa::MmaFp8,
    Isa::MmaFp8Fast,
    Isa::MmaFp8Full,
    Isa::MmaBlockScaled,
    Isa::ConvertFp8,
    Isa::ConvertFp4,
    Isa::Tma,
];

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|arch| arch.name == text).ok_or_else(|| Error::Parse {
            what: "GPU architecture",
            text: text.to_owned(),
            expected: Self::ALL.map(Arch::name).join(", "),
        })
    }
}
