//! Element types and their exact conversions.
//!
//! | type | bits | stands for |
//! |---|---|---|
//! | [`bf16`], [`f16`](struct@f16), `f32`, `f64` | 16, 16, 32, 64 | IEEE-style floats |

mod dtype;
mod element;

pub use dtype::DType;
pub use element::{Element, Float};
pub use half::{bf16, f16};

/// FP8 1-4-3 without infinities (OCP E4M3, "fn").
#[derive(Clone, Copy)]
pub struct F8E4M3(#[allow(dead_code)] u8);

/// FP8 1-5-2 with infinities (OCP E5M2).
#[derive(Clone, Copy)]
pub struct F8E5M2(#[allow(dead_code)] u8);
