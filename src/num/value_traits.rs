//! Traits that follow from a type's numeric value alone.

/// Comparison, hashing, text and num-traits for a type with `to_f32`, `to_f64`, and
/// `parse_f64(f64) -> Option<Self>` (`None` where the type has no such value).
macro_rules! value_traits {
    ($t:ident, $expected:literal) => {
        /// Compares values: NaN differs from everything, −0 equals +0.
        impl PartialEq for $t {
            #[inline]
            fn eq(&self, other: &Self) -> bool {
                self.to_f32() == other.to_f32()
            }
        }

        /// Compares values; NaN is unordered.
        impl PartialOrd for $t {
            #[inline]
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                self.to_f32().partial_cmp(&other.to_f32())
            }
        }

        /// Equal values have equal hashes, so ±0 are one.
        impl std::hash::Hash for $t {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                state.write_u32((self.to_f32() + 0.0).to_bits());
            }
        }

        impl std::fmt::Debug for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&self.to_f32(), f)
            }
        }

        impl std::fmt::Display for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.to_f32(), f)
            }
        }

        impl std::fmt::LowerExp for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::LowerExp::fmt(&self.to_f32(), f)
            }
        }

        impl std::fmt::UpperExp for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::UpperExp::fmt(&self.to_f32(), f)
            }
        }

        /// Reads the text as the nearest `f64` and rounds that; a number beyond the type's range
        /// is an error, not saturated.
        impl std::str::FromStr for $t {
            type Err = crate::error::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                // A number too large for f64 reads as infinity, which some types do have.
                let overflow = |x: &f64| x.is_infinite() && text.contains(char::is_numeric);
                let number = text.parse::<f64>().ok().filter(|x| !overflow(x));
                number.and_then(Self::parse_f64).ok_or_else(|| crate::error::Error::Parse {
                    what: stringify!($t),
                    text: text.to_owned(),
                    expected: $expected.to_owned(),
                })
            }
        }

        /// Lossless.
        impl From<$t> for f32 {
            #[inline]
            fn from(x: $t) -> f32 {
                x.to_f32()
            }
        }

        /// Lossless.
        impl From<$t> for f64 {
            #[inline]
            fn from(x: $t) -> f64 {
                x.to_f64()
            }
        }

        impl num_traits::Bounded for $t {
            fn min_value() -> Self {
                Self::MIN
            }
            fn max_value() -> Self {
                Self::MAX
            }
        }

        impl num_traits::ToPrimitive for $t {
            fn to_i64(&self) -> Option<i64> {
                num_traits::ToPrimitive::to_i64(&$t::to_f64(*self))
            }
            fn to_u64(&self) -> Option<u64> {
                num_traits::ToPrimitive::to_u64(&$t::to_f64(*self))
            }
            fn to_i128(&self) -> Option<i128> {
                num_traits::ToPrimitive::to_i128(&$t::to_f64(*self))
            }
            fn to_u128(&self) -> Option<u128> {
                num_traits::ToPrimitive::to_u128(&$t::to_f64(*self))
            }
            fn to_f32(&self) -> Option<f32> {
                Some($t::to_f32(*self))
            }
            fn to_f64(&self) -> Option<f64> {
                Some($t::to_f64(*self))
            }
        }

        /// Rounds; `None` beyond the type's range.
        impl num_traits::FromPrimitive for $t {
            fn from_i64(n: i64) -> Option<Self> {
                Self::parse_f64(n as f64)
            }
            fn from_u64(n: u64) -> Option<Self> {
                Self::parse_f64(n as f64)
            }
            fn from_f32(n: f32) -> Option<Self> {
                Self::parse_f64(f64::from(n))
            }
            fn from_f64(n: f64) -> Option<Self> {
                Self::parse_f64(n)
            }
        }
    };
}
pub(crate) use value_traits;
