//! f64 arithmetic in the roundings that a processor does not do by itself.

use super::float::{Decoded, Format, Rounding, Value, decode, round};
use super::sum::{Num, Sum, Term};

const NAN: u64 = 0x7fff_ffff_ffff_ffff;
const SIGN: u64 = 1 << 63;

fn rounded(v: Value, sticky: bool, mode: Rounding) -> u64 {
    round(v, sticky, Format::F64, mode, false)
}

/// The value with its magnitude shifted up to 53 bits.
fn normalised(v: Value) -> Value {
    let up = v.magnitude.leading_zeros().saturating_sub(128 - 53);
    Value { magnitude: v.magnitude << up, exponent: v.exponent - up as i32, ..v }
}

fn finite(x: u64) -> Option<Value> {
    match decode(x, Format::F64) {
        Decoded::Finite(v) => Some(v),
        _ => None,
    }
}

/// `a·b`.
pub(crate) fn mul(a: u64, b: u64, mode: Rounding) -> u64 {
    let (Some(x), Some(y)) = (finite(a), finite(b)) else {
        return special(f64::from_bits(a) * f64::from_bits(b));
    };
    rounded(product(x, y), false, mode)
}

fn product(x: Value, y: Value) -> Value {
    Value {
        negative: x.negative != y.negative,
        magnitude: x.magnitude * y.magnitude,
        exponent: x.exponent + y.exponent,
    }
}

/// A result that is not finite, or that no rounding changes.
fn special(x: f64) -> u64 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

/// `a·b + c`. A sum that is exactly zero is -0 when rounding down, unless its terms are
/// both +0.
pub(crate) fn fma(a: u64, b: u64, c: u64, mode: Rounding) -> u64 {
    let (Some(x), Some(y), Some(z)) = (finite(a), finite(b), finite(c)) else {
        return special(f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)));
    };
    let p = product(x, y);
    let mut sum = Sum::default();
    let low = p.magnitude & ((1 << 53) - 1);
    for (magnitude, exponent, negative) in [
        (p.magnitude >> 53, p.exponent + 53, p.negative),
        (low, p.exponent, p.negative),
        (z.magnitude, z.exponent, z.negative),
    ] {
        let m = magnitude as i64;
        sum.add(Num::Finite(Term { m: if negative { -m } else { m }, e: exponent }));
    }
    match sum.rounded(Format::F64, mode) {
        0 if p.negative == z.negative => u64::from(p.negative) << 63,
        0 if mode == Rounding::Down && sum.is_zero() => SIGN,
        code => code,
    }
}

/// `a / b`.
pub(crate) fn div(a: u64, b: u64, mode: Rounding) -> u64 {
    let (x, y) = match (finite(a), finite(b)) {
        (Some(x), Some(y)) if x.magnitude != 0 && y.magnitude != 0 => (x, y),
        _ => return special(f64::from_bits(a) / f64::from_bits(b)),
    };
    let (x, y) = (normalised(x), normalised(y));
    let wide = x.magnitude << 74;
    let v = Value {
        negative: x.negative != y.negative,
        magnitude: wide / y.magnitude,
        exponent: x.exponent - 74 - y.exponent,
    };
    rounded(v, wide % y.magnitude != 0, mode)
}

/// The square root of `a`.
pub(crate) fn sqrt(a: u64, mode: Rounding) -> u64 {
    let x = match finite(a) {
        Some(x) if x.magnitude != 0 && !x.negative => normalised(x),
        _ => return special(f64::from_bits(a).sqrt()),
    };
    // An even exponent, and as many bits as fit.
    let shift = if x.exponent % 2 == 0 { 74 } else { 73 };
    let wide = x.magnitude << shift;
    let root = wide.isqrt();
    let v = Value { negative: false, magnitude: root, exponent: (x.exponent - shift) / 2 };
    rounded(v, root * root != wide, mode)
}
