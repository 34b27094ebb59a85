//! Copies, casts and quantisation.

use proptest::prelude::*;

use super::{BuildOp, Target};
use crate::Device;
use crate::error::Result;
use crate::format::WHOLE;
use crate::num::DType;
use crate::op::{Convert, Op, Operand};
use crate::testing::expected::{Expected, in_own_type, values};
use crate::testing::operand::{Kind, Layout, Source, shapes, transposed};

/// A copy, cast, quantisation or dequantisation.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Convert`.
pub struct ConvertCase {
    pub dims: Vec<usize>,
    pub src: Kind,
    pub dst: Target,
    pub tensor_scale: Option<f32>,
    /// Whether `src` is looked at with its last two dimensions swapped.
    pub transposed: bool,
    /// Of src and dst.
    pub layouts: [Layout; 2],
    pub source: Source,
}

/// Conversions between all kinds; to every block format by every quantiser.
pub fn convert_cases() -> impl Strategy<Value = ConvertCase> {
    let integers = [DType::I64, DType::I32, DType::I16, DType::I8, DType::U32, DType::U8];
    let integer = || prop::sample::select(integers.to_vec()).prop_map(Kind::Plain);
    let src = prop_oneof![8 => Kind::any(), 1 => integer()];
    let plain = prop_oneof![8 => Kind::plain(), 1 => integer()];
    let dst = prop_oneof![
        2 => plain.prop_map(|kind| Target { kind, quantizer: None }),
        1 => Target::blocks(),
    ];
    let scale = prop_oneof![3 => Just(None), 1 => (0.001f32..2.0).prop_map(Some)];
    let transposed = prop::bool::weighted(0.2);
    (shapes(4), src, dst, (scale, transposed), Layout::each(), Source::any()).prop_map(
        |(dims, mut src, dst, (scale, transposed), layouts, mut source)| {
            let has_whole = |format: crate::format::Format| {
                let spec = format.spec();
                spec.tensor_scale || spec.block_rows == WHOLE
            };
            let tensor_scale = match dst.kind {
                Kind::Blocks(format, _) if has_whole(format) => scale,
                _ => None,
            };
            // Floats are quantised.
            if dst.kind.is_blocks() && matches!(src, Kind::Plain(t) if !t.is_float()) {
                src = Kind::Plain(DType::F32);
            }
            // NaN and infinities are refused by blocks: seldom is enough.
            if dst.kind.is_blocks() && source.seed % 4 > 0 {
                source.distribution = source.distribution.or_normal();
            }
            let transposed = transposed && dims.len() > 1;
            ConvertCase { dims, src, dst, tensor_scale, transposed, layouts, source }
        },
    )
}

impl BuildOp for ConvertCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let mut src = self.source.operand(device, self.src, &self.dims, self.layouts[0])?;
        if self.transposed {
            src = transposed(src);
        }
        let dst = self.dst.kind.spec(&src.dims(), self.layouts[1])?;
        let (quantizer, tensor_scale) = (self.dst.quantizer, self.tensor_scale);
        Ok(Convert { src, dst, quantizer, tensor_scale }.into())
    }
}

/// The values themselves, rounded or quantised once: to the bit. Quantisers are defined by exact
/// arithmetic on values rounded to f32, so that two implementations never differ.
pub(in crate::testing) fn expected(op: &Convert) -> Result<Vec<Expected>> {
    Ok(vec![Expected::exactly(match &op.dst {
        Operand::Dense(_) => in_own_type(op.clone())?,
        Operand::Scaled(_) => values(&op.src)?,
    })])
}
