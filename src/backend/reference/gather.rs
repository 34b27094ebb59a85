//! `out[.., i.., ..] = table[.., indices[i..], ..]`

use super::array::{Array, QuantizeWith, copy_elements};
use crate::error::Result;
use crate::op::Gather;
use crate::registry::Launch;

pub(super) fn gather(op: &Gather, launch: &Launch<'_>) -> Result<()> {
    let dims = op.table.dims();
    let (before, size) = (&dims[..op.axis], dims[op.axis]);
    let outer: usize = before.iter().product();
    let inner: usize = dims[op.axis + 1..].iter().product();

    // For each element of the output, its row-major position in the table.
    let mut sources = Vec::new();
    let indices = launch.read_indices(&op.indices)?;
    let checked = indices.iter().enumerate().map(|(at, &index)| op.check_index(at, index, size));
    let rows = checked.collect::<Result<Vec<usize>>>()?;
    for o in 0..outer {
        for row in &rows {
            for i in 0..inner {
                sources.push((o * size + row) * inner + i);
            }
        }
    }

    if op.table.dtype().is_some() && op.table.dtype() == op.out.dtype() {
        return copy_elements(launch, &op.table, &op.out, |position| sources[position]);
    }
    let table = Array::load(launch, &op.table)?;
    let mut out = Array::zeros(&op.out.dims())?;
    for (value, &source) in out.data.iter_mut().zip(&sources) {
        *value = table.data[source];
    }
    out.store(launch, &op.out, QuantizeWith::default())
}
