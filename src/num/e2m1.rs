//! FP4 E2M1: single codes and packed pairs.

use std::cmp::Ordering;
use std::fmt;

use bytemuck::{CheckedBitPattern, NoUninit, Pod, Zeroable};

use super::float8::limit;
use super::minifloat;
use super::value_traits::value_traits;
use super::{DType, Element, Sealed};
use crate::error::{Error, Result};

const SIGN: u8 = 0x8;
const MAX_CODE: u32 = minifloat::E2M1.max_code;

/// The sixteen codes. An enum, so that the type itself rules out a set high nibble.
#[derive(Clone, Copy, Default, NoUninit, Zeroable, CheckedBitPattern)]
#[repr(u8)]
#[rustfmt::skip]
enum Code { #[default] C0 = 0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14, C15 }

const CODES: [Code; 16] = {
    use Code::*;
    [C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12, C13, C14, C15]
};

/// One FP4 E2M1 value: 1 sign, 2 exponent, 1 mantissa bit, bias 1; no infinities, no NaN.
///
/// Codes 0 to 7 are 0, 0.5, 1, 1.5, 2, 3, 4, 6; bit 3 is the sign. It takes a whole byte, the
/// code in the low nibble, the high nibble zero; storage uses [`E2M1x2`].
///
/// ```
/// use ferrocerium::num::E2M1;
/// assert_eq!(E2M1::from_f32(2.5).to_f32(), 2.0); // a tie: to the even code
/// assert_eq!(E2M1::from_f32(-100.0), E2M1::MIN);
/// assert!(E2M1::try_from_f32(f32::NAN).is_err());
/// ```
#[derive(Clone, Copy, Default, NoUninit, Zeroable, CheckedBitPattern)]
#[repr(transparent)]
pub struct E2M1(Code);

impl E2M1 {
    /// +0.
    pub const ZERO: Self = Self(Code::C0);
    /// −0.
    pub const NEG_ZERO: Self = Self(Code::C8);
    /// 1.
    pub const ONE: Self = Self(Code::C2);
    /// −1.
    pub const NEG_ONE: Self = Self(Code::C10);
    /// The largest value, 6.
    pub const MAX: Self = Self(Code::C7);
    /// The smallest value, −6.
    pub const MIN: Self = Self(Code::C15);
    /// The smallest positive normal value, 1.
    pub const MIN_POSITIVE: Self = Self::ONE;
    /// The smallest positive value, 0.5.
    pub const MIN_POSITIVE_SUBNORMAL: Self = Self(Code::C1);
    /// Distance from 1 to the next larger value, 0.5.
    pub const EPSILON: Self = Self(Code::C1);
    /// Significant bits, the implicit one included.
    pub const MANTISSA_DIGITS: u32 = 2;
    /// The exponent bias.
    pub const BIAS: i32 = minifloat::E2M1.bias;
    /// The value of every code.
    pub const VALUES: [f32; 16] = {
        let mut values = [0.0; 16];
        let mut code = 0;
        while code < 8 {
            values[code] = minifloat::E2M1.decode(code as u32) as f32;
            values[code | SIGN as usize] = -values[code];
            code += 1;
        }
        values
    };

    /// The value whose code is the low nibble of `bits`; the high nibble is ignored.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        Self(CODES[(bits & 0xf) as usize])
    }

    /// The code, 0 to 15.
    #[inline]
    pub const fn to_bits(self) -> u8 {
        self.0 as u8
    }

    /// The code of [`Self::from_f32`], without branches so that loops vectorise.
    #[inline(always)]
    pub(super) const fn code_of(x: f32) -> u8 {
        let code = limit(minifloat::E2M1.round_f32(x), MAX_CODE) as u8;
        let signed = code | (x.is_sign_negative() as u8) << 3;
        if x.is_nan() { MAX_CODE as u8 } else { signed }
    }

    #[inline]
    const fn from_code(code: u32, negative: bool) -> Self {
        Self::from_bits(limit(code, MAX_CODE) as u8 | (negative as u8) << 3)
    }

    /// The nearest value, ties to the even code; beyond ±6, infinities included, ±6. NaN of
    /// either sign gives +6: what CUDA documents of `__nv_cvt_float_to_fp4` ("NaN input values
    /// result in positive MAXNORM"), which is PTX `cvt.rn.satfinite.e2m1x2.f32`.
    #[inline]
    pub const fn from_f32(x: f32) -> Self {
        Self::from_bits(Self::code_of(x))
    }

    /// As [`Self::from_f32`], from an `f64` in one rounding.
    #[inline]
    pub const fn from_f64(x: f64) -> Self {
        if x.is_nan() {
            return Self::MAX;
        }
        Self::from_code(minifloat::E2M1.round_f64(x), x.is_sign_negative())
    }

