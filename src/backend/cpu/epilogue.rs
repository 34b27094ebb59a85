//! `residual + f(alpha · t · scale + beta · c + bias)`, a stretch of a row at a time.

use super::product::{Block, Finish, Row};
use super::rows::{RowSource, row_source};
use super::simd::{self, Level};
use crate::error::Result;
use crate::op::{Activation, Dense, Dims, Epilogue, Function, Operand};
use crate::registry::Launch;

/// The operands of an epilogue.
pub(super) struct Finisher<'a> {
    level: Level,
    b_scale: f32,
    column_scale: Option<RowOfEach<'a>>,
    alpha: f32,
    beta: f32,
    c: Option<Box<dyn RowSource + 'a>>,
    bias: Option<RowOfEach<'a>>,
    activation: Activation,
    residual: Option<Box<dyn RowSource + 'a>>,
    n: usize,
}

/// One row for each matrix B, or one for all.
struct RowOfEach<'a> {
    rows: Box<dyn RowSource + 'a>,
    each: bool,
}

impl<'a> RowOfEach<'a> {
    /// `[n]`, or `[groups, n]`.
    fn new(operand: &Operand, n: usize, launch: &Launch<'a>) -> Result<Self> {
        let each = operand.dims().len() > 1;
        let rows = if each { operand.clone() } else { as_matrix(operand, 1, n) };
        Ok(RowOfEach { rows: row_source(launch, &rows, false, &[])?, each })
    }

    fn part(&self, block: &Block, first: usize, to: &mut [f32]) -> Result<()> {
        self.rows.part(0, if self.each { block.b } else { 0 }, first, to)
    }
}

/// What is added up before the epilogue: `alpha · t · b_scale + beta · c`.
pub(super) struct Terms<'o> {
    /// B's tensor scale, which the products are without.
    pub(super) b_scale: f32,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) c: Option<&'o Operand>,
}

impl<'a> Finisher<'a> {
    /// The epilogue of outputs `[.., m, n]`.
    pub(super) fn new(
        epilogue: &Epilogue,
        launch: &Launch<'a>,
        Terms { b_scale, alpha, beta, c }: Terms<'_>,
        (m, n): (usize, usize),
        batch_dims: &[usize],
    ) -> Result<Self> {
        let source = |operand: Option<&Operand>, rows: usize, cols: usize| {
            let operand = operand.map(|o| as_matrix(o, rows, cols));
            operand.map(|o| row_source(launch, &o, false, batch_dims)).transpose()
        };
        let wide = if epilogue.activation.is_gated() { 2 * n } else { n };
        let row_of_each = |operand: Option<&Operand>| {
            operand.map(|operand| RowOfEach::new(operand, wide, launch)).transpose()
        };
        Ok(Finisher {
            level: Level::of(&launch.caps.isa),
            b_scale,
            column_scale: row_of_each(epilogue.column_scale.as_ref())?,
            alpha,
            beta,
            // With beta = 0, C is not read: it may hold anything.
            c: if beta == 0.0 { None } else { source(c, m, wide)? },
            bias: row_of_each(epilogue.bias.as_ref())?,
            activation: epilogue.activation,
            residual: source(epilogue.residual.as_ref(), m, n)?,
            n,
        })
    }
}

impl Finish for Finisher<'_> {
    fn is_plain(&self) -> bool {
        let Finisher { column_scale, c, bias, residual, .. } = self;
        let terms = column_scale.is_some() || c.is_some() || bias.is_some() || residual.is_some();
        let factors = self.b_scale != 1.0 || self.alpha != 1.0;
        !(terms || factors || self.activation != Activation::Identity)
    }

    fn finish(&self, row: Row<'_>, other: &mut [f32]) -> Result<()> {
        let Row { block, row, columns, values } = row;
        let width = columns.len();
        for (part, values) in values.chunks_mut(width).enumerate() {
            let first = columns.start + part * self.n;
            if let Some(scale) = &self.column_scale {
                // With B's first, so that a matrix gives the same bits whether its scale is that of
                // its tensor or of its columns.
                scale.part(block, first, other)?;
                values.iter_mut().zip(other.iter()).for_each(|(x, s)| *x *= self.b_scale * s);
            } else if self.b_scale != 1.0 {
                values.iter_mut().for_each(|x| *x *= self.b_scale);
            }
            if self.alpha != 1.0 {
                values.iter_mut().for_each(|x| *x *= self.alpha);
            }
            if let Some(c) = &self.c {
                c.part(block.a, row, first, other)?;
                values.iter_mut().zip(other.iter()).for_each(|(x, c)| *x += self.beta * c);
            }
            if let Some(bias) = &self.bias {
                bias.part(block, first, other)?;
                values.iter_mut().zip(other.iter()).for_each(|(x, b)| *x += b);
            }
        }
        if self.activation.is_gated() {
            let (gate, up) = values.split_at_mut(width);
            simd::binary(self.level, Function::Gate(self.activation), gate, up);
        } else if self.activation != Activation::Identity {
            simd::unary(self.level, Function::Activation(self.activation), values);
        }
        if let Some(residual) = &self.residual {
            residual.part(block.a, row, columns.start, other)?;
            values.iter_mut().zip(other.iter()).for_each(|(x, r)| *x += r);
        }
        Ok(())
    }
}

/// A dense operand as `[.., rows, cols]`: dimensions that it lacks, or has with size 1, repeat.
fn as_matrix(operand: &Operand, rows: usize, cols: usize) -> Operand {
    let Operand::Dense(dense) = operand else { return operand.clone() };
    let mut dense: Dense = dense.clone();
    if dense.dims.len() < 2 {
        let missing = 2 - dense.dims.len();
        let (mut dims, mut strides) = ([1; 2], [0; 2]);
        dims[missing..].copy_from_slice(&dense.dims);
        strides[missing..].copy_from_slice(&dense.strides);
        (dense.dims, dense.strides) = (Dims::from_array(dims), Dims::from_array(strides));
    }
    let rank = dense.dims.len();
    for (axis, size) in [(rank - 2, rows), (rank - 1, cols)] {
        if dense.dims[axis] == 1 {
            dense.dims[axis] = size;
            dense.strides[axis] = 0;
        }
    }
    dense.into()
}
