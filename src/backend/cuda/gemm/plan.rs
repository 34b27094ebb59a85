//! Which instruction multiplies which operands, and how they reach it.

use super::tile::Tile;
use crate::backend::cuda::args::Matrix;
use crate::backend::cuda::gpu::Program;
use crate::caps::Isa;
use crate::format::{Format, WHOLE};
use crate::num::DType;
use crate::op::Operand;
use crate::registry::Unsupported;

/// Bytes of the chunks that are copied asynchronously.
pub(in crate::backend::cuda) const CHUNK: i64 = 16;

/// Instructions that a registry entry stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum Family {
    /// 16-bit elements.
    Half,
    /// FP8 elements; their scales are f32.
    Fp8,
    /// Elements with block scales that the instruction applies.
    BlockScaled,
}

impl Family {
    /// In order of registration: of two that take as long, what multiplies operands as they are.
    pub const ALL: [Family; 3] = [Family::BlockScaled, Family::Fp8, Family::Half];

    /// What a machine must have.
    pub fn isa(self) -> Isa {
        match self {
            Family::Half => Isa::Mma,
            Family::Fp8 => Isa::MmaFp8,
            Family::BlockScaled => Isa::MmaBlockScaled,
        }
    }
}

/// The matrix instruction, by its number in `mma.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum Mma {
    Bf16 = 0,
    F16 = 1,
    Fp8 = 2,
    Mxfp8 = 3,
    Mxfp4 = 4,
    Nvfp4 = 5,
}

impl Mma {
    /// Bytes of a unit: an element, or two of FP4.
    fn unit(self) -> usize {
        if matches!(self, Mma::Bf16 | Mma::F16) { 2 } else { 1 }
    }

    /// Units of `k` elements.
    pub fn units(self, k: usize) -> usize {
        if matches!(self, Mma::Mxfp4 | Mma::Nvfp4) { k.div_ceil(2) } else { k }
    }

    /// Block scales along k that it takes of each row.
    pub fn step_scales(self) -> usize {
        match self {
            Mma::Bf16 | Mma::F16 | Mma::Fp8 => 0,
            Mma::Mxfp8 => 1,
            Mma::Mxfp4 => 2,
            Mma::Nvfp4 => 4,
        }
    }

    /// Products in the time of one of 16-bit elements.
    pub fn speed(self) -> f64 {
        match self {
            Mma::Bf16 | Mma::F16 => 1.0,
            Mma::Fp8 | Mma::Mxfp8 => 2.0,
            Mma::Mxfp4 | Mma::Nvfp4 => 4.0,
        }
    }
}

/// How an operand becomes what is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) enum Way {
    /// As it is.
    AsIs,
    /// Decoded to 16-bit elements, by the number in `load.cuh`.
    Decoded(u32),
}

impl Way {
    /// The way of an operand to 16-bit elements that hold it exactly.
    pub fn to_half(operand: &Operand, half: Mma) -> Option<Self> {
        Values::of(operand).to_half(half)
    }

    /// The number in `load.cuh` for an operand whose rows are contiguous and aligned, or not.
    pub fn load(self, aligned: bool) -> u32 {
        match self {
            Way::Decoded(number) => number,
            Way::AsIs if aligned => COPY,
            Way::AsIs => GATHER,
        }
    }
}

/// `Load` of `load.cuh`.
const COPY: u32 = 0;
const GATHER: u32 = 1;
const COPY_ACROSS: u32 = 8;
const DECODE_E4M3: Way = Way::Decoded(2);
const DECODE_E5M2: Way = Way::Decoded(3);
const DECODE_MXFP8_E4M3: Way = Way::Decoded(4);
const DECODE_MXFP8_E5M2: Way = Way::Decoded(5);
const DECODE_MXFP4: Way = Way::Decoded(6);
const DECODE_NVFP4: Way = Way::Decoded(7);

/// What an operand is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    Plain(DType),
    Blocks(Format),
}

impl Values {
    fn of(operand: &Operand) -> Self {
        match operand {
            Operand::Dense(dense) => Values::Plain(dense.dtype),
            Operand::Scaled(scaled) => Values::Blocks(scaled.format),
        }
    }

    /// The FP8 type of elements whose scales, if any, are f32.
    fn fp8(self) -> Option<DType> {
        match self {
            Values::Plain(dtype @ (DType::F8E4M3 | DType::F8E5M2)) => Some(dtype),
            Values::Blocks(format) if format.spec().scale == DType::F32 => Some(format.spec().code),
            _ => None,
        }
    }

    /// The way to 16-bit elements of a type that hold them exactly.
    fn to_half(self, half: Mma) -> Option<Way> {
        use {Format::*, Values::*};
        match (self, half) {
            (Plain(DType::BF16), Mma::Bf16) | (Plain(DType::F16), Mma::F16) => Some(Way::AsIs),
            (Blocks(Nvfp4), _) => Some(DECODE_NVFP4),
            // F16 does not hold what E8M0 scales can make of them.
            (Blocks(Mxfp4), Mma::Bf16) => Some(DECODE_MXFP4),
            (Blocks(Mxfp8E4M3), Mma::Bf16) => Some(DECODE_MXFP8_E4M3),
            (Blocks(Mxfp8E5M2), Mma::Bf16) => Some(DECODE_MXFP8_E5M2),
            _ => self.fp8().map(|dtype| match dtype {
                DType::F8E4M3 => DECODE_E4M3,
                _ => DECODE_E5M2,
            }),
        }
    }

