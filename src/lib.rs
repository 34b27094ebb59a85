//! Typed FP4 / FP8 / BF16 tensors over buffers that CPU and GPU share, an open kernel registry,
//! and a CPU reference that every kernel is checked against.
#![warn(missing_docs)]

pub mod backend;
pub mod caps;
pub mod device;
pub mod error;
pub mod format;
#[cfg(any(feature = "gguf", feature = "safetensors"))]
pub mod io;
pub mod memory;
pub mod num;
pub mod op;
pub mod registry;
pub mod tensor;
#[cfg(feature = "testing")]
pub mod testing;

pub use device::Device;
pub use error::{Error, Result};
pub use num::{
    DType, E2M1, E2M1x2, E8M0, Element, F8E4M3, F8E5M2, Float, Scalar, UE4M3, bf16, f16,
};
pub use tensor::{AnyTensor, MatMul, ScaledTensor, Tensor};

/// The README's code, as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
