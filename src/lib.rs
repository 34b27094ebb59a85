//! Typed FP4 / FP8 / BF16 tensors over buffers that CPU and GPU share, an open kernel registry,
//! and a CPU reference that every kernel is checked against.
#![warn(missing_docs)]

pub mod error;
pub mod format;
pub mod num;

pub use error::{Error, Result};
pub use num::{DType, Element, bf16, f16};