    /// Whether f32 scales change along k.
    fn k_scaled(self) -> bool {
        match self {
            Values::Plain(_) => false,
            Values::Blocks(format) => {
                let spec = format.spec();
                spec.scale == DType::F32 && spec.block_k != WHOLE
            }
        }
    }
}

/// A product of two kinds of operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub mma: Mma,
    ways: [Way; 2],
    e5m2: [bool; 2],
    k_scaled: bool,
}

impl Plan {
    /// The product of these operands by an instruction of the family.
    pub fn new(family: Family, a: &Operand, b: &Operand) -> Result<Self, Unsupported> {
        let plan = Self::of_values(family, [Values::of(a), Values::of(b)]);
        plan.ok_or_else(|| {
            let takes = match family {
                Family::Half => "BF16, and formats that it holds, or F16 likewise",
                Family::Fp8 => "FP8 with f32 scales or none",
                Family::BlockScaled => "two of NVFP4, of MXFP4 or of MXFP8",
            };
            Unsupported(format!("multiplies {takes}, not {a} with {b}"))
        })
    }

    fn of_values(family: Family, of: [Values; 2]) -> Option<Self> {
        use Format::*;
        let k_scaled = of.into_iter().any(Values::k_scaled);
        let as_is = |mma, e5m2| Plan { mma, ways: [Way::AsIs; 2], e5m2, k_scaled };
        let is_e5m2 = |dtype| dtype == DType::F8E5M2;
        match (family, of) {
            (Family::Half, [a, b]) => {
                let f16 = of.contains(&Values::Plain(DType::F16));
                let mma = if f16 { Mma::F16 } else { Mma::Bf16 };
                let ways = [a.to_half(mma)?, b.to_half(mma)?];
                Some(Plan { ways, ..as_is(mma, [false; 2]) })
            }
            (Family::Fp8, [a, b]) => Some(as_is(Mma::Fp8, [is_e5m2(a.fp8()?), is_e5m2(b.fp8()?)])),
            (Family::BlockScaled, [Values::Blocks(a), Values::Blocks(b)]) => match (a, b) {
                (Nvfp4, Nvfp4) => Some(as_is(Mma::Nvfp4, [false; 2])),
                (Mxfp4, Mxfp4) => Some(as_is(Mma::Mxfp4, [false; 2])),
                (Mxfp8E4M3 | Mxfp8E5M2, Mxfp8E4M3 | Mxfp8E5M2) => {
                    Some(as_is(Mma::Mxfp8, [a, b].map(|format| is_e5m2(format.spec().code))))
                }
                _ => None,
            },
            (Family::BlockScaled, _) => None,
        }
    }

    /// The source for a tile and matrices bound, of so many rows (`m`, and `n` in one piece or
    /// two) and units along k.
    pub fn program(
        &self,
        tile: Tile,
        matrices: [&Matrix; 2],
        [m, n, pieces]: [usize; 3],
        units: usize,
    ) -> Program {
        let unit = self.mma.unit();
        // Chunks across rows are eight 16-bit elements, and pieces begin with one.
        let across = |matrix: &Matrix, rows: usize, pieces: usize| {
            let whole = pieces == 1 || (rows / pieces).is_multiple_of(8);
            unit == 2 && whole && matrix.has_cols(rows, unit, CHUNK)
        };
        let load = |i: usize, rows: usize, pieces: usize| match self.ways[i] {
            Way::Decoded(number) => number,
            Way::AsIs if matrices[i].has_rows(units, unit, CHUNK) => COPY,
            Way::AsIs if across(matrices[i], rows, pieces) => COPY_ACROSS,
            Way::AsIs => GATHER,
        };
        self.source(tile, [load(0, m, 1), load(1, n, pieces)])
    }

    fn source(&self, tile: Tile, loads: [u32; 2]) -> Program {
        let mut defines = tile.defines(self.mma.step_scales()).to_vec();
        defines.extend([
            ("MMA", self.mma as u32),
            ("A_LOAD", loads[0]),
            ("B_LOAD", loads[1]),
            ("A_E5M2", self.e5m2[0].into()),
            ("B_E5M2", self.e5m2[1].into()),
            ("K_SCALED", self.k_scaled.into()),
        ]);
        let source = include_str!("../../../../kernels/gemm.cu");
        Program { name: "gemm.cu", source, defines }
    }

    /// Every plan of a family.
    pub fn all(family: Family) -> Vec<Self> {
        let plain = [DType::BF16, DType::F16, DType::F8E4M3, DType::F8E5M2].map(Values::Plain);
        let all: Vec<_> = plain.into_iter().chain(Format::ALL.map(Values::Blocks)).collect();
        let mut plans = Vec::new();
        for pair in all.iter().flat_map(|&a| all.iter().map(move |&b| [a, b])) {
            plans.extend(Self::of_values(family, pair).filter(|plan| !plans.contains(plan)));
        }
        plans
    }

    /// The source for a tile, for matrices of every layout.
    pub fn programs(&self, tile: Tile) -> Vec<Program> {
        let loads = |way| match way {
            Way::AsIs if self.mma.unit() == 2 => vec![COPY, GATHER, COPY_ACROSS],
            Way::AsIs => vec![COPY, GATHER],
            Way::Decoded(number) => vec![number],
        };
        let (a, b) = (loads(self.ways[0]), loads(self.ways[1]));
        let pairs = a.iter().flat_map(|&a| b.iter().map(move |&b| [a, b]));
        pairs.map(|loads| self.source(tile, loads)).collect()
    }
}
