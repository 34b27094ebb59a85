//! Where the largest or smallest element along a dimension is: first what it is, then where.

use super::lines::{Lines, Piece};
use super::offsets::batch_offsets;
use super::reduce::reordered;
use super::simd::{self, Level};
use crate::error::{Error, Result};
use crate::memory::room;
use crate::num::{DType, Scalar};
use crate::op::{ArgReduce, Operand};
use crate::registry::{Launch, Unsupported};

pub(super) fn supports(op: &ArgReduce) -> Result<(), Unsupported> {
    match op.x.as_scaled() {
        Some(_) if op.axis + 1 != op.x.dims().len() => {
            Err(Unsupported(format!("searches along the blocks of {} only", op.x)))
        }
        _ => Ok(()),
    }
}

pub(super) fn arg_reduce(op: &ArgReduce, launch: &Launch<'_>) -> Result<()> {
    let level = Level::of(&launch.caps.isa);
    let rank = op.x.dims().len();
    let order = (0..rank).filter(|&axis| axis != op.axis).chain([op.axis]).collect::<Vec<_>>();
    let x = reordered(&op.x, &order)?;
    let dims = x.dims();
    let n = dims.last().copied().unwrap_or(1);
    let lines = Lines::new(launch, &x, &dims)?;
    let count = op.out.dims().iter().product();
    let mut found: Vec<Result<usize>> = room(count)?;
    found.resize_with(count, || Ok(0));
    launch.workers.chunks_mut(&mut found, (1 << 14) / n.max(1) + 1, |chunk, found| {
        let first = chunk * ((1 << 14) / n.max(1) + 1);
        let mut scratch = Vec::new();
        for (line, found) in (first..).zip(found) {
            let piece = Piece { line, cols: 0..n };
            let line = lines.borrow(&piece, &mut scratch);
            *found = line.map(|line| simd::position(level, op.largest, line));
        }
    });
    let mut indices = room(count)?;
    for found in found {
        indices.push(found?);
    }
    store_indices(launch, &op.out, &indices)
}

/// Writes indices in row-major order into an output of u32, i32 or i64.
pub(super) fn store_indices(launch: &Launch<'_>, out: &Operand, indices: &[usize]) -> Result<()> {
    match out.dtype() {
        Some(DType::U32) => store_in_order(launch, out, indices.iter().map(|&i| i as u32)),
        Some(DType::I32) => store_in_order(launch, out, indices.iter().map(|&i| i as i32)),
        Some(DType::I64) => store_in_order(launch, out, indices.iter().map(|&i| i as i64)),
        _ => Err(Error::kernel(launch.op.kind().name(), format!("{out} does not hold indices"))),
    }
}

/// Writes values in row-major order.
pub(super) fn store_in_order<E: Scalar>(
    launch: &Launch<'_>,
    out: &Operand,
    values: impl Iterator<Item = E>,
) -> Result<()> {
    let Operand::Dense(dense) = out else {
        return Err(Error::kernel(launch.op.kind().name(), format!("{out} has no plain elements")));
    };
    let data = launch.write_dense::<E>(out)?;
    let places = batch_offsets(&dense.dims, &dense.strides, &dense.dims)?;
    places.iter().zip(values).for_each(|(place, value)| data[place] = value);
    Ok(())
}
