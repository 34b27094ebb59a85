//! Typed FP4 / FP8 / BF16 tensors over buffers that CPU and GPU share, an open kernel registry,
//! and a CPU reference that every kernel is checked against.
#![warn(missing_docs)]

pub mod error;
pub mod format;
#[cfg(any(feature = "gguf", feature = "safetensors"))]
pub mod io;
pub mod num;

pub use error::{Error, Result};
pub use num::{
    DType, E2M1, E2M1x2, E8M0, Element, F8E4M3, F8E5M2, Float, Scalar, UE4M3, bf16, f16,
};
