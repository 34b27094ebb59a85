//! Rows, or other slices, put where indices say.

use proptest::prelude::*;

use super::BuildOp;
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{Op, Scatter};
use crate::testing::expected::{Expected, in_own_type};
use crate::testing::operand::{INDICES, Kind, Layout, Source, floats, integers, shapes};

/// A scatter that fills its output.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Scatter`.
pub struct ScatterCase {
    /// Sizes of out.
    pub dims: Vec<usize>,
    pub axis: usize,
    pub dtype: DType,
    pub indices: DType,
    /// How many slices are replaced by later ones.
    pub replaced: usize,
    /// Whether an index is out of range.
    pub astray: bool,
    /// Of src and out.
    pub layouts: [Layout; 2],
    pub source: Source,
}

/// Scatters of every type along any dimension, to every place, to some more than once; now and then
/// with an index that must be refused.
pub fn scatter_cases() -> impl Strategy<Value = ScatterCase> {
    let axis = shapes(3).prop_flat_map(|dims| {
        let axes = 0..dims.len();
        (Just(dims), axes)
    });
    let integer = prop::sample::select(vec![DType::I64, DType::I32, DType::U8]);
    let dtype = prop_oneof![4 => floats(), 1 => integer];
    let indices = (prop::sample::select(&INDICES[..]), 0usize..4, prop::bool::weighted(0.04));
    (axis, dtype, indices, Layout::each(), Source::any()).prop_map(
        |((dims, axis), dtype, (indices, replaced, astray), layouts, source)| {
            let replaced = if dims[axis] == 0 { 0 } else { replaced };
            let astray = astray && dims[axis] > 0;
            ScatterCase { dims, axis, dtype, indices, replaced, astray, layouts, source }
        },
    )
}

impl BuildOp for ScatterCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let size = self.dims[self.axis];
        let mut random = self.source.salted(2).random();
        let mut places: Vec<usize> = (0..self.replaced).map(|_| random.below(size)).collect();
        // Then each place once, in any order.
        let mut all: Vec<usize> = (0..size).collect();
        for i in (1..size).rev() {
            all.swap(i, random.below(i + 1));
        }
        places.extend(all);
        if self.astray {
            places[0] = size;
        }
        let mut dims = self.dims.clone();
        dims[self.axis] = places.len();
        let kind = Kind::Plain(self.dtype);
        let src = self.source.salted(1).operand(device, kind, &dims, self.layouts[0])?;
        let values: Vec<f64> = places.iter().map(|&place| place as f64).collect();
        let indices = integers(device, self.indices, &[places.len()], &values)?;
        let out = kind.spec(&self.dims, self.layouts[1])?;
        Ok(Scatter { src, indices, axis: self.axis, out }.into())
    }
}

/// The elements themselves.
pub(in crate::testing) fn expected(op: &Scatter) -> Result<Vec<Expected>> {
    Ok(vec![Expected::exactly(in_own_type(op.clone())?)])
}
