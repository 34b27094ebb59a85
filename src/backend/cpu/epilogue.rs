//! `residual + f(alpha · t · scale + beta · c + bias)`, a stretch of a row at a time.

use super::product::{Block, Finish, Row};
use super::rows::{RowSource, dense_rows, row_source};
use super::simd::{self, Level};
use crate::error::Result;
use crate::op::{Activation, Dims, Epilogue, Function, Operand};
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
        let rows = match each {
            true => row_source(launch, operand, false, &[])?,
            false => repeated_rows(launch, operand, (1, n), &[])?,
        };
        Ok(RowOfEach { rows, each })
    }

    fn stretch<'s>(
        &'s self,
        block: &Block,
        first: usize,
        scratch: &'s mut [f32],
    ) -> Result<&'s [f32]> {
        self.rows.stretch(0, if self.each { block.b } else { 0 }, first, scratch)
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
            operand.map(|o| repeated_rows(launch, o, (rows, cols), batch_dims)).transpose()
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
                let scale = scale.stretch(block, first, other)?;
                values.iter_mut().zip(scale).for_each(|(x, s)| *x *= self.b_scale * s);
            } else if self.b_scale != 1.0 {
                values.iter_mut().for_each(|x| *x *= self.b_scale);
            }
            if self.alpha != 1.0 {
                values.iter_mut().for_each(|x| *x *= self.alpha);
            }
            if let Some(c) = &self.c {
                let c = c.stretch(block.a, row, first, other)?;
                values.iter_mut().zip(c).for_each(|(x, c)| *x += self.beta * c);
            }
            if let Some(bias) = &self.bias {
                let bias = bias.stretch(block, first, other)?;
                values.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
        }
        if self.activation.is_gated() {
            let (gate, up) = values.split_at_mut(width);
            simd::binary(self.level, Function::Gate(self.activation), gate, up);
        } else if self.activation != Activation::Identity {
            simd::unary(self.level, Function::Activation(self.activation), values);
        }
        if let Some(residual) = &self.residual {
            let residual = residual.stretch(block.a, row, columns.start, other)?;
            values.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
        }
        Ok(())
    }
}

/// The rows of an operand as `[.., rows, cols]`: dimensions that it lacks, or has with size 1,
/// repeat.
fn repeated_rows<'a>(
    launch: &Launch<'a>,
    operand: &Operand,
    (rows, cols): (usize, usize),
    batch_dims: &[usize],
) -> Result<Box<dyn RowSource + 'a>> {
    let Operand::Dense(dense) = operand else {
        return row_source(launch, operand, false, batch_dims);
    };
    let (mut dims, mut strides) = (dense.dims, dense.strides);
    if dims.len() < 2 {
        let missing = 2 - dims.len();
        let (mut own_dims, mut own_strides) = ([1; 2], [0; 2]);
        own_dims[missing..].copy_from_slice(&dims);
        own_strides[missing..].copy_from_slice(&strides);
        (dims, strides) = (Dims::from_array(own_dims), Dims::from_array(own_strides));
    }
    let rank = dims.len();
    for (axis, size) in [(rank - 2, rows), (rank - 1, cols)] {
        if dims[axis] == 1 {
            (dims[axis], strides[axis]) = (size, 0);
        }
    }
    dense_rows(launch, operand, (&dims, &strides), (rank - 2, rank - 1), batch_dims)
}
