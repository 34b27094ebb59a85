//! Where the largest or smallest element is.

use proptest::prelude::*;

use super::BuildOp;
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{ArgReduce, Op};
use crate::testing::expected::{Expected, decoded, in_own_type};
use crate::testing::functions::{Approx, Precision};
use crate::testing::operand::{INDICES, Kind, Layout, Source, shapes};

/// A search for extremes.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `ArgReduce`.
pub struct ArgReduceCase {
    pub dims: Vec<usize>,
    pub axis: usize,
    pub largest: bool,
    pub x: Kind,
    pub out: DType,
    /// Of x and out.
    pub layouts: [Layout; 2],
    pub source: Source,
}

/// Searches along any dimension.
pub fn arg_reduce_cases() -> impl Strategy<Value = ArgReduceCase> {
    let axis = shapes(4).prop_flat_map(|dims| {
        let axes = 0..dims.len();
        (Just(dims), axes)
    });
    let kinds = (Kind::any(), prop::sample::select(&INDICES[..]));
    (axis, any::<bool>(), kinds, Layout::each(), Source::any()).prop_map(
        |((mut dims, axis), largest, (x, out), layouts, source)| {
            // Of none there is no largest.
            dims[axis] = dims[axis].max(1);
            ArgReduceCase { dims, axis, largest, x, out, layouts, source }
        },
    )
}

impl BuildOp for ArgReduceCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let x = self.source.operand(device, self.x, &self.dims, self.layouts[0])?;
        let dims = ArgReduce::output_dims(&x, self.axis)?;
        let out = Kind::Plain(self.out).spec(&dims, self.layouts[1])?;
        Ok(ArgReduce { x, axis: self.axis, largest: self.largest, out }.into())
    }
}

/// The first of the extremes; of blocks, any whose decoded value may be as large.
pub(in crate::testing) fn expected(op: &ArgReduce) -> Result<Vec<Expected>> {
    let x = decoded(&op.x, Precision::F32)?;
    let dims = op.x.dims();
    let (n, inner) = (dims[op.axis], dims[op.axis + 1..].iter().product::<usize>());
    let right = |(position, found): (usize, f64)| {
        let first = position / inner * n * inner + position % inner;
        rivals((0..n).map(|i| x[first + i * inner]), found as usize)
    };
    Ok(vec![Expected::OneOf(in_own_type(op.clone())?.into_iter().enumerate().map(right).collect())])
}

/// The index `found`, and those of elements that rounding may make equal to it.
pub(super) fn rivals(row: impl Iterator<Item = Approx> + Clone, found: usize) -> Vec<i64> {
    let Some(best) = row.clone().nth(found) else { return Vec::new() };
    let rival = |&(i, x): &(usize, Approx)| {
        let reach = x.error + best.error;
        i == found || reach > 0.0 && (x.value - best.value).abs() <= reach
    };
    row.enumerate().filter(rival).map(|(i, _)| i as i64).collect()
}
