//! What is multiplied in a product, and in which arithmetic.

use std::ops::Range;

use super::floats::FloatFactors;
use super::int8::Int8Factors;
use super::product::Block;
use super::rows::RowSource;
use super::simd::Level;
use crate::caps::Caps;
use crate::error::Result;
use crate::format::ScaleLayout;
use crate::memory::MatrixMut;
use crate::num::DType;
use crate::op::{Operand, Scaled};
use crate::registry::Unsupported;

/// Rows of A and of B, which are along k: how the former are packed, and the products of both.
pub(super) trait Factors: Sync {
    /// Products of about a microsecond, at the pace of few rows: fewer are not worth handing to
    /// another thread.
    fn task_products(&self) -> usize;

    /// f32 that a packed row of A takes.
    fn packed_words(&self) -> usize;

    /// Columns whose products take about as long as packing A does.
    fn columns_for_packing(&self) -> usize;

    /// Most rows of A that one task goes over again and again. The more rows, the fewer times B is
    /// unpacked.
    fn block_rows(&self) -> usize;

    /// Rows that a block takes where it is packed.
    fn packed_rows(&self, block: Block) -> usize {
        block.len
    }

    /// Columns of a task on some blocks where so many are wanted.
    fn columns(&self, blocks: &[Block], wanted: usize, parts: usize) -> usize;

    /// f32 of a panel for a task's rows of B.
    fn panel_len(&self, block: Block, columns: usize) -> usize;

    /// Packs the rows of a block from `first` on, at most [`BAND`](super::simd::BAND), to rows
    /// `stride` apart.
    fn pack(&self, block: Block, first: usize, to: &mut [f32], stride: usize) -> Result<()>;

    /// `out[i, j]` becomes the product of row i of the block, packed in rows `stride`
    /// apart, and row j of `rows` of its matrix of B.
    fn sums(
        &self,
        block: Block,
        packed: (&[f32], usize),
        rows: Range<usize>,
        out: MatrixMut<'_, f32>,
        panel: &mut [f32],
    ) -> Result<()>;
}

/// How products are computed, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// Of any types, in f32.
    Floats,
    /// Of FP4 with FP4, in integers: exact but for the scales.
    Fp4,
    /// Of floats, rounded to int8 in blocks of 16, with FP4, in integers.
    Int8,
}

impl Arithmetic {
    /// Whether operands are of the types that it multiplies, and `b` stored as it reads them.
    pub(super) fn supports(self, a: &Operand, b: &Operand) -> Result<(), Unsupported> {
        let is_fp4 = |scaled: &Scaled| scaled.format.spec().code == DType::E2M1x2;
        let fits = match (self, a) {
            (Arithmetic::Floats, _) => return Ok(()),
            (Arithmetic::Fp4, Operand::Scaled(a)) => is_fp4(a),
            (Arithmetic::Int8, Operand::Dense(a)) => {
                matches!(a.dtype, DType::F32 | DType::BF16 | DType::F16)
            }
            _ => false,
        };
        if !fits {
            let wanted = if self == Arithmetic::Fp4 { "FP4" } else { "f32, bf16 or f16" };
            return Err(Unsupported(format!("multiplies {wanted}, not {a}")));
        }
        match b {
            Operand::Scaled(b) if is_fp4(b) && b.scale_layout == ScaleLayout::RowMajor => Ok(()),
            _ => Err(Unsupported(format!("multiplies with FP4 and row-major scales, not {b}"))),
        }
    }

    /// Products that a thread computes in a second, about.
    pub(super) fn products_per_second(self) -> f64 {
        match self {
            Arithmetic::Floats => 40e9,
            Arithmetic::Fp4 | Arithmetic::Int8 => 100e9,
        }
    }

    /// The factors of rows of `k`. In f32 where scales are too large or small for integers.
    pub(super) fn factors<'a>(
        self,
        caps: &Caps,
        a: &'a dyn RowSource,
        b: &'a dyn RowSource,
        k: usize,
    ) -> Box<dyn Factors + 'a> {
        let level = Level::of(&caps.isa);
        let fp4 = b.weights(0).is_some_and(|weights| weights.is_fp4());
        match self {
            Arithmetic::Fp4 if fp4 && a.is_fp4() => {
                Box::new(Int8Factors::new(&caps.isa, a, b, k, true))
            }
            Arithmetic::Int8 if fp4 => Box::new(Int8Factors::new(&caps.isa, a, b, k, false)),
            _ => Box::new(FloatFactors { level, a, b, k }),
        }
    }
}
