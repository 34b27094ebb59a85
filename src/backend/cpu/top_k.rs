//! The largest elements of rows: one integer for each element that sorts by value and index, the
//! `k` smallest of them selected, then sorted.

use super::arg_reduce::{store_in_order, store_indices};
use super::lines::{Lines, Piece};
use super::rows::with_small_float;
use crate::error::{Error, Result};
use crate::memory::room;
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::TopK;
use crate::registry::{Launch, Unsupported};

pub(super) fn supports(op: &TopK) -> Result<(), Unsupported> {
    match op.x.dims().last() {
        Some(&n) if u32::try_from(n).is_err() => {
            Err(Unsupported(format!("rows of up to 2^32 elements, not {}", op.x)))
        }
        _ => Ok(()),
    }
}

pub(super) fn top_k(op: &TopK, launch: &Launch<'_>) -> Result<()> {
    let (dims, found_dims) = (op.x.dims(), op.values.dims());
    let (n, k) = (dims.last().copied().unwrap_or(1), found_dims.last().copied().unwrap_or(0));
    let rows: usize = found_dims.leading(1).iter().product();
    if k == 0 || rows == 0 {
        return Ok(());
    }
    let x = Lines::new(launch, &op.x, &dims)?;
    let mut found: Vec<Result<Vec<(usize, f32)>>> = room(rows)?;
    found.resize_with(rows, || Ok(Vec::new()));
    launch.workers.chunks_mut(&mut found, 1, |line, found| {
        let mut scratch = Vec::new();
        for found in found {
            let line = x.borrow(&Piece { line, cols: 0..n }, &mut scratch);
            *found = line.and_then(|line| largest(line, k));
        }
    });
    let (mut indices, mut values) = (room(rows * k)?, room(rows * k)?);
    for row in found {
        for (index, value) in row? {
            indices.push(index);
            values.push(value);
        }
    }
    store_indices(launch, &op.indices, &indices)?;
    let Some(dtype) = op.values.dtype() else {
        return Err(Error::kernel("cpu.top_k", "the values are not plain elements"));
    };
    with_small_float!(dtype, E => {
        store_in_order(launch, &op.values, values.iter().map(|x| E::from_f32(*x)))
    })
}

/// The `k` largest of a line, largest first, the lower index first among equals.
fn largest(line: &[f32], k: usize) -> Result<Vec<(usize, f32)>> {
    let keyed = |(i, x): (usize, &f32)| u64::from(!rank(*x)) << 32 | i as u64;
    let mut keys: Vec<u64> = room(line.len())?;
    keys.extend(line.iter().enumerate().map(keyed));
    if k < keys.len() {
        keys.select_nth_unstable(k - 1);
        keys.truncate(k);
    }
    keys.sort_unstable();
    let mut found = room(keys.len())?;
    found.extend(keys.into_iter().map(|key| key as u32 as usize).map(|i| (i, line[i])));
    Ok(found)
}

/// An integer that orders as the numbers do: zeros equal, NaN equal and above all.
fn rank(x: f32) -> u32 {
    if x.is_nan() {
        return u32::MAX;
    }
    // Adding 0 makes −0 into +0.
    let bits = (x + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}
