//! FP8 E4M3.

use bytemuck::{Pod, Zeroable};

use super::float8::{float8, limit, with_sign};
use super::minifloat::{self, E4M3};
use super::value_traits::value_traits;
use super::{DType, Element, Float, Scalar, Sealed};

const NAN_CODE: u32 = 0x7f;
static VALUES: [f32; 256] = minifloat::table(E4M3, [f32::NAN; 4]);

/// FP8 E4M3 without infinities (OCP "fn"): 1 sign, 4 exponent, 3 mantissa bits, bias 7.
///
/// | code (sign 0) | value |
/// |---|---|
/// | `0 0000 mmm` | `m/8 · 2^-6` |
/// | `0 eeee mmm` | `(1 + m/8) · 2^(e-7)` |
/// | `0 1111 110` | 448, the largest |
/// | `0 1111 111` | NaN |
///
/// ```
/// use ferrocerium::num::F8E4M3;
/// assert_eq!(F8E4M3::from_f32(0.3).to_f32(), 0.3125);
/// assert_eq!(F8E4M3::from_f32(f32::INFINITY), F8E4M3::MAX);
/// assert!(F8E4M3::from_f32_non_saturating(500.0).is_nan());
/// ```
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct F8E4M3(u8);

impl F8E4M3 {
    /// +0.
    pub const ZERO: Self = Self(0x00);
    /// −0.
    pub const NEG_ZERO: Self = Self(0x80);
    /// 1.
    pub const ONE: Self = Self(0x38);
    /// −1.
    pub const NEG_ONE: Self = Self(0xb8);
    /// The largest finite value, 448.
    pub const MAX: Self = Self(0x7e);
    /// The smallest finite value, −448.
    pub const MIN: Self = Self(0xfe);
    /// The smallest positive normal value, 2^-6.
    pub const MIN_POSITIVE: Self = Self(0x08);
    /// The smallest positive value, 2^-9.
    pub const MIN_POSITIVE_SUBNORMAL: Self = Self(0x01);
    /// The largest subnormal value, 7·2^-9.
    pub const MAX_SUBNORMAL: Self = Self(0x07);
    /// Distance from 1 to the next larger value, 2^-3.
    pub const EPSILON: Self = Self(0x20);
    /// NaN (the positive code; 0xff is NaN too).
    pub const NAN: Self = Self(NAN_CODE as u8);
    /// Significant bits, the implicit one included.
    pub const MANTISSA_DIGITS: u32 = 4;
    /// One more than the exponent of [`Self::MAX`]: `MAX < 2^MAX_EXP`.
    pub const MAX_EXP: i32 = 9;
    /// One more than the exponent of [`Self::MIN_POSITIVE`].
    pub const MIN_EXP: i32 = -5;
    /// The exponent bias.
    pub const BIAS: i32 = E4M3.bias;

    /// The nearest value, ties to even; beyond ±448, infinities included, ±448. NaN stays NaN.
    #[inline]
    pub const fn from_f32(x: f32) -> Self {
        let code = if x.is_nan() { NAN_CODE } else { limit(E4M3.round_f32(x), E4M3.max_code) };
        Self(with_sign(code, x.is_sign_negative()))
    }

    /// As [`Self::from_f32`], from an `f64` in one rounding.
    #[inline]
    pub const fn from_f64(x: f64) -> Self {
        let code = if x.is_nan() { NAN_CODE } else { limit(E4M3.round_f64(x), E4M3.max_code) };
        Self(with_sign(code, x.is_sign_negative()))
    }

    /// The nearest value, ties to even; NaN where that would be 480 or more in magnitude
    /// (`|x| > 464`), and from infinities.
    #[inline]
    pub const fn from_f32_non_saturating(x: f32) -> Self {
        let code = if x.is_nan() { NAN_CODE } else { limit(E4M3.round_f32(x), NAN_CODE) };
        Self(with_sign(code, x.is_sign_negative()))
    }

    /// Rounds to one of the two values around `x`, away from zero with probability equal to the
    /// position of `x` between them: unbiased over uniformly distributed `random`.
    ///
    /// All 32 bits of `random` are used; the position is resolved to 2^-32 of a step, exactly
    /// for every `|x| ≥ 2^-18`, truncated below. Values of the type stay as they are. Beyond
    /// ±448 it saturates; NaN stays NaN.
    #[inline]
    pub const fn from_f32_stochastic(x: f32, random: u32) -> Self {
        let code = if x.is_nan() {
            NAN_CODE
        } else {
            limit(E4M3.round_stochastic(x as f64, random), E4M3.max_code)
        };
        Self(with_sign(code, x.is_sign_negative()))
    }

    const fn parse_f64(x: f64) -> Option<Self> {
        if x.is_nan() {
            return Some(Self(with_sign(NAN_CODE, x.is_sign_negative())));
        }
        let code = E4M3.round_f64(x);
        if code > E4M3.max_code {
            return None;
        }
        Some(Self(with_sign(code, x.is_sign_negative())))
    }

    /// Whether it is NaN (codes 0x7f and 0xff).
    #[inline]
    pub const fn is_nan(self) -> bool {
        self.0 & 0x7f == NAN_CODE as u8
    }

    /// Whether it is infinite: never, the format has no infinities.
    #[inline]
    pub const fn is_infinite(self) -> bool {
        false
    }
}

float8!(F8E4M3);
value_traits!(F8E4M3, "a number that rounds to a value from -448 to 448, or NaN");
