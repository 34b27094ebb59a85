//! Element types and their exact conversions.
//!
//! | type | sign-exponent-mantissa, bias | range above 0 | infinity | NaN | from a float |
//! |---|---|---|---|---|---|
//! | `f64`, `f32` | IEEE 754 | | yes | yes | RNE |
//! | [`bf16`] | 1-8-7, 127 | 2^-133 … 3.39e38 | yes | yes | RNE, overflow to ±∞ |
//! | [`struct@f16`] | 1-5-10, 15 | 2^-24 … 65504 | yes | yes | RNE, overflow to ±∞ |
//! | [`F8E4M3`] | 1-4-3, 7 | 2^-9 … 448 | no | `S1111111` | RNE, saturating |
//! | [`F8E5M2`] | 1-5-2, 15 | 2^-16 … 57344 | `S1111100` | `S11111mm`, m ≠ 0 | RNE, saturating |
//! | [`E2M1`], [`E2M1x2`] | 1-2-1, 1 | 0.5 … 6 | no | no | RNE, saturating; NaN gives 6 |
//! | [`UE4M3`] (scale) | 0-4-3, 7 | 2^-9 … 448 | no | `1111111` | RNE, saturating; below 0 gives 0 |
//! | [`E8M0`] (scale) | 0-8-0, 127 | 2^-127 … 2^127, no 0 | no | `11111111` | floor, ceil or nearest of the magnitude |
//! | `i8` … `i64`, `u8` … `u64` | | | | | toward 0, saturating; NaN gives 0 |
//!
//! RNE: to nearest, ties to even, in one rounding from the source value. Saturating: what rounds
//! beyond the largest finite value, infinities included, becomes that value with its sign.
//! NaN stays NaN and keeps its sign where the type has both. Conversions to wider types are exact.
//!
//! `bf16::from_f64` and `f16::from_f64`, `half`'s own, do not round right next to ties: for those
//! call `<bf16 as Scalar>::from_f64`.
//!
//! What a type is to a tensor: [`Element`] has a [`DType`]; [`Scalar`] stands for one number, so
//! it is all of these but the packed pair; [`Float`] also has a sign and arithmetic defined on it.
//! The narrow types have no arithmetic operators: convert, compute, and say where to round.

pub mod convert;
mod dtype;
mod e2m1;
mod e8m0;
mod element;
mod f8e4m3;
mod f8e5m2;
mod float8;
mod minifloat;
mod ue4m3;
mod value_traits;

pub use dtype::DType;
pub use e2m1::{E2M1, E2M1x2};
pub use e8m0::E8M0;
pub(crate) use element::Sealed;
pub use element::{Element, Float, Scalar};
pub use f8e4m3::F8E4M3;
pub use f8e5m2::F8E5M2;
pub use half::{bf16, f16};
pub use ue4m3::UE4M3;
