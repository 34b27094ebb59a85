//! `out = e^(z − max z) / Σ e^(z − max z)`, `z = scale · x`, over the last dimension.

use super::array::{Array, QuantizeWith};
use super::elementwise::maximum;
use crate::error::Result;
use crate::op::Softmax;
use crate::registry::Launch;

pub(super) fn softmax(op: &Softmax, launch: &Launch<'_>) -> Result<()> {
    let mut z = Array::load(launch, &op.x)?;
    let n = z.rows_cols().1;
    for row in z.data.chunks_mut(n.max(1)) {
        row.iter_mut().for_each(|x| *x *= f64::from(op.scale));
        let max = row.iter().copied().fold(f64::NEG_INFINITY, maximum);
        if max == f64::NEG_INFINITY {
            row.fill(if op.log { f64::NEG_INFINITY } else { 0.0 });
            continue;
        }
        let sum: f64 = row.iter().map(|z| (z - max).exp()).sum();
        for z in row {
            *z = if op.log { *z - max - sum.ln() } else { (*z - max).exp() / sum };
        }
    }
    z.store(launch, &op.out, QuantizeWith::default())
}
