//! The index of the largest or smallest element along a dimension.

use std::cmp::Ordering;

use super::array::{Array, QuantizeWith};
use crate::error::Result;
use crate::op::ArgReduce;
use crate::registry::Launch;

pub(super) fn arg_reduce(op: &ArgReduce, launch: &Launch<'_>) -> Result<()> {
    let x = Array::load(launch, &op.x)?;
    let n = x.dims[op.axis];
    let inner: usize = x.dims[op.axis + 1..].iter().product();
    let better = if op.largest { Ordering::Greater } else { Ordering::Less };
    let mut out = Array::zeros(&op.out.dims())?;
    for (position, found) in out.data.iter_mut().enumerate() {
        let first = position / inner * n * inner + position % inner;
        let mut best = 0;
        for i in 1..n {
            if compare(x.data[first + i * inner], x.data[first + best * inner]) == better {
                best = i;
            }
        }
        *found = best as f64;
    }
    out.store(launch, &op.out, QuantizeWith::default())
}

/// Numbers in their order, all NaN equal and above them.
pub(super) fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
