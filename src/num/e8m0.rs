//! E8M0: the power-of-two block scale of the MX formats.

use bytemuck::{Pod, Zeroable};

use super::value_traits::value_traits;
use super::{DType, Element, Scalar, Sealed};
use crate::error::{Error, Result};

/// A power-of-two scale, `2^(bits − 127)`, from 2^-127 to 2^127; 0xff is NaN. No sign, no zero,
/// no infinity.
///
/// Conversions from floats follow CUDA's `cvt.{rz,rp}.satfinite.ue8m0x2` and
/// `__nv_cvt_float_to_e8m0`: the sign is discarded; 0 and what lies below 2^-127 give 2^-127;
/// what lies beyond 2^127, infinity included, gives 2^127; NaN gives NaN.
///
/// ```
/// use ferrocerium::num::E8M0;
/// assert_eq!(E8M0::from_f32_floor(6.0).to_f32(), 4.0);
/// assert_eq!(E8M0::from_f32_ceil(6.1).to_f32(), 8.0);
/// assert_eq!(E8M0::from_exponent(-3).to_f32(), 0.125);
/// ```
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub struct E8M0(u8);

enum Direction {
    Floor,
    Ceil,
    Nearest,
}

const F64_MAN_BITS: u32 = f64::MANTISSA_DIGITS - 1;
const F64_BIAS: i32 = f64::MAX_EXP - 1;

impl E8M0 {
    /// 1.
    pub const ONE: Self = Self(127);
    /// The largest value, 2^127.
    pub const MAX: Self = Self(254);
    /// The smallest value, 2^-127.
    pub const MIN: Self = Self(0);
    /// The smallest value, 2^-127.
    pub const MIN_POSITIVE: Self = Self::MIN;
    /// NaN.
    pub const NAN: Self = Self(0xff);
    /// Significant bits: the implicit one.
    pub const MANTISSA_DIGITS: u32 = 1;
    /// The exponent bias.
    pub const BIAS: i32 = 127;

    /// The value with this bit pattern.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The bit pattern.
    #[inline]
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// `2^exponent`, the exponent clamped to −127 … 127.
    #[inline]
    pub const fn from_exponent(exponent: i32) -> Self {
        let e = if exponent < -Self::BIAS {
            -Self::BIAS
        } else if exponent > Self::BIAS {
            Self::BIAS
        } else {
            exponent
        };
        Self((e + Self::BIAS) as u8)
    }

    /// The exponent, −127 … 127, or `None` for NaN.
    #[inline]
    pub const fn exponent(self) -> Option<i32> {
        if self.is_nan() { None } else { Some(self.0 as i32 - Self::BIAS) }
    }

    /// The largest power of two ≤ `|x|`: rounding toward zero.
    #[inline]
    pub const fn from_f32_floor(x: f32) -> Self {
        Self::round(x as f64, Direction::Floor)
    }

    /// The smallest power of two ≥ `|x|`.
    #[inline]
    pub const fn from_f32_ceil(x: f32) -> Self {
        Self::round(x as f64, Direction::Ceil)
    }

    /// The power of two nearest to `|x|` in value; ties (`1.5 · 2^e`) up, which is to the even one
    /// of the significands 1 and 2.
    #[inline]
    pub const fn from_f32_nearest(x: f32) -> Self {
        Self::round(x as f64, Direction::Nearest)
    }

    const fn round(x: f64, direction: Direction) -> Self {
        if x.is_nan() {
            return Self::NAN;
        }
        let bits = x.abs().to_bits();
        // Zero and f64 subnormals come out far below the range, infinity above: both clamp.
        let floor = (bits >> F64_MAN_BITS) as i32 - F64_BIAS;
        let mantissa = bits & ((1 << F64_MAN_BITS) - 1);
        const HALF: u64 = 1 << (F64_MAN_BITS - 1);
        let up = match direction {
            Direction::Floor => false,
            Direction::Ceil => mantissa > 0,
            Direction::Nearest => mantissa >= HALF,
        };
        Self::from_exponent(floor + up as i32)
    }

    /// The value when `x` is exactly a power of two in range.
    ///
    /// # Errors
    /// [`Error::Value`] for anything else.
    pub fn try_from_f32(x: f32) -> Result<Self> {
        let scale = Self::from_f32_floor(x);
        if scale.to_f32() == x {
            return Ok(scale);
        }
        Err(Error::value(
            "E8M0::try_from_f32",
            "x",
            format!(
                "{x} is not a power of two from 2^-127 to 2^127; \
                 round with from_f32_floor, from_f32_ceil or from_f32_nearest"
            ),
        ))
    }

    fn parse_f64(x: f64) -> Option<Self> {
        if x.is_nan() {
            return Some(Self::NAN);
        }
        let in_range = x >= Self::MIN.to_f64() && x <= Self::MAX.to_f64();
        in_range.then(|| Self::round(x, Direction::Nearest))
    }

    /// The value, exactly (2^-127 is an `f32` subnormal).
    #[inline]
    pub const fn to_f32(self) -> f32 {
        const SMALLEST: u32 = 1 << (f32::MANTISSA_DIGITS - 2);
        f32::from_bits(match self.0 {
            0 => SMALLEST,
            0xff => f32::NAN.to_bits(),
            code => (code as u32) << (f32::MANTISSA_DIGITS - 1),
        })
    }

    /// The value, exactly.
    #[inline]
    pub const fn to_f64(self) -> f64 {
        self.to_f32() as f64
    }

    /// Whether it is NaN.
    #[inline]
    pub const fn is_nan(self) -> bool {
        self.0 == 0xff
    }

    /// Whether it is not NaN.
    #[inline]
    pub const fn is_finite(self) -> bool {
        !self.is_nan()
    }

    /// By value, NaN last.
    #[inline]
    pub fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// 1. (The zero byte is 2^-127.)
impl Default for E8M0 {
    fn default() -> Self {
        Self::ONE
    }
}

value_traits!(E8M0, "a number from 2^-127 to 2^127, or NaN");

impl Sealed for E8M0 {}
impl Element for E8M0 {
    const DTYPE: DType = DType::E8M0;
}
impl Scalar for E8M0 {
    #[inline]
    fn to_f32(self) -> f32 {
        E8M0::to_f32(self)
    }
    #[inline]
    fn to_f64(self) -> f64 {
        E8M0::to_f64(self)
    }
    /// [`E8M0::from_f32_nearest`].
    #[inline]
    fn from_f32(x: f32) -> Self {
        E8M0::from_f32_nearest(x)
    }
    #[inline]
    fn from_f64(x: f64) -> Self {
        Self::round(x, Direction::Nearest)
    }
}
