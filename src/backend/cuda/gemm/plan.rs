//! Which instruction multiplies which operands, and how they reach it.

use std::fmt;

use super::product::Product;
use super::stages::Stages;
use super::tile::{SLICE, STEPS, Tile};
use crate::backend::cuda::args::Matrix;
use crate::backend::cuda::gpu::Program;
use crate::backend::cuda::quantize::Quantizing;
use crate::backend::cuda::source::Source;
use crate::caps::{Caps, Isa};
use crate::format::{Format, WHOLE};
use crate::num::DType;
use crate::op::Operand;
use crate::registry::Unsupported;

/// Bytes of the chunks that are copied asynchronously.
pub(in crate::backend::cuda) const CHUNK: i64 = 16;

/// Elements of an MX block.
const MX_BLOCK: usize = 32;

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
    pub fn unit(self) -> usize {
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
    pub fn speed(self, caps: &Caps) -> f64 {
        match self {
            Mma::Bf16 | Mma::F16 => 1.0,
            Mma::Fp8 if !caps.has(Isa::MmaFp8Fast) => 1.0,
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
    /// Decoded to 16-bit elements or to FP8 codes, by the number in `load.cuh`.
    Decoded(u32),
}

impl Way {
    /// The way of an operand to 16-bit elements that hold it, block scales and all: exactly, but
    /// for values with E8M0 scales below 2^-133 or from 2^128 on.
    pub fn to_half(operand: &Operand, half: Mma) -> Option<Self> {
        let values = Values::of(operand);
        let scaled = match values {
            Values::Blocks(Format::Mxfp4) => DECODE_MXFP4,
            Values::Blocks(Format::Mxfp8E4M3) => DECODE_MXFP8_E4M3,
            Values::Blocks(Format::Mxfp8E5M2) => DECODE_MXFP8_E5M2,
            _ => return values.to_half(half),
        };
        // F16 does not hold what E8M0 scales can make of them.
        (half == Mma::Bf16).then_some(scaled)
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
const COPY_ACROSS: u32 = 6;
const WIDEN_E2M1: Way = Way::Decoded(7);
const DECODE_MXFP8_E4M3: Way = Way::Decoded(8);
const DECODE_MXFP8_E5M2: Way = Way::Decoded(9);
const DECODE_MXFP4: Way = Way::Decoded(10);
const DECODE_E4M3: Way = Way::Decoded(2);
const DECODE_E5M2: Way = Way::Decoded(3);
const DECODE_E2M1: Way = Way::Decoded(4);
pub(in crate::backend::cuda) const DECODE_NVFP4: Way = Way::Decoded(5);

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

    /// The way to 16-bit elements of a type that hold them exactly. E8M0 scales stay out of them:
    /// no 16-bit type holds what they can make of a code.
    fn to_half(self, half: Mma) -> Option<Way> {
        use {Format::*, Values::*};
        match (self, half) {
            (Plain(DType::BF16), Mma::Bf16) | (Plain(DType::F16), Mma::F16) => Some(Way::AsIs),
            (Blocks(Nvfp4), _) => Some(DECODE_NVFP4),
            (Blocks(Mxfp4), _) => Some(DECODE_E2M1),
            (Blocks(Mxfp8E4M3), _) => Some(DECODE_E4M3),
            (Blocks(Mxfp8E5M2), _) => Some(DECODE_E5M2),
            _ => self.fp8().map(|dtype| match dtype {
                DType::F8E4M3 => DECODE_E4M3,
                _ => DECODE_E5M2,
            }),
        }
    }

    /// Elements along k whose sums have factors of their own, by instructions that know nothing of
    /// scales; `None` where the factors are those of whole sums.
    fn fold(self) -> Option<usize> {
        let Values::Blocks(format) = self else { return None };
        let spec = format.spec();
        let factors = matches!(spec.scale, DType::F32 | DType::E8M0);
        (factors && spec.block_k != WHOLE).then_some(spec.block_k)
    }
}

/// A product of two kinds of operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub mma: Mma,
    ways: [Way; 2],
    e5m2: [bool; 2],
    /// Elements along k whose sums are multiplied with factors before they are added; 0 for none.
    fold: usize,
    /// Which operands have factors, where sums are folded.
    factors: [bool; 2],
}

/// How an operand is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loads {
    of: [u32; 2],
    /// Whether block scales are copied in words.
    scale_words: bool,
    grouped: bool,
}

impl Plan {
    /// The product of these operands by an instruction of the family.
    pub fn new(family: Family, a: &Operand, b: &Operand) -> Result<Self, Unsupported> {
        let plan = Self::of_values(family, [Values::of(a), Values::of(b)]);
        plan.ok_or_else(|| {
            let takes = match family {
                Family::Half => "BF16, and formats that it holds, or F16 likewise",
                Family::Fp8 => "FP8 with f32 scales or none",
                Family::BlockScaled => "two of NVFP4, or of MXFP4 and MXFP8",
            };
            Unsupported(format!("multiplies {takes}, not {a} with {b}"))
        })
    }

    fn of_values(family: Family, of: [Values; 2]) -> Option<Self> {
        use Format::*;
        let as_is = |mma: Mma, e5m2| {
            // Factors of longer runs are applied to what a slice has of them.
            let fold = match family {
                Family::BlockScaled => None,
                _ => of.into_iter().filter_map(Values::fold).min(),
            };
            let fold = fold.map_or(0, |fold| fold.min(SLICE / mma.unit()));
            let factors = of.map(|of| fold > 0 && matches!(of, Values::Blocks(_)));
            Plan { mma, ways: [Way::AsIs; 2], e5m2, fold, factors }
        };
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
                (Nvfp4, _) | (_, Nvfp4) => None,
                _ if [a, b].iter().all(|format| format.spec().scale == DType::E8M0) => {
                    let way = |format| if format == Mxfp4 { WIDEN_E2M1 } else { Way::AsIs };
                    let e5m2 = [a, b].map(|format| is_e5m2(format.spec().code));
                    Some(Plan { ways: [a, b].map(way), ..as_is(Mma::Mxfp8, e5m2) })
                }
                _ => None,
            },
            (Family::BlockScaled, _) => None,
        }
    }

    /// Whether 16-bit elements are multiplied.
    pub fn is_half(&self) -> bool {
        matches!(self.mma, Mma::Bf16 | Mma::F16)
    }

    /// Whether tiles are quantised so: the programs of other instructions are many already, and
    /// NVFP4 leaves no registers for it.
    pub fn quantizes(&self, quantizing: Quantizing) -> bool {
        matches!(self.mma, Mma::Mxfp8 | Mma::Mxfp4) && quantizing.fits_tiles()
    }

    /// Whether sums of fewer elements than a part has are folded.
    pub fn folds(&self) -> bool {
        self.fold > 0
    }

    /// Bytes of scales that a slice has of a row of A and of B.
    pub fn slice_scales(&self) -> [usize; 2] {
        match self.fold {
            0 => [STEPS * self.mma.step_scales(); 2],
            fold => self.factors.map(|there| {
                let factors = SLICE / self.mma.unit() / fold;
                if there { factors * size_of::<f32>() } else { 0 }
            }),
        }
    }

    /// The source for a tile, and the factors of a product, bound.
    pub fn program(&self, tile: Tile, sources: [&Source; 2], product: &Product<'_>) -> Program {
        let (unit, units) = (self.mma.unit(), self.mma.units(product.k));
        let matrices = sources.map(|source| &source.matrix);
        // Chunks across rows are eight 16-bit elements. Pieces begin with one; groups of rows do
        // not.
        let whole = [
            !product.is_grouped(),
            product.pieces() == 1 || (product.n / product.pieces()).is_multiple_of(8),
        ];
        let rows = [product.m, product.n];
        let across = |i: usize| unit == 2 && whole[i] && matrices[i].has_cols(rows[i], unit, CHUNK);
        let of = [0, 1].map(|i| match self.ways[i] {
            Way::Decoded(number) => number,
            Way::AsIs if has_chunks(matrices[i], units, unit) => COPY,
            Way::AsIs if across(i) => COPY_ACROSS,
            Way::AsIs => GATHER,
        });
        let scale_words = self.mma.step_scales() > 0 && all_words(sources);
        self.source(tile, Loads { of, scale_words, grouped: product.is_grouped() })
    }

    fn source(&self, tile: Tile, loads: Loads) -> Program {
        let mut defines = tile.defines(self.slice_scales()).to_vec();
        defines.extend(self.defines(loads));
        defines.push(("A_E5M2", self.e5m2[0].into()));
        defines.push(("B_E5M2", self.e5m2[1].into()));
        let source = include_str!("../../../../kernels/gemm.cu");
        Program { name: "gemm.cu", source, defines }
    }

    fn defines(&self, loads: Loads) -> [(&'static str, u32); 7] {
        [
            ("MMA", self.mma as u32),
            ("A_LOAD", loads.of[0]),
            ("B_LOAD", loads.of[1]),
            ("FOLD", self.fold as u32),
            ("FACTORS", u32::from(self.factors[0]) | u32::from(self.factors[1]) << 1),
            ("SCALE_WORDS", loads.scale_words.into()),
            ("GROUPED", loads.grouped.into()),
        ]
    }

    /// Why a kernel that streams rows of `b` past a few of `a` does not take them.
    pub fn streams(&self, b: &Operand) -> Result<(), Unsupported> {
        let along_k = match b {
            Operand::Scaled(_) => true,
            Operand::Dense(dense) => {
                let axis = dense.dims.len().checked_sub(2);
                axis.is_some_and(|axis| dense.dims[axis] <= 1 || dense.strides[axis] == 1)
            }
        };
        if self.ways[0] != Way::AsIs {
            return Err(Unsupported::because("streams weights past BF16 or F16"));
        }
        if !along_k {
            return Err(Unsupported(format!(
                "streams columns that are contiguous along k, not {b}"
            )));
        }
        Ok(())
    }

    /// Bytes that `b` has of each element, times two.
    fn streamed_nibbles(&self) -> usize {
        match self.ways[1] {
            Way::AsIs => 4,
            DECODE_E2M1 | DECODE_NVFP4 => 1,
            Way::Decoded(_) => 2,
        }
    }

    /// The streaming source for so many rows of `a`, and sources bound.
    pub fn stream_program(
        &self,
        stages: Stages,
        sources: [&Source; 2],
        product: &Product<'_>,
    ) -> Program {
        let [a, b] = sources.map(|source| source.matrix);
        let load_a = if has_chunks(&a, product.k, 2) { COPY } else { GATHER };
        let of = [load_a, self.streamed()];
        let scale_words = self.has_streamed_scales() && all_words([sources[1]]);
        let loads = Loads { of, scale_words, grouped: product.is_grouped() };
        // Whole chunks of a row can be read where it begins at one.
        self.stream_source(stages, loads, b.has_rows(1, 1, CHUNK))
    }

    fn streamed(&self) -> u32 {
        match self.ways[1] {
            Way::AsIs => COPY,
            Way::Decoded(number) => number,
        }
    }

    /// Whether block scales go through shared memory.
    fn has_streamed_scales(&self) -> bool {
        self.ways[1] == DECODE_NVFP4 || self.fold == MX_BLOCK
    }

    fn stream_source(&self, stages: Stages, loads: Loads, chunks: bool) -> Program {
        let mut defines = self.defines(loads).to_vec();
        defines.extend([
            ("B_CHUNKS", chunks.into()),
            ("MOST_ROWS", stages.rows as u32),
            ("STAGES", stages.count as u32),
        ]);
        let source = include_str!("../../../../kernels/stream.cu");
        Program { name: "stream.cu", source, defines }
    }

    /// The stages of the streaming source for `m` rows of `a`.
    pub fn stages(&self, m: usize) -> Stages {
        let scales = match self.ways[1] {
            DECODE_NVFP4 => 8,
            _ if self.fold == MX_BLOCK => 4,
            _ => 0,
        };
        Stages::new(m, self.streamed_nibbles(), scales)
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

    /// The sources for a tile, for matrices of every layout.
    pub fn programs(&self, tile: Tile) -> Vec<Program> {
        let ways = |way| match way {
            Way::AsIs if self.mma.unit() == 2 => vec![COPY, GATHER, COPY_ACROSS],
            Way::AsIs => vec![COPY, GATHER],
            Way::Decoded(number) => vec![number],
        };
        let loads = all_loads(&ways(self.ways[0]), &ways(self.ways[1]), self.mma.step_scales() > 0);
        // Rows of groups are never copied across.
        let loads = loads.filter(|loads| !(loads.grouped && loads.of[0] == COPY_ACROSS));
        loads.map(|loads| self.source(tile, loads)).collect()
    }

    /// The sources for a tile that is quantised, for matrices as they usually lie.
    pub fn quantizing_programs(&self, tile: Tile) -> Vec<Program> {
        let of = self.ways.map(|way| way.load(true));
        let source = |quantizing: Quantizing, grouped| {
            let mut program = self.source(tile, Loads { of, scale_words: true, grouped });
            program.defines.extend(quantizing.defines());
            program
        };
        let all = Quantizing::all().filter(|&quantizing| self.quantizes(quantizing));
        all.flat_map(|q| [source(q, false), source(q, true)]).collect()
    }

    /// The streaming sources, for matrices of every layout.
    pub fn stream_programs(&self) -> Vec<Program> {
        if self.ways[0] != Way::AsIs {
            return Vec::new();
        }
        let loads = all_loads(&[COPY, GATHER], &[self.streamed()], self.has_streamed_scales());
        let sources = |loads| {
            let rows = Stages::ROWS.into_iter();
            rows.flat_map(move |rows| {
                [true, false].map(|chunks| self.stream_source(self.stages(rows), loads, chunks))
            })
        };
        loads.flat_map(sources).collect()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elements = match self.mma {
            Mma::Bf16 => "BF16",
            Mma::F16 => "F16",
            Mma::Fp8 => "FP8",
            Mma::Mxfp8 => "MXFP8",
            Mma::Mxfp4 => "MXFP4",
            Mma::Nvfp4 => "NVFP4",
        };
        let expanded = match self.ways.map(|way| way != Way::AsIs) {
            [false, false] => "",
            [true, false] => ", a expanded",
            [false, true] => ", b expanded",
            [true, true] => ", both expanded",
        };
        write!(f, "{elements} mma{expanded}")
    }
}

/// Every combination of these, for plain and grouped products.
fn all_loads(a: &[u32], b: &[u32], scales: bool) -> std::vec::IntoIter<Loads> {
    let mut all = Vec::new();
    for of in a.iter().flat_map(|&a| b.iter().map(move |&b| [a, b])) {
        for grouped in [false, true] {
            all.push(Loads { of, scale_words: false, grouped });
            if scales {
                all.push(Loads { of, scale_words: true, grouped });
            }
        }
    }
    all.into_iter()
}

/// Whether rows of units are whole chunks that are contiguous and aligned.
fn has_chunks(matrix: &Matrix, units: usize, unit: usize) -> bool {
    (units * unit).is_multiple_of(CHUNK as usize) && matrix.has_rows(units, unit, CHUNK)
}

/// Whether block scales of all these lie in words.
fn all_words<const N: usize>(sources: [&Source; N]) -> bool {
    sources.iter().all(|source| source.scales.are_words())
}
