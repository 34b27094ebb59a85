//! The traits that tie a Rust type to its [`DType`] and to its numeric value.

use std::fmt::{Debug, Display};

use bytemuck::Pod;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::DType;
use super::minifloat;

mod sealed {
    pub trait Sealed {}
}
pub(crate) use sealed::Sealed;

/// A type that tensors can hold: plain bytes with a [`DType`].
///
/// Sealed: a new element type needs a new [`DType`].
pub trait Element: Sealed + Pod + Send + Sync + Debug + Display + PartialEq + 'static {
    /// The run-time name of this type.
    const DTYPE: DType;
}

/// An [`Element`] that stands for one number.
pub trait Scalar: Element + PartialOrd {
    /// The value, exactly where `f32` holds it, else rounded to nearest even.
    fn to_f32(self) -> f32;

    /// The value, exactly where `f64` holds it, else rounded to nearest even.
    fn to_f64(self) -> f64;

    /// `x` in this type: floats round to nearest even in one step and saturate where the type is
    /// 8 bits wide (`bf16` and `f16` overflow to infinity); integers truncate toward zero and
    /// saturate (NaN gives 0). Types without a sign or without zero say what they do.
    fn from_f32(x: f32) -> Self;

    /// As [`Scalar::from_f32`], from an `f64`, in one rounding.
    fn from_f64(x: f64) -> Self;

    /// Converts a slice with [`Scalar::to_f32`].
    ///
    /// # Panics
    /// When the lengths differ, as `copy_from_slice` does.
    fn to_f32_slice(src: &[Self], dst: &mut [f32]) {
        assert_eq!(src.len(), dst.len(), "to_f32_slice: lengths differ");
        for (d, s) in dst.iter_mut().zip(src) {
            *d = s.to_f32();
        }
    }

    /// Converts a slice with [`Scalar::from_f32`].
    ///
    /// # Panics
    /// When the lengths differ, as `copy_from_slice` does.
    fn from_f32_slice(src: &[f32], dst: &mut [Self]) {
        assert_eq!(src.len(), dst.len(), "from_f32_slice: lengths differ");
        for (d, s) in dst.iter_mut().zip(src) {
            *d = Self::from_f32(*s);
        }
    }
}

/// A [`Scalar`] on which arithmetic is defined: a signed float.
pub trait Float: Scalar {}

macro_rules! primitive {
    ($($t:ty => $dtype:ident),* $(,)?) => {$(
        impl Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
        }
        impl Scalar for $t {
            #[inline]
            fn to_f32(self) -> f32 { self as f32 }
            #[inline]
            fn to_f64(self) -> f64 { self as f64 }
            #[inline]
            fn from_f32(x: f32) -> Self { x as $t }
            #[inline]
            fn from_f64(x: f64) -> Self { x as $t }
        }
    )*};
}

primitive! {
    f64 => F64, f32 => F32,
    i64 => I64, i32 => I32, i16 => I16, i8 => I8,
    u64 => U64, u32 => U32, u16 => U16, u8 => U8,
}

/// `half`'s own `from_f64` looks at the upper 32 bits of the `f64` only, or goes through `f32`:
/// both are wrong next to ties.
macro_rules! half_float {
    ($($t:ident => $dtype:ident, $layout:ident;)*) => {$(
        impl Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$dtype;
        }
        impl Scalar for $t {
            #[inline]
            fn to_f32(self) -> f32 { $t::to_f32(self) }
            #[inline]
            fn to_f64(self) -> f64 { $t::to_f64(self) }
            #[inline]
            fn from_f32(x: f32) -> Self { $t::from_f32(x) }
            #[inline]
            fn from_f64(x: f64) -> Self {
                if x.is_nan() {
                    return $t::from_f32(x as f32);
                }
                let infinity = $t::INFINITY.to_bits();
                let code = minifloat::$layout.round_f64(x).min(u32::from(infinity)) as u16;
                Self::from_bits(code | u16::from(x.is_sign_negative()) << 15)
            }
            fn to_f32_slice(src: &[Self], dst: &mut [f32]) {
                assert_eq!(src.len(), dst.len(), "to_f32_slice: lengths differ");
                src.convert_to_f32_slice(dst);
            }
            fn from_f32_slice(src: &[f32], dst: &mut [Self]) {
                assert_eq!(src.len(), dst.len(), "from_f32_slice: lengths differ");
                dst.convert_from_f32_slice(src);
            }
        }
        impl Float for $t {}
    )*};
}

half_float! {
    bf16 => BF16, BF16;
    f16 => F16, F16;
}

impl Float for f64 {}
impl Float for f32 {}
