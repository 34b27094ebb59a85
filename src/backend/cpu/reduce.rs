//! Elements over some dimensions, gathered into one.
//!
//! Where the dimension that lies densest is reduced, each result is gathered from stretches of it;
//! else whole lines of results grow together, one reduced index after the other.

use super::lines::{Lines, Piece, Writing, write_lines};
use super::simd::{self, Level};
use crate::error::Result;
use crate::memory::scratch;
use crate::op::{Dense, Dims, Operand, Reduce, Reduction};
use crate::registry::{Launch, Unsupported};

pub(super) fn supports(op: &Reduce) -> Result<(), Unsupported> {
    let trailing = op.x.dims().len() - op.axes.len();
    match op.x.as_scaled() {
        Some(_) if op.axes.iter().any(|&axis| axis < trailing) => {
            Err(Unsupported(format!("reduces the last dimensions of {} only", op.x)))
        }
        _ => Ok(()),
    }
}

pub(super) fn reduce(op: &Reduce, launch: &Launch<'_>) -> Result<()> {
    let level = Level::of(&launch.caps.isa);
    let dims = op.x.dims();
    let (reduced, kept): (Vec<usize>, Vec<usize>) =
        (0..dims.len()).partition(|axis| op.axes.contains(axis));
    let count: usize = reduced.iter().map(|&axis| dims[axis]).product();
    let out = without(&op.out, &reduced, dims.len())?;
    let together = kept.last().is_some_and(|&last| match &op.x {
        Operand::Dense(x) => reduced.iter().all(|&axis| x.strides[axis] >= x.strides[last]),
        Operand::Scaled(_) => reduced.is_empty(),
    });
    let order = if together { [reduced, kept].concat() } else { [kept, reduced].concat() };
    let x = reordered(&op.x, &order)?;
    let x_dims = x.dims();
    let lines = Lines::new(launch, &x, &x_dims)?;
    let finish = |total: f64| match op.function {
        Reduction::Mean => (total / count as f64) as f32,
        _ => total as f32,
    };
    let pieces = op.x.as_dense().is_some();
    let writing = Writing { pieces, cost: count, ..Writing::default() };
    let n = out.dims().last().copied().unwrap_or(1);
    if together {
        let per_index: usize = out.dims().leading(1).iter().product();
        return write_lines(launch, &out, writing, |piece, dst, other| {
            let mut totals = scratch(dst.len(), simd::gather(level, op.function, &[]))?;
            for index in 0..count {
                let piece =
                    Piece { line: index * per_index + piece.line, cols: piece.cols.clone() };
                simd::accumulate(level, op.function, &mut totals, lines.borrow(&piece, other)?);
            }
            dst.iter_mut().zip(totals).for_each(|(dst, total)| *dst = finish(total));
            Ok(())
        });
    }
    let len = x_dims.last().copied().unwrap_or(1);
    let stretches = count.checked_div(len).unwrap_or(0);
    write_lines(launch, &out, writing, |piece, dst, other| {
        for (dst, col) in dst.iter_mut().zip(piece.cols.clone()) {
            let first = (piece.line * n + col) * stretches;
            let mut total = simd::gather(level, op.function, &[]);
            for line in first..first + stretches {
                let stretch = lines.borrow(&Piece { line, cols: 0..len }, other)?;
                total = simd::join(op.function, total, simd::gather(level, op.function, stretch));
            }
            *dst = finish(total);
        }
        Ok(())
    })
}

/// The output without the dimensions that were reduced to size 1.
fn without(out: &Operand, reduced: &[usize], rank: usize) -> Result<Operand> {
    match out {
        Operand::Dense(dense) if dense.dims.len() == rank => {
            let kept: Vec<usize> = (0..rank).filter(|axis| !reduced.contains(axis)).collect();
            reordered(out, &kept)
        }
        _ => Ok(out.clone()),
    }
}

/// A dense operand's dimensions `axes`, in that order. A block format stays as it is.
pub(super) fn reordered(operand: &Operand, axes: &[usize]) -> Result<Operand> {
    let Operand::Dense(dense) = operand else { return Ok(operand.clone()) };
    let pick = |from: &Dims| Dims::new(&axes.iter().map(|&axis| from[axis]).collect::<Vec<_>>());
    let (dims, strides) = (pick(&dense.dims)?, pick(&dense.strides)?);
    Ok(Dense { dims, strides, ..dense.clone() }.into())
}
