//! UE4M3: the block scale of NVFP4.

use bytemuck::{Pod, Zeroable};

use super::float8::limit;
use super::minifloat::{self, E4M3};
use super::value_traits::value_traits;
use super::{DType, Element, Scalar, Sealed};
use crate::error::{Error, Result};

const NAN_CODE: u8 = 0x7f;
static VALUES: [f32; 256] = {
    let mut values = minifloat::table(E4M3, [f32::NAN; 4]);
    let mut code = 0;
    while code < 128 {
        values[code | 0x80] = values[code];
        code += 1;
    }
    values
};

/// Unsigned E4M3: 4 exponent, 3 mantissa bits, bias 7, in the low seven bits of a byte.
///
/// Values are those of [`F8E4M3`](super::F8E4M3) without sign: 0, 2^-9 to 448, NaN as 0x7f. Bit 7
/// is written as zero and ignored when read.
///
/// ```
/// use ferrocerium::num::UE4M3;
/// assert_eq!(UE4M3::from_f32(500.0).to_f32(), 448.0);
/// assert_eq!(UE4M3::from_f32(-1.0), UE4M3::ZERO);
/// assert!(UE4M3::try_from_f32(-1.0).is_err());
/// ```
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(transparent)]
pub struct UE4M3(u8);

impl UE4M3 {
    /// 0.
    pub const ZERO: Self = Self(0x00);
    /// 1.
    pub const ONE: Self = Self(0x38);
    /// The largest finite value, 448.
    pub const MAX: Self = Self(0x7e);
    /// The smallest value, 0.
    pub const MIN: Self = Self::ZERO;
    /// The smallest positive normal value, 2^-6.
    pub const MIN_POSITIVE: Self = Self(0x08);
    /// The smallest positive value, 2^-9.
    pub const MIN_POSITIVE_SUBNORMAL: Self = Self(0x01);
    /// Distance from 1 to the next larger value, 2^-3.
    pub const EPSILON: Self = Self(0x20);
    /// NaN.
    pub const NAN: Self = Self(NAN_CODE);
    /// Significant bits, the implicit one included.
    pub const MANTISSA_DIGITS: u32 = 4;
    /// The exponent bias.
    pub const BIAS: i32 = E4M3.bias;

    /// The value with this bit pattern; bit 7 has no meaning.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The bit pattern as stored.
    #[inline]
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// The nearest value, ties to even; beyond 448, infinity included, 448; negative numbers, −∞
    /// and −0 included, 0. NaN stays NaN.
    #[inline]
    pub const fn from_f32(x: f32) -> Self {
        let code = limit(E4M3.round_f32(x), E4M3.max_code) as u8;
        let clamped = if x.is_sign_negative() { 0 } else { code };
        Self(if x.is_nan() { NAN_CODE } else { clamped })
    }

    /// As [`Self::from_f32`], from an `f64` in one rounding.
    #[inline]
    pub const fn from_f64(x: f64) -> Self {
        if x.is_nan() {
            Self::NAN
        } else if x.is_sign_negative() {
            Self::ZERO
        } else {
            Self(limit(E4M3.round_f64(x), E4M3.max_code) as u8)
        }
    }

    /// As [`Self::from_f32`] for what can be a scale.
    ///
    /// # Errors
    /// [`Error::Value`] for NaN, infinities and numbers below zero (−0 is zero).
    pub fn try_from_f32(x: f32) -> Result<Self> {
        if !x.is_finite() || x < 0.0 {
            return Err(Error::value(
                "UE4M3::try_from_f32",
                "x",
                format!("{x} cannot be a scale; pass a finite number that is not negative"),
            ));
        }
        Ok(Self::from_f32(x))
    }

    fn parse_f64(x: f64) -> Option<Self> {
        if x.is_nan() {
            return Some(Self::NAN);
        }
        let code = E4M3.round_f64(x);
        (x >= 0.0 && code <= E4M3.max_code).then_some(Self(code as u8))
    }

    /// The value, exactly.
    #[inline]
    pub const fn to_f32(self) -> f32 {
        VALUES[self.0 as usize]
    }

    /// The value, exactly.
    #[inline]
    pub const fn to_f64(self) -> f64 {
        self.to_f32() as f64
    }

    /// Whether it is NaN (bit 7 aside).
    #[inline]
    pub const fn is_nan(self) -> bool {
        self.0 & 0x7f == NAN_CODE
    }

    /// Whether it is not NaN.
    #[inline]
    pub const fn is_finite(self) -> bool {
        !self.is_nan()
    }

    /// By value, NaN last.
    #[inline]
    pub fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0 & 0x7f).cmp(&(other.0 & 0x7f))
    }
}

value_traits!(UE4M3, "a number that rounds to a value from 0 to 448, or NaN");

impl Sealed for UE4M3 {}
impl Element for UE4M3 {
    const DTYPE: DType = DType::UE4M3;
}
impl Scalar for UE4M3 {
    #[inline]
    fn to_f32(self) -> f32 {
        UE4M3::to_f32(self)
    }
    #[inline]
    fn to_f64(self) -> f64 {
        UE4M3::to_f64(self)
    }
    #[inline]
    fn from_f32(x: f32) -> Self {
        UE4M3::from_f32(x)
    }
    #[inline]
    fn from_f64(x: f64) -> Self {
        UE4M3::from_f64(x)
    }
}
