//! `dst = src`

use super::array::{Array, QuantizeWith};
use crate::error::Result;
use crate::op::Convert;
use crate::registry::Launch;

pub(super) fn convert(op: &Convert, launch: &Launch<'_>) -> Result<()> {
    let with = QuantizeWith { quantizer: op.quantizer, tensor_scale: op.tensor_scale };
    Array::load(launch, &op.src)?.store(launch, &op.dst, with)
}