    /// As [`Self::from_f32`].
    ///
    /// # Errors
    /// [`Error::Value`] for NaN, which the format does not have.
    pub fn try_from_f32(x: f32) -> Result<Self> {
        if x.is_nan() {
            return Err(Error::value(
                "E2M1::try_from_f32",
                "x",
                "x is NaN and E2M1 has no NaN; replace NaN first, or use from_f32, which gives 6",
            ));
        }
        Ok(Self::from_f32(x))
    }

    /// Rounds to one of the two values around `x`, away from zero with probability equal to the
    /// position of `x` between them: unbiased over uniformly distributed `random`.
    ///
    /// All 32 bits of `random` are used; the position is resolved to 2^-32 of a step, exactly
    /// for every `|x| ≥ 2^-10`, truncated below. Values of the type stay as they are. Beyond ±6
    /// it saturates; NaN gives +6.
    #[inline]
    pub const fn from_f32_stochastic(x: f32, random: u32) -> Self {
        if x.is_nan() {
            return Self::MAX;
        }
        let code = minifloat::E2M1.round_stochastic(x as f64, random);
        Self::from_code(code, x.is_sign_negative())
    }

    /// `None` for NaN and what rounds beyond ±6.
    fn parse_f64(x: f64) -> Option<Self> {
        if x.is_nan() {
            return None;
        }
        let code = minifloat::E2M1.round_f64(x);
        (code <= MAX_CODE).then(|| Self::from_code(code, x.is_sign_negative()))
    }

    /// The value, exactly.
    #[inline]
    pub const fn to_f32(self) -> f32 {
        Self::VALUES[self.0 as usize]
    }

    /// The value, exactly.
    #[inline]
    pub const fn to_f64(self) -> f64 {
        self.to_f32() as f64
    }

    /// Whether the sign bit is set, also of −0.
    #[inline]
    pub const fn is_sign_negative(self) -> bool {
        self.0 as u8 & SIGN != 0
    }

    /// The value with the sign bit cleared.
    #[inline]
    pub const fn abs(self) -> Self {
        Self::from_bits(self.0 as u8 & !SIGN)
    }

    /// The value with the sign bit flipped, also of zeros.
    #[inline]
    #[allow(clippy::should_implement_trait)]
    pub const fn neg(self) -> Self {
        Self::from_bits(self.0 as u8 ^ SIGN)
    }

    /// IEEE 754 `totalOrder`: by value, −0 before +0.
    #[inline]
    pub fn total_cmp(&self, other: &Self) -> Ordering {
        self.to_f32().total_cmp(&other.to_f32())
    }
}

value_traits!(E2M1, "a number that rounds to a value from -6 to 6");

/// There is no NaN.
impl Eq for E2M1 {}

impl std::ops::Neg for E2M1 {
    type Output = Self;
    #[inline]
    fn neg(self) -> Self {
        E2M1::neg(self)
    }
}

/// Two FP4 codes in a byte: the element with the lower index in the low nibble.
///
/// This is the stored form; equality and hash are of the byte, so a pair holding −0 differs from
/// one holding +0.
///
/// ```
/// use ferrocerium::num::{E2M1, E2M1x2};
/// let pair = E2M1x2::new(E2M1::from_f32(1.5), E2M1::from_f32(-6.0));
/// assert_eq!(pair.to_bits(), 0xf3);
/// assert_eq!((pair.lo().to_f32(), pair.hi().to_f32()), (1.5, -6.0));
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct E2M1x2(u8);

impl E2M1x2 {
    /// Two zeros.
    pub const ZERO: Self = Self(0);

    /// Packs `lo` (the lower index) into the low nibble and `hi` into the high one.
    #[inline]
    pub const fn new(lo: E2M1, hi: E2M1) -> Self {
        Self(lo.to_bits() | hi.to_bits() << 4)
    }

    /// The pair with this byte.
    #[inline]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The byte.
    #[inline]
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// The element with the lower index, from the low nibble.
    #[inline]
    pub const fn lo(self) -> E2M1 {
        E2M1::from_bits(self.0)
    }

    /// The element with the higher index, from the high nibble.
    #[inline]
    pub const fn hi(self) -> E2M1 {
        E2M1::from_bits(self.0 >> 4)
    }

    /// Both values, the lower index first.
    #[inline]
    pub const fn to_f32s(self) -> [f32; 2] {
        [self.lo().to_f32(), self.hi().to_f32()]
    }

    /// Two values rounded as [`E2M1::from_f32`] does, the lower index first.
    #[inline]
    pub const fn from_f32s([lo, hi]: [f32; 2]) -> Self {
        Self(E2M1::code_of(lo) | E2M1::code_of(hi) << 4)
    }
}

/// `(lo, hi)`.
impl fmt::Debug for E2M1x2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({:?}, {:?})", self.lo(), self.hi())
    }
}

/// `(lo, hi)`.
impl fmt::Display for E2M1x2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.lo(), self.hi())
    }
}

impl Sealed for E2M1x2 {}
impl Element for E2M1x2 {
    const DTYPE: DType = DType::E2M1x2;
}
