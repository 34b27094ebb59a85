//! The rows of an output, to be written by several tasks.

use super::rows::{Offsets, batch_offsets};
use crate::error::{Error, Result};
use crate::memory::scratch;
use crate::num::Scalar;
use crate::op::Operand;

/// A dense output `[.., rows, width]` as rows in row-major order.
pub(super) struct OutputRows<'a, E> {
    out: &'a mut [E],
    /// Where each matrix starts.
    starts: Offsets,
    rows: usize,
    row_stride: usize,
    width: usize,
    stride: usize,
}

impl<'a, E: Scalar> OutputRows<'a, E> {
    /// The rows of `operand`, whose elements are `out`.
    pub(super) fn new(out: &'a mut [E], operand: &Operand) -> Result<Self> {
        let Operand::Dense(d) = operand else {
            return Err(Error::kernel("cpu", format!("{operand} is not plain elements")));
        };
        let rank = d.dims.len();
        let leading = d.dims.leading(2);
        Ok(OutputRows {
            out,
            starts: batch_offsets(leading, d.strides.leading(2), leading)?,
            rows: d.dims[rank - 2],
            row_stride: d.strides[rank - 2],
            width: d.dims[rank - 1],
            stride: d.strides[rank - 1],
        })
    }

    /// Hands all rows to `f`: those of the output itself where they follow each other in memory,
    /// else rows of a copy that is scattered afterwards.
    pub(super) fn fill(
        self,
        f: impl for<'r> FnOnce(&'r mut dyn Iterator<Item = &'r mut [E]>) -> Result<()>,
    ) -> Result<()> {
        let Self { out, starts, rows, row_stride, width, stride } = self;
        let begins = || {
            let rows = 0..rows;
            starts.iter().flat_map(move |start| rows.clone().map(move |i| start + i * row_stride))
        };
        let in_order = begins().zip(begins().skip(1)).all(|(now, next)| now + width <= next);
        if (stride == 1 || width == 1) && in_order {
            let (mut rest, mut at) = (out, 0);
            return f(&mut begins().map(|begin| {
                let (row, later) = std::mem::take(&mut rest)[begin - at..].split_at_mut(width);
                (rest, at) = (later, begin + width);
                row
            }));
        }
        let mut copy = scratch(starts.len() * rows * width, E::from_f32(0.0))?;
        f(&mut copy.chunks_mut(width))?;
        for (begin, row) in begins().zip(copy.chunks(width)) {
            for (j, x) in row.iter().enumerate() {
                out[begin + j * stride] = *x;
            }
        }
        Ok(())
    }
}
