//! The largest elements of rows, and where they are.

use super::arg_reduce::compare;
use super::array::{Array, QuantizeWith};
use crate::error::Result;
use crate::op::TopK;
use crate::registry::Launch;

pub(super) fn top_k(op: &TopK, launch: &Launch<'_>) -> Result<()> {
    let x = Array::load(launch, &op.x)?;
    let mut values = Array::zeros(&op.values.dims())?;
    let mut indices = values.clone();
    let ((rows, k), n) = (values.rows_cols(), x.rows_cols().1);
    for row in 0..rows {
        let x = &x.data[row * n..][..n];
        let mut order: Vec<usize> = (0..n).collect();
        // The sort is stable: equal elements stay in the order of their indices.
        order.sort_by(|&i, &j| compare(x[j], x[i]));
        for (rank, &i) in order.iter().take(k).enumerate() {
            values.data[row * k + rank] = x[i];
            indices.data[row * k + rank] = i as f64;
        }
    }
    values.store(launch, &op.values, QuantizeWith::default())?;
    indices.store(launch, &op.indices, QuantizeWith::default())
}
