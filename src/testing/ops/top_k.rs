//! The largest elements of rows.

use proptest::prelude::*;

use super::BuildOp;
use super::arg_reduce::rivals;
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{Op, TopK};
use crate::testing::expected::{Expected, decoded, in_own_type};
use crate::testing::functions::Precision;
use crate::testing::operand::{INDICES, Kind, Layout, Source, floats, shapes};

/// A search for the largest elements.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `TopK`.
pub struct TopKCase {
    pub dims: Vec<usize>,
    pub k: usize,
    pub x: Kind,
    pub values: DType,
    pub indices: DType,
    /// Of x, values and indices.
    pub layouts: [Layout; 3],
    pub source: Source,
}

/// Any number of the largest elements, from none to all.
pub fn top_k_cases() -> impl Strategy<Value = TopKCase> {
    let k = shapes(4).prop_flat_map(|dims| {
        let n = dims.last().copied().unwrap_or(0);
        (Just(dims), prop_oneof![1 => Just(n), 1 => 0..=n.min(1), 3 => 0..=n])
    });
    let types = (floats(), prop::sample::select(&INDICES[..]));
    (k, Kind::any(), types, Layout::each(), Source::any()).prop_map(
        |((dims, k), x, (values, indices), layouts, source)| TopKCase {
            dims,
            k,
            x,
            values,
            indices,
            layouts,
            source,
        },
    )
}

impl BuildOp for TopKCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let x = self.source.operand(device, self.x, &self.dims, self.layouts[0])?;
        let dims = [&self.dims[..self.dims.len() - 1], &[self.k]].concat();
        let values = Kind::Plain(self.values).spec(&dims, self.layouts[1])?;
        let indices = Kind::Plain(self.indices).spec(&dims, self.layouts[2])?;
        Ok(TopK::new(x, values, indices).into())
    }
}

/// Elements as they are, and where they are; of blocks, as for
/// [`arg_reduce`](super::arg_reduce::expected).
pub(in crate::testing) fn expected(op: &TopK) -> Result<Vec<Expected>> {
    let x = decoded(&op.x, Precision::F32)?;
    let found = in_own_type(op.clone())?;
    let n = op.x.dims().last().copied().unwrap_or(1);
    let k = op.values.dims().last().copied().unwrap_or(1);
    let (mut values, mut errors, mut indices) = (Vec::new(), Vec::new(), Vec::new());
    for (position, &index) in found.iter().enumerate() {
        let row = &x[position / k * n..][..n];
        let picked = row[index as usize];
        values.push(picked.value);
        errors.push(picked.error);
        indices.push(rivals(row.iter().copied(), index as usize));
    }
    Ok(vec![Expected::Values { values, errors }, Expected::OneOf(indices)])
}
