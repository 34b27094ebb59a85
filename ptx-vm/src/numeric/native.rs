//! Fast paths for f32 and half arithmetic, each rounded once.

use half::{bf16, f16};

use super::float::{Format, Rounding, convert};

/// The canonical NaN of an f32 result on the GPU.
pub(crate) const NAN32: u32 = 0x7fff_ffff;
/// The canonical NaN of an f16 or bf16 result.
pub(crate) const NAN16: u16 = 0x7fff;

/// An f32 from the low half of a register.
#[inline(always)]
pub(crate) fn f(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// An f32 result as register bits.
#[inline(always)]
pub(crate) fn fb(x: f32) -> u64 {
    u64::from(if x.is_nan() { NAN32 } else { x.to_bits() })
}

/// An f64 from a register.
#[inline(always)]
pub(crate) fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// An f64 result as register bits.
#[inline(always)]
pub(crate) fn db(x: f64) -> u64 {
    if x.is_nan() { 0x7fff_ffff_ffff_ffff } else { x.to_bits() }
}

/// An f16 operand, exact.
#[inline(always)]
pub(crate) fn h(bits: u64) -> f32 {
    f16::from_bits(bits as u16).to_f32()
}

/// A bf16 operand, exact.
#[inline(always)]
pub(crate) fn b(bits: u64) -> f32 {
    bf16::from_bits(bits as u16).to_f32()
}

/// Rounds an f64 to f16; the caller makes sure that the f64 is exact or rounded to odd.
#[inline(always)]
pub(crate) fn hb(x: f64) -> u64 {
    u64::from(if x.is_nan() { NAN16 } else { narrow(x, Format::F16) as u16 })
}

/// Rounds an f64 to bf16; the caller makes sure that the f64 is exact or rounded to odd.
#[inline(always)]
pub(crate) fn bb(x: f64) -> u64 {
    u64::from(if x.is_nan() { NAN16 } else { narrow(x, Format::BF16) as u16 })
}

fn narrow(x: f64, f: Format) -> u64 {
    convert(x.to_bits(), Format::F64, f, Rounding::NearestEven, false)
}

/// `x + y` in f64 with the last bit set if anything was lost: rounding the result again to
/// a format of at most 51 bits then gives the sum rounded once (round to odd).
#[inline(always)]
pub(crate) fn add_odd(x: f64, y: f64) -> f64 {
    let s = x + y;
    let back = s - x;
    let lost = (x - (s - back)) + (y - back);
    odd(s, lost)
}

/// `s` with its last bit made odd if `lost` is not zero: the true value lies between.
#[inline(always)]
pub(crate) fn odd(s: f64, lost: f64) -> f64 {
    let bits = s.to_bits();
    if lost == 0.0 || bits & 1 == 1 || !s.is_finite() || lost.is_nan() {
        return s;
    }
    let outwards = (lost > 0.0) == (s > 0.0);
    f64::from_bits(if outwards { bits + 1 } else { bits - 1 })
}

/// `a·b + c` in one rounding, for f32.
#[inline(always)]
pub(crate) fn fma32(a: f32, b: f32, c: f32) -> f32 {
    // The product of two f32 is exact in f64.
    add_odd(f64::from(a) * f64::from(b), f64::from(c)) as f32
}

/// An f64 (exact or rounded to odd) as f32 by the given rounding.
pub(crate) fn to_f32(x: f64, mode: Rounding) -> f32 {
    if mode == Rounding::NearestEven || x.is_nan() {
        return x as f32;
    }
    f32::from_bits(convert(x.to_bits(), Format::F64, Format::F32, mode, false) as u32)
}

/// `a / b` in f64, rounded to odd.
pub(crate) fn div_odd(a: f32, b: f32) -> f64 {
    let (a, b) = (f64::from(a), f64::from(b));
    let q = a / b;
    if !q.is_finite() || q == 0.0 {
        return q;
    }
    // a - q·b, exactly rounded: its sign says on which side of q the quotient lies.
    let rest = (-q).mul_add(b, a);
    odd(q, if b > 0.0 { rest } else { -rest })
}

/// The square root in f64, rounded to odd.
pub(crate) fn sqrt_odd(a: f32) -> f64 {
    let a = f64::from(a);
    let q = a.sqrt();
    if !q.is_finite() || q == 0.0 {
        return q;
    }
    odd(q, (-q).mul_add(q, a))
}

/// Flushes an f32 subnormal to zero of the same sign.
#[inline(always)]
pub(crate) fn flush(bits: u64) -> u64 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// Clamps an f32 to [0, 1], NaN to 0.
#[inline(always)]
pub(crate) fn saturate(bits: u64) -> u64 {
    let x = f(bits);
    if x.is_nan() || x <= 0.0 {
        0
    } else if x > 1.0 {
        fb(1.0)
    } else {
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fma_is_rounded_once(a in any::<u32>(), b in any::<u32>(), c in any::<u32>()) {
            let (a, b, c) = (f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
            let want = a.mul_add(b, c);
            let got = fma32(a, b, c);
            prop_assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{a:e} {b:e} {c:e}: {got:e}, want {want:e}");
        }

        #[test]
        fn fma_is_rounded_once_near_cancellation(a in any::<u32>(), b in any::<u32>(), ulps in -4i32..5) {
            let (a, b) = (f32::from_bits(a), f32::from_bits(b));
            let product = -(a * b);
            let c = f32::from_bits(product.to_bits().wrapping_add_signed(ulps));
            let want = a.mul_add(b, c);
            let got = fma32(a, b, c);
            prop_assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{a:e} {b:e} {c:e}: {got:e}, want {want:e}");
        }

        #[test]
        fn directed_quotients_enclose_the_nearest(a in any::<u32>(), b in any::<u32>()) {
            let (a, b) = (f32::from_bits(a), f32::from_bits(b));
            let q = div_odd(a, b);
            prop_assume!(!q.is_nan());
            let (down, up) = (to_f32(q, Rounding::Down), to_f32(q, Rounding::Up));
            prop_assert!(down <= a / b && a / b <= up);
            prop_assert_eq!(to_f32(q, Rounding::NearestEven).to_bits(), (a / b).to_bits());
        }
    }
}
