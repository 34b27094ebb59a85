//! The matrices of an output, to be written by several tasks.

use super::offsets::{Offsets, batch_offsets};
use crate::error::{Error, Result};
use crate::memory::{MatrixMut, scratch};
use crate::num::Scalar;
use crate::op::Operand;

/// A dense output `[.., rows, width]` as matrices.
pub(super) struct OutputMatrices<'a, E> {
    out: &'a mut [E],
    /// Where each matrix starts.
    starts: Offsets,
    rows: usize,
    row_stride: usize,
    width: usize,
    stride: usize,
}

impl<'a, E: Scalar> OutputMatrices<'a, E> {
    /// Those of `operand`, whose elements are `out`; none of its sizes is 0.
    pub(super) fn new(out: &'a mut [E], operand: &Operand) -> Result<Self> {
        let Operand::Dense(d) = operand else {
            return Err(Error::kernel("cpu", format!("{operand} is not plain elements")));
        };
        let rank = d.dims.len();
        let leading = d.dims.leading(2);
        Ok(OutputMatrices {
            out,
            starts: batch_offsets(leading, d.strides.leading(2), leading)?,
            rows: d.dims[rank - 2],
            row_stride: d.strides[rank - 2],
            width: d.dims[rank - 1],
            stride: d.strides[rank - 1],
        })
    }

    /// Hands all matrices to `f`: those of the output itself where their rows follow each other in
    /// memory, else those of a copy that is scattered afterwards.
    pub(super) fn fill(
        self,
        f: impl for<'r> FnOnce(&'r mut dyn Iterator<Item = MatrixMut<'r, E>>) -> Result<()>,
    ) -> Result<()> {
        let Self { out, starts, rows, row_stride, width, stride } = self;
        let reach = rows.saturating_sub(1) * row_stride + width;
        let in_order =
            starts.iter().zip(starts.iter().skip(1)).all(|(now, next)| now + reach <= next);
        let apart = rows == 1 || width <= row_stride;
        if (stride == 1 || width == 1) && apart && in_order {
            let (mut rest, mut at) = (out, 0);
            return f(&mut starts.iter().map_while(|start| {
                let (matrix, later) = std::mem::take(&mut rest)[start - at..].split_at_mut(reach);
                (rest, at) = (later, start + reach);
                MatrixMut::new(matrix, (rows, width), row_stride)
            }));
        }
        let mut copy = scratch(starts.len() * rows * width, E::from_f32(0.0))?;
        f(&mut copy.chunks_mut(rows * width).map(|matrix| MatrixMut::packed(matrix, width)))?;
        let begins = starts.iter().flat_map(|start| (0..rows).map(move |i| start + i * row_stride));
        for (begin, row) in begins.zip(copy.chunks(width)) {
            for (j, x) in row.iter().enumerate() {
                out[begin + j * stride] = *x;
            }
        }
        Ok(())
    }
}
