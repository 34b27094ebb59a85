//! `dst = src`

use super::array::{Array, QuantizeWith, copy_elements, map_elements, with_scalar};
use crate::error::{Error, Result};
use crate::num::{DType, E8M0, Element, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, f16};
use crate::op::Convert;
use crate::registry::Launch;

pub(super) fn convert(op: &Convert, launch: &Launch<'_>) -> Result<()> {
    match (op.src.dtype(), op.dst.dtype()) {
        (Some(src), Some(dst)) if src == dst => {
            copy_elements(launch, &op.src, &op.dst, |position| position)
        }
        (Some(DType::I64), Some(dst)) => from_wide::<i64>(op, launch, dst),
        (Some(DType::U64), Some(dst)) => from_wide::<u64>(op, launch, dst),
        _ => {
            let with = QuantizeWith { quantizer: op.quantizer, tensor_scale: op.tensor_scale };
            Array::load(launch, &op.src)?.store(launch, &op.dst, with)
        }
    }
}

/// Casts 64-bit integers, which do not all fit an f64.
fn from_wide<S: Element + Into<i128>>(op: &Convert, launch: &Launch<'_>, dst: DType) -> Result<()> {
    fn map<S: Element + Into<i128>, D: Element>(
        op: &Convert,
        launch: &Launch<'_>,
        f: impl Fn(i128) -> D,
    ) -> Result<()> {
        map_elements::<S, D>(launch, &op.src, &op.dst, |position| position, |x| f(x.into()))
    }
    let within = |x: i128, least: i128, most: i128| x.clamp(least, most);
    match dst {
        DType::I64 => {
            map::<S, _>(op, launch, |x| within(x, i64::MIN.into(), i64::MAX.into()) as i64)
        }
        DType::U64 => map::<S, _>(op, launch, |x| within(x, 0, u64::MAX.into()) as u64),
        DType::F64 => map::<S, _>(op, launch, |x| x as f64),
        _ => {
            with_scalar!(dst, E => map::<S, _>(op, launch, |x| <E as Scalar>::from_f64(round_to_odd(x))))
        }
    }
}

/// `x` as an f64 that rounds to types of less than 52 bits as `x` itself would: of the two around
/// it, the one whose last bit is 1, so that it is never taken for a tie.
fn round_to_odd(x: i128) -> f64 {
    let nearest = x as f64;
    if nearest as i128 == x {
        return nearest;
    }
    let beyond = nearest.abs() as i128 > x.abs();
    let toward_zero = nearest.to_bits() - u64::from(beyond);
    f64::from_bits(toward_zero | 1)
}
