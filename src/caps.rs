//! What a machine is, as plain data.
//!
//! A kernel is chosen from these facts alone; how they were found out is the backends' business.

mod arch;

use std::fmt;

pub use arch::Arch;

/// Where code runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// The processor the program runs on.
    Cpu,
    /// A GPU of this architecture, or the emulator of one.
    Gpu(Arch),
}

impl Target {
    /// The GPU's architecture, if it is one.
    pub const fn arch(self) -> Option<Arch> {
        match self {
            Target::Cpu => None,
            Target::Gpu(arch) => Some(arch),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Cpu => f.pad("cpu"),
            Target::Gpu(arch) => f.pad(arch.name()),
        }
    }
}

/// An instruction-set level that kernels can ask for.
///
/// Levels are facts about the machine, not an order: a kernel names each one it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// x86-64 AVX2 with FMA and F16C.
    Avx2Fma,
    /// x86-64 AVX-512 F, BW, DQ and VL, with AVX2, FMA and F16C.
    Avx512,
    /// x86-64 AVX-512 VNNI and VBMI: products of bytes, and look-up in tables of them.
    Avx512Vnni,
    /// aarch64 Advanced SIMD.
    Neon,
    /// aarch64 dot products of bytes (`FEAT_DotProd`).
    NeonDot,
    /// aarch64 products of 2 × 8 by 8 × 2 bytes (`FEAT_I8MM`).
    NeonI8mm,
    /// `mma.sync` on BF16 and F16, `ldmatrix`, `cp.async`.
    Mma,
    /// `mma.sync` on E4M3 and E5M2.
    MmaFp8,
    /// The same in half the time of 16-bit elements. Without it an instruction becomes two on F16, to
    /// which its operands are unpacked.
    MmaFp8Fast,
    /// `MmaFp8` with sums as precise as those of 16-bit elements; without it they keep some 14
    /// bits (arXiv 2412.19437, section 3.5.2).
    MmaFp8Full,
    /// `mma.sync` with block scales on FP8 and FP4: `mxf8f6f4`, `mxf4`, `mxf4nvf4`.
    MmaBlockScaled,
    /// Conversions from and to FP8.
    ConvertFp8,
    /// Conversions from and to FP4.
    ConvertFp4,
    /// Copies of tensor tiles by one thread: `cp.async.bulk.tensor`, `mbarrier`.
    Tma,
    /// Matrix products of four warps from shared memory.
    Wgmma,
    /// Matrix products in tensor memory.
    Tcgen05,
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Memory by who may touch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryKind {
    /// The process's own heap, 256-byte aligned. A GPU reads it where it can access pageable
    /// memory.
    Host,
    /// A file mapped read-only; its pages are the page cache's.
    Mapped,
    /// Page-locked host memory that CPU and GPU both access.
    Pinned,
    /// Memory that the driver moves between, or shares with, CPU and GPU.
    Managed,
    /// The GPU's own memory; a host view of it is an error.
    Device,
}

impl MemoryKind {
    /// Whether the CPU may read bytes of this kind in place.
    pub const fn host_readable(self) -> bool {
        !matches!(self, MemoryKind::Device)
    }

    /// Whether the CPU may write bytes of this kind in place.
    pub const fn host_writable(self) -> bool {
        !matches!(self, MemoryKind::Device | MemoryKind::Mapped)
    }
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            MemoryKind::Host => "host",
            MemoryKind::Mapped => "mapped",
            MemoryKind::Pinned => "pinned",
            MemoryKind::Managed => "managed",
            MemoryKind::Device => "device",
        })
    }
}

/// A machine, or the part of it that one device uses.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Caps {
    /// Where code runs.
    pub target: Target,
    /// Instruction-set levels present (and not masked out).
    pub isa: Vec<Isa>,
    /// Cores or multiprocessors that work is spread over.
    pub units: usize,
    /// Memory kinds that kernels on this device can read.
    pub memory_kinds: Vec<MemoryKind>,
    /// The kind that results live in.
    pub memory_kind: MemoryKind,
    /// Bytes of shared memory that a block of GPU threads can use; 0 on CPUs.
    pub shared_memory: usize,
}

impl Caps {
    /// A CPU with `units` threads and no instruction-set level beyond the baseline.
    pub fn cpu(units: usize) -> Self {
        Caps {
            target: Target::Cpu,
            isa: Vec::new(),
            units,
            memory_kinds: vec![
                MemoryKind::Host,
                MemoryKind::Mapped,
                MemoryKind::Pinned,
                MemoryKind::Managed,
            ],
            memory_kind: MemoryKind::Host,
            shared_memory: 0,
        }
    }

    /// A GPU of `units` multiprocessors that reads the memory kinds given, with everything that
    /// its architecture has. Results live in the first of the kinds.
    ///
    /// ```
    /// use ferrocerium::caps::{Arch, Caps, Isa, MemoryKind};
    ///
    /// let gb10 = Caps::gpu(Arch::SM121A, 48, &[MemoryKind::Host, MemoryKind::Managed]);
    /// assert!(gb10.has(Isa::MmaBlockScaled) && !gb10.has(Isa::Wgmma));
    /// assert_eq!(gb10.shared_memory, 99 << 10);
    /// ```
    pub fn gpu(arch: Arch, units: usize, memory_kinds: &[MemoryKind]) -> Self {
        Caps {
            target: Target::Gpu(arch),
            isa: arch.isa().to_vec(),
            units,
            memory_kinds: memory_kinds.to_vec(),
            memory_kind: memory_kinds.first().copied().unwrap_or(MemoryKind::Host),
            shared_memory: arch.shared_memory(),
        }
    }

    /// Whether the instruction-set level is present.
    pub fn has(&self, isa: Isa) -> bool {
        self.isa.contains(&isa)
    }
}

impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.target, self.units)?;
        for isa in &self.isa {
            write!(f, ", {isa}")?;
        }
        Ok(())
    }
}
