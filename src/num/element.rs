//! The trait that ties a Rust type to its [`DType`].

use std::fmt::{Debug, Display};

use bytemuck::Pod;
use half::{bf16, f16};

use super::DType;

mod sealed {
    pub trait Sealed {}
}
pub(crate) use sealed::Sealed;

/// A type that tensors can hold: plain bytes with a [`DType`] and conversions.
///
/// Sealed: a new element type needs a new [`DType`].
pub trait Element: Sealed + Pod + Send + Sync + Debug + Display + PartialEq + 'static {
    /// The run-time name of this type.
    const DTYPE: DType;

    /// The value, exactly where `f32` holds it, else rounded to nearest even.
    fn to_f32(self) -> f32;

    /// The value, exactly where `f64` holds it, else rounded to nearest even.
    fn to_f64(self) -> f64;

    /// `x` in this type: floats round to nearest even in one step and saturate where the type
    /// has no infinity; integers truncate toward zero and saturate (NaN gives 0).
    fn from_f32(x: f32) -> Self;

    /// As [`Element::from_f32`], from an `f64`, in one rounding.
    fn from_f64(x: f64) -> Self;

    /// Converts a slice with [`Element::to_f32`].
    ///
    /// # Panics
    /// When the lengths differ.
    fn to_f32_slice(src: &[Self], dst: &mut [f32]) {
        assert_eq!(src.len(), dst.len(), "to_f32_slice: lengths differ");
        for (d, s) in dst.iter_mut().zip(src) {
            *d = s.to_f32();
        }
    }

    /// Converts a slice with [`Element::from_f32`].
    ///
    /// # Panics
    /// When the lengths differ.
    fn from_f32_slice(src: &[f32], dst: &mut [Self]) {
        assert_eq!(src.len(), dst.len(), "from_f32_slice: lengths differ");
        for (d, s) in dst.iter_mut().zip(src) {
            *d = Self::from_f32(*s);
        }
    }
}

/// An [`Element`] on which arithmetic is defined.
pub trait Float: Element + PartialOrd {}

macro_rules! element {
    ($($t:ty => $dtype:ident),* $(,)?) => {$(
        impl Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            fn to_f32(self) -> f32 { self as f32 }
            fn to_f64(self) -> f64 { self as f64 }
            fn from_f32(x: f32) -> Self { x as $t }
            fn from_f64(x: f64) -> Self { x as $t }
        }
    )*};
}

element! {
    f64 => F64, f32 => F32,
    i64 => I64, i32 => I32, i16 => I16, i8 => I8,
    u64 => U64, u32 => U32, u16 => U16, u8 => U8,
}

macro_rules! element_half {
    ($($t:ty => $dtype:ident),* $(,)?) => {$(
        impl Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
            fn to_f32(self) -> f32 { <$t>::to_f32(self) }
            fn to_f64(self) -> f64 { <$t>::to_f64(self) }
            fn from_f32(x: f32) -> Self { <$t>::from_f32(x) }
            fn from_f64(x: f64) -> Self { <$t>::from_f64(x) }
        }
    )*};
}

element_half! { bf16 => BF16, f16 => F16 }

impl Float for f64 {}
impl Float for f32 {}
impl Float for bf16 {}
impl Float for f16 {}
