//! `dst = src`

use super::array::{Array, QuantizeWith, copy_elements};
use crate::error::Result;
use crate::op::Convert;
use crate::registry::Launch;

pub(super) fn convert(op: &Convert, launch: &Launch<'_>) -> Result<()> {
    if op.src.dtype().is_some() && op.src.dtype() == op.dst.dtype() {
        return copy_elements(launch, &op.src, &op.dst, |position| position);
    }
    let with = QuantizeWith { quantizer: op.quantizer, tensor_scale: op.tensor_scale };
    Array::load(launch, &op.src)?.store(launch, &op.dst, with)
}
