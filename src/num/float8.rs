//! What the two signed FP8 types have in common.

/// The smaller of a rounded magnitude code and the code that stands for "beyond".
#[inline(always)]
pub(super) const fn limit(code: u32, max: u32) -> u32 {
    if code < max { code } else { max }
}

/// A byte from a 7-bit magnitude code and a sign.
#[inline(always)]
pub(super) const fn with_sign(code: u32, negative: bool) -> u8 {
    code as u8 | (negative as u8) << 7
}

/// Bits, signs, ordering and the element traits, for a type over `u8` with `VALUES` beside it.
macro_rules! float8 {
    ($t:ident) => {
        impl $t {
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

            /// Whether it is neither NaN nor infinite.
            #[inline]
            pub const fn is_finite(self) -> bool {
                !self.is_nan() && !self.is_infinite()
            }

            /// Whether it is subnormal: not zero, smaller than [`Self::MIN_POSITIVE`].
            #[inline]
            pub const fn is_subnormal(self) -> bool {
                let magnitude = self.0 & 0x7f;
                magnitude != 0 && magnitude < Self::MIN_POSITIVE.0
            }

            /// Whether the sign bit is set, also of −0 and NaN.
            #[inline]
            pub const fn is_sign_negative(self) -> bool {
                self.0 & 0x80 != 0
            }

            /// The value with the sign bit cleared.
            #[inline]
            pub const fn abs(self) -> Self {
                Self(self.0 & 0x7f)
            }

            /// The value with the sign bit flipped, also of zeros and NaN.
            #[inline]
            #[allow(clippy::should_implement_trait)]
            pub const fn neg(self) -> Self {
                Self(self.0 ^ 0x80)
            }

            /// IEEE 754 `totalOrder`: −NaN < −∞ < … < −0 < +0 < … < +∞ < +NaN.
            #[inline]
            pub fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
                // Two's complement order after flipping the magnitude of negatives.
                let key = |x: Self| (x.0 ^ (((x.0 as i8) >> 7) as u8 >> 1)) as i8;
                key(*self).cmp(&key(*other))
            }
        }

        impl std::ops::Neg for $t {
            type Output = Self;
            #[inline]
            fn neg(self) -> Self {
                $t::neg(self)
            }
        }

        /// Lossless.
        impl From<$t> for half::f16 {
            #[inline]
            fn from(x: $t) -> Self {
                Self::from_f32(x.to_f32())
            }
        }

        /// Lossless.
        impl From<$t> for half::bf16 {
            #[inline]
            fn from(x: $t) -> Self {
                Self::from_f32(x.to_f32())
            }
        }

        impl Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$t;
        }
        impl Scalar for $t {
            #[inline]
            fn to_f32(self) -> f32 {
                $t::to_f32(self)
            }
            #[inline]
            fn to_f64(self) -> f64 {
                $t::to_f64(self)
            }
            #[inline]
            fn from_f32(x: f32) -> Self {
                $t::from_f32(x)
            }
            #[inline]
            fn from_f64(x: f64) -> Self {
                $t::from_f64(x)
            }
        }
        impl Float for $t {}
    };
}
pub(super) use float8;
