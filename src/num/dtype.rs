//! Element types as run-time values.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

use super::{E2M1, E8M0, F8E4M3, F8E5M2, UE4M3};
use crate::error::Error;

/// An element type as a run-time value.
///
/// Every data type occupies whole bytes: [`DType::E2M1x2`] is *two* FP4 codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// bfloat16: 1-8-7.
    BF16,
    /// IEEE binary16: 1-5-10.
    F16,
    /// FP8 1-4-3, no infinities (OCP E4M3, "fn").
    F8E4M3,
    /// FP8 1-5-2 with infinities (OCP E5M2).
    F8E5M2,
    /// A byte of two FP4 (1-2-1) codes, the lower index in the low nibble.
    E2M1x2,
    /// Power-of-two scale: 8 exponent bits.
    E8M0,
    /// Unsigned E4M3 scale.
    UE4M3,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 64-bit integer.
    U64,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 8-bit integer.
    U8,
}

impl DType {
    /// Every data type.
    pub const ALL: [DType; 17] = [
        DType::F64,
        DType::F32,
        DType::BF16,
        DType::F16,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::E2M1x2,
        DType::E8M0,
        DType::UE4M3,
        DType::I64,
        DType::I32,
        DType::I16,
        DType::I8,
        DType::U64,
        DType::U32,
        DType::U16,
        DType::U8,
    ];

    /// Size of one element in bytes.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 | DType::U64 => 8,
            DType::F32 | DType::I32 | DType::U32 => 4,
            DType::BF16 | DType::F16 | DType::I16 | DType::U16 => 2,
            DType::F8E4M3
            | DType::F8E5M2
            | DType::E2M1x2
            | DType::E8M0
            | DType::UE4M3
            | DType::I8
            | DType::U8 => 1,
        }
    }

    /// Whether arithmetic is defined on it: a signed float that is not a scale or a packed pair.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            DType::F64 | DType::F32 | DType::BF16 | DType::F16 | DType::F8E4M3 | DType::F8E5M2
        )
    }

    /// Whether it is a float whose every value f32 holds.
    pub const fn fits_f32(self) -> bool {
        self.is_float() && !matches!(self, DType::F64)
    }

    /// Whether it is an integer type.
    pub const fn is_int(self) -> bool {
        matches!(
            self,
            DType::I64
                | DType::I32
                | DType::I16
                | DType::I8
                | DType::U64
                | DType::U32
                | DType::U16
                | DType::U8
        )
    }

    /// The largest finite value; of each element for [`DType::E2M1x2`]. Exact but for the 64-bit
    /// integers, where it is 2^63 and 2^64, the nearest `f64`.
    pub const fn max_finite(self) -> f64 {
        match self {
            DType::F64 => f64::MAX,
            DType::F32 => f32::MAX as f64,
            DType::BF16 => bf16::MAX.to_f64_const(),
            DType::F16 => f16::MAX.to_f64_const(),
            DType::F8E4M3 => F8E4M3::MAX.to_f64(),
            DType::F8E5M2 => F8E5M2::MAX.to_f64(),
            DType::E2M1x2 => E2M1::MAX.to_f64(),
            DType::E8M0 => E8M0::MAX.to_f64(),
            DType::UE4M3 => UE4M3::MAX.to_f64(),
            DType::I64 => i64::MAX as f64,
            DType::I32 => i32::MAX as f64,
            DType::I16 => i16::MAX as f64,
            DType::I8 => i8::MAX as f64,
            DType::U64 => u64::MAX as f64,
            DType::U32 => u32::MAX as f64,
            DType::U16 => u16::MAX as f64,
            DType::U8 => u8::MAX as f64,
        }
    }

    /// The smallest value above zero, subnormals included; of each element for
    /// [`DType::E2M1x2`]. Rounding a value below the normal range errs by at most half of it.
    pub const fn min_positive(self) -> f64 {
        match self {
            DType::F64 => f64::from_bits(1),
            DType::F32 => f32::from_bits(1) as f64,
            DType::BF16 => bf16::MIN_POSITIVE_SUBNORMAL.to_f64_const(),
            DType::F16 => f16::MIN_POSITIVE_SUBNORMAL.to_f64_const(),
            DType::F8E4M3 => F8E4M3::MIN_POSITIVE_SUBNORMAL.to_f64(),
            DType::F8E5M2 => F8E5M2::MIN_POSITIVE_SUBNORMAL.to_f64(),
            DType::E2M1x2 => E2M1::MIN_POSITIVE_SUBNORMAL.to_f64(),
            DType::E8M0 => E8M0::MIN_POSITIVE.to_f64(),
            DType::UE4M3 => UE4M3::MIN_POSITIVE_SUBNORMAL.to_f64(),
            DType::I64
            | DType::I32
            | DType::I16
            | DType::I8
            | DType::U64
            | DType::U32
            | DType::U16
            | DType::U8 => 1.0,
        }
    }

    /// Explicit mantissa bits; `None` for integers.
    pub const fn mantissa_bits(self) -> Option<u32> {
        match self {
            DType::F64 => Some(52),
            DType::F32 => Some(23),
            DType::BF16 => Some(7),
            DType::F16 => Some(10),
            DType::F8E4M3 | DType::UE4M3 => Some(3),
            DType::F8E5M2 => Some(2),
            DType::E2M1x2 => Some(1),
            DType::E8M0 => Some(0),
            _ => None,
        }
    }

    /// `u = 2^-(mantissa bits + 1)`: rounding `x` to nearest in the normal range gives `x·(1 + δ)`
    /// with `|δ| ≤ u`. `None` for integers.
    pub const fn unit_roundoff(self) -> Option<f64> {
        match self.mantissa_bits() {
            Some(bits) => Some(1.0 / (1u64 << (bits + 1)) as f64),
            None => None,
        }
    }

    /// The name, as printed and parsed: `"bf16"`, `"f8e4m3"`, …
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::F8E4M3 => "f8e4m3",
            DType::F8E5M2 => "f8e5m2",
            DType::E2M1x2 => "e2m1x2",
            DType::E8M0 => "e8m0",
            DType::UE4M3 => "ue4m3",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::I16 => "i16",
            DType::I8 => "i8",
            DType::U64 => "u64",
            DType::U32 => "u32",
            DType::U16 => "u16",
            DType::U8 => "u8",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|d| d.name() == text).ok_or_else(|| Error::Parse {
            what: "data type",
            text: text.to_owned(),
            expected: Self::ALL.map(DType::name).join(", "),
        })
    }
}
