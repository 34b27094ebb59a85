//! Rows, or other slices, by index.

use proptest::prelude::*;

use super::BuildOp;
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{Gather, Op};
use crate::testing::expected::{Expected, in_own_type};
use crate::testing::operand::{INDICES, Kind, Layout, Source, floats, integers, shapes};

/// A gather.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Gather`.
pub struct GatherCase {
    pub dims: Vec<usize>,
    pub axis: usize,
    pub table: Kind,
    pub indices: DType,
    /// Sizes of the indices.
    pub picks: Vec<usize>,
    /// Whether an index is out of range.
    pub astray: bool,
    pub out: DType,
    /// Of the table and out.
    pub layouts: [Layout; 2],
    pub source: Source,
}

/// Gathers of every type along any dimension, rows of matrices most often; now and then with an
/// index that must be refused.
pub fn gather_cases() -> impl Strategy<Value = GatherCase> {
    let rows = (1usize..40, shapes(1)).prop_map(|(rows, width)| (vec![rows, width[0]], 0));
    let any_axis = shapes(3).prop_flat_map(|dims| {
        let axes = 0..dims.len();
        (Just(dims), axes)
    });
    let axis = prop_oneof![2 => rows, 1 => any_axis];
    let integer = prop::sample::select(vec![DType::I64, DType::I32, DType::U8]);
    let table = prop_oneof![8 => Kind::any(), 1 => integer.prop_map(Kind::Plain)];
    let float = floats();
    let out = prop_oneof![2 => Just(None), 1 => Just(Some(DType::F32)), 1 => float.prop_map(Some)];
    let indices = prop::sample::select(&INDICES[..]);
    let picks = prop_oneof![3 => (0usize..20).prop_map(|n| vec![n]), 1 => prop::collection::vec(0usize..4, 0..3)];
    let astray = prop::bool::weighted(0.04);
    (axis, table, out, (indices, picks, astray), Layout::each(), Source::any()).prop_map(
        |((mut dims, axis), table, out, (indices, picks, astray), layouts, source)| {
            dims[axis] = dims[axis].max(1);
            let own = match table {
                Kind::Plain(dtype) => Some(dtype),
                Kind::Blocks(..) => None,
            };
            // Integers are only moved.
            let out = match (own, out) {
                (Some(own), Some(_)) if !own.is_float() => own,
                (own, out) => out.or(own).unwrap_or(DType::F32),
            };
            GatherCase { dims, axis, table, indices, picks, astray, out, layouts, source }
        },
    )
}

impl BuildOp for GatherCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let table =
            self.source.salted(1).operand(device, self.table, &self.dims, self.layouts[0])?;
        let (source, size) = (self.source.salted(2), self.dims[self.axis]);
        let mut indices = source.indices(device, self.indices, &self.picks, size)?;
        if self.astray {
            let values = vec![size as f64; self.picks.iter().product()];
            indices = integers(device, self.indices, &self.picks, &values)?;
        }
        let dims = Gather::output_dims(&table, &indices, self.axis)?;
        let out = Kind::Plain(self.out).spec(&dims, self.layouts[1])?;
        Ok(Gather { table, indices, axis: self.axis, out }.into())
    }
}

/// The elements themselves, rounded once to another type.
pub(in crate::testing) fn expected(op: &Gather) -> Result<Vec<Expected>> {
    Ok(vec![Expected::exactly(in_own_type(op.clone())?)])
}
