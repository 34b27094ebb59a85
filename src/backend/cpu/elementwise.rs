//! `out = f(a, b)` in f32, a piece of a line at a time.

use super::lines::{Lines, Writing, write_lines};
use super::simd::{self, Level};
use crate::error::Result;
use crate::op::{Elementwise, collapse};
use crate::registry::Launch;

pub(super) fn elementwise(op: &Elementwise, launch: &Launch<'_>) -> Result<()> {
    let level = Level::of(&launch.caps.isa);
    let inputs: Vec<_> = std::iter::once(&op.a).chain(&op.b).collect();
    let (out, inputs) = collapse(&op.out, &inputs);
    let dims = out.dims();
    let read = |i: usize| Lines::new_opt(launch, inputs.get(i), &dims);
    let (a, b) = (Lines::new(launch, &inputs[0], &dims)?, read(1)?);
    // Blocks are read and written in whole lines.
    let pieces = inputs.iter().chain([&out]).all(|operand| operand.as_dense().is_some());
    let writing = Writing { pieces, cost: 2, quantizer: op.quantizer, tensor_scale: None };
    write_lines(launch, &out, writing, |piece, x, other| {
        a.read(piece, x)?;
        match &b {
            None => simd::unary(level, op.function, x),
            Some(b) => simd::binary(level, op.function, x, b.borrow(piece, other)?),
        }
        Ok(())
    })
}
