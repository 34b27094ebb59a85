//! A row's result does not depend on what else is in the batch.

use super::output::Parts;
use crate::error::Result;
use crate::op::{Attention, KvLayout, Op, Operand};

/// An operation on one index of a dimension of its operands, as if there were no others.
pub(super) struct Alone {
    pub op: Op,
    /// The dimension of the outputs, counted from the last, and the index.
    from_end: usize,
    index: usize,
}

impl Alone {
    /// One row of a matrix product, one slice of the outermost dimension of a norm or softmax, one
    /// sequence of attention; `None` for other operations, for block formats and single rows.
    pub(super) fn of(op: &Op) -> Result<Option<Self>> {
        let mut alone = op.clone();
        let (outputs, from_end) = match &mut alone {
            Op::Gemm(op) => {
                let inputs = [Some(&mut op.a), op.c.as_mut(), op.epilogue.residual.as_mut()];
                (inputs.into_iter().flatten().chain([&mut op.d]).collect::<Vec<_>>(), 2)
            }
            Op::Norm(op) => {
                let from_end = op.x.dims().len();
                let inputs = [Some(&mut op.x), op.residual.as_mut(), op.sum.as_mut()];
                (inputs.into_iter().flatten().chain([&mut op.out]).collect(), from_end)
            }
            Op::Softmax(op) => {
                let from_end = op.x.dims().len();
                (vec![&mut op.x, &mut op.out], from_end)
            }
            Op::Attention(Attention {
                q,
                k,
                v,
                out,
                lse: None,
                cu_seqlens_q: None,
                kv: KvLayout::Batched { kv_lens: None },
                ..
            }) => (vec![q, k, v, out], 4),
            _ => return Ok(None),
        };
        // The last is an output, whose sizes are those of the batch.
        let Some(dims) = outputs.last().map(|o| o.dims()) else { return Ok(None) };
        let Some(axis) = dims.len().checked_sub(from_end).filter(|axis| axis + 1 < dims.len())
        else {
            return Ok(None);
        };
        let (size, all) = (dims[axis], dims.numel()?);
        if size < 2 || all == 0 {
            return Ok(None);
        }
        // Any will do: the last one, or one between, as sizes fall out.
        let index = all / size % size;
        for operand in outputs {
            if !slice(operand, from_end, index)? {
                return Ok(None);
            }
        }
        Ok(Some(Alone { op: alone, from_end, index }))
    }

    /// Whether the bytes of each output are those of its part of the whole, `outputs`.
    pub(super) fn agrees(
        &self,
        outputs: &[&mut Operand],
        whole: &[Parts],
        alone: &[Parts],
    ) -> bool {
        outputs.iter().zip(whole).zip(alone).all(|((operand, whole), alone)| {
            let (Some(whole), Some(alone)) = (whole.first(), alone.first()) else { return true };
            let dims = operand.dims();
            let axis = dims.len() - self.from_end;
            let outer: usize = dims[..axis].iter().product();
            let row = whole.len() / outer / dims[axis];
            let own = |o: usize| &whole[(o * dims[axis] + self.index) * row..][..row];
            (0..outer).all(|o| own(o) == &alone[o * row..][..row])
        })
    }
}

/// Narrows a dimension of a plain operand to one index, where it has more than one.
fn slice(operand: &mut Operand, from_end: usize, index: usize) -> Result<bool> {
    let Operand::Dense(dense) = operand else { return Ok(false) };
    let Some(axis) = dense.dims.len().checked_sub(from_end) else { return Ok(true) };
    if dense.dims[axis] == 1 {
        return Ok(true);
    }
    let start = index * dense.strides[axis] * dense.dtype.size();
    dense.dims[axis] = 1;
    // Without elements there is nowhere to start.
    let start = if dense.dims.contains(&0) { 0 } else { start };
    if let Some(region) = &dense.data {
        dense.data = Some(region.slice(start, dense.span()? * dense.dtype.size())?);
    }
    Ok(true)
}
