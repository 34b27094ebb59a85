//! FP8 E5M2.

use bytemuck::{Pod, Zeroable};

use super::float8::{float8, limit, with_sign};
use super::minifloat::{self, E5M2};
use super::value_traits::value_traits;
use super::{DType, Element, Float, Scalar, Sealed};

const INFINITY_CODE: u32 = 0x7c;
const NAN_CODE: u32 = 0x7e;
static VALUES: [f32; 256] = minifloat::table(E5M2, [f32::INFINITY, f32::NAN, f32::NAN, f32::NAN]);

/// FP8 E5M2 with infinities (OCP): 1 sign, 5 exponent, 2 mantissa bits, bias 15.
///
/// | code (sign 0) | value |
/// |---|---|
/// | `0 00000 mm` | `m/4 · 2^-14` |
/// | `0 eeeee mm` | `(1 + m/4) · 2^(e-15)` |
/// | `0 11110 11` | 57344, the largest finite |
/// | `0 11111 00` | infinity |
/// | `0 11111 mm` | NaN |
///
/// ```
/// use ferrocerium::num::F8E5M2;
/// assert_eq!(F8E5M2::from_f32(0.3).to_f32(), 0.3125);
/// assert_eq!(F8E5M2::from_f32(1e6), F8E5M2::MAX);
/// assert_eq!(F8E5M2::from_f32_non_saturating(1e6), F8E5M2::INFINITY);
/// ```
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct F8E5M2(u8);

impl F8E5M2 {
    /// +0.
    pub const ZERO: Self = Self(0x00);
    /// −0.
    pub const NEG_ZERO: Self = Self(0x80);
    /// 1.
    pub const ONE: Self = Self(0x3c);
    /// −1.
    pub const NEG_ONE: Self = Self(0xbc);
    /// The largest finite value, 57344.
    pub const MAX: Self = Self(0x7b);
    /// The smallest finite value, −57344.
    pub const MIN: Self = Self(0xfb);
    /// The smallest positive normal value, 2^-14.
    pub const MIN_POSITIVE: Self = Self(0x04);
    /// The smallest positive value, 2^-16.
    pub const MIN_POSITIVE_SUBNORMAL: Self = Self(0x01);
    /// The largest subnormal value, 3·2^-16.
    pub const MAX_SUBNORMAL: Self = Self(0x03);
    /// Distance from 1 to the next larger value, 2^-2.
    pub const EPSILON: Self = Self(0x34);
    /// NaN: the quiet positive one; 0x7d, 0x7f and their negatives are NaN too.
    pub const NAN: Self = Self(NAN_CODE as u8);
    /// +∞.
    pub const INFINITY: Self = Self(INFINITY_CODE as u8);
    /// −∞.
    pub const NEG_INFINITY: Self = Self(0x80 | INFINITY_CODE as u8);
    /// Significant bits, the implicit one included.
    pub const MANTISSA_DIGITS: u32 = 3;
    /// One more than the exponent of [`Self::MAX`]: `MAX < 2^MAX_EXP`.
    pub const MAX_EXP: i32 = 16;
    /// One more than the exponent of [`Self::MIN_POSITIVE`].
    pub const MIN_EXP: i32 = -13;
    /// The exponent bias.
    pub const BIAS: i32 = E5M2.bias;

    /// The nearest value, ties to even; beyond ±57344, infinities included, ±57344. NaN becomes
    /// [`Self::NAN`] with its sign.
    #[inline]
    pub const fn from_f32(x: f32) -> Self {
        let code = if x.is_nan() { NAN_CODE } else { limit(E5M2.round_f32(x), E5M2.max_code) };
        Self(with_sign(code, x.is_sign_negative()))
    }

    /// As [`Self::from_f32`], from an `f64` in one rounding.
    #[inline]
    pub const fn from_f64(x: f64) -> Self {
        let code = if x.is_nan() { NAN_CODE } else { limit(E5M2.round_f64(x), E5M2.max_code) };
        Self(with_sign(code, x.is_sign_negative()))
    }

    /// The nearest value, ties to even; infinity where that would be 65536 or more in magnitude
    /// (`|x| ≥ 61440`), and from infinities.
    #[inline]
    pub const fn from_f32_non_saturating(x: f32) -> Self {
        let code = if x.is_nan() { NAN_CODE } else { limit(E5M2.round_f32(x), INFINITY_CODE) };
        Self(with_sign(code, x.is_sign_negative()))
    }

    /// Rounds to one of the two values around `x`, away from zero with probability equal to the
    /// position of `x` between them: unbiased over uniformly distributed `random`.
    ///
    /// All 32 bits of `random` are used; the position is resolved to 2^-32 of a step, exactly
    /// for every `|x| ≥ 2^-25`, truncated below. Values of the type stay as they are. Beyond
    /// ±57344 it saturates; NaN stays NaN.
    #[inline]
    pub const fn from_f32_stochastic(x: f32, random: u32) -> Self {
        let code = if x.is_nan() {
            NAN_CODE
        } else {
            limit(E5M2.round_stochastic(x as f64, random), E5M2.max_code)
        };
        Self(with_sign(code, x.is_sign_negative()))
    }

    const fn parse_f64(x: f64) -> Option<Self> {
        let negative = x.is_sign_negative();
        if x.is_nan() {
            return Some(Self(with_sign(NAN_CODE, negative)));
        }
        if x.is_infinite() {
            return Some(Self(with_sign(INFINITY_CODE, negative)));
        }
        let code = E5M2.round_f64(x);
        if code > E5M2.max_code {
            return None;
        }
        Some(Self(with_sign(code, negative)))
    }

    /// Whether it is NaN: exponent all ones, mantissa not zero.
    #[inline]
    pub const fn is_nan(self) -> bool {
        self.0 & 0x7f > INFINITY_CODE as u8
    }

    /// Whether it is +∞ or −∞.
    #[inline]
    pub const fn is_infinite(self) -> bool {
        self.0 & 0x7f == INFINITY_CODE as u8
    }
}

float8!(F8E5M2);
value_traits!(F8E5M2, "a number that rounds to a value from -57344 to 57344, inf, or NaN");
