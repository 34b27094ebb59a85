//! Softmax, a row at a time: exponentials in f32, their sum in f64.

use super::lines::{Lines, Writing, write_lines};
use super::simd::{self, Level};
use crate::error::Result;
use crate::op::Softmax;
use crate::registry::Launch;

pub(super) fn softmax(op: &Softmax, launch: &Launch<'_>) -> Result<()> {
    let level = Level::of(&launch.caps.isa);
    let x = Lines::new(launch, &op.x, &op.x.dims())?;
    let writing = Writing { cost: 4, ..Writing::default() };
    write_lines(launch, &op.out, writing, |piece, z, _| {
        x.read(piece, z)?;
        simd::softmax(level, z, op.scale, op.log);
        Ok(())
    })
}
