//! The typed tensor API.
//!
//! A [`Tensor<E, R>`] holds plain elements of type `E` in `R` dimensions; a [`ScaledTensor<F, R>`]
//! holds codes of the block format `F`. Both are cheap to clone: clones and views share the
//! bytes. A method that computes builds an [`op`](crate::op), hands it to the device, and returns
//! a new tensor; a method that only looks differently at the same bytes ([`Tensor::transpose`],
//! [`Tensor::slice`], …) copies nothing. Nothing converts, copies or moves unless its name says
//! so.

mod any;
mod attention;
mod concat;
mod convert;
mod dense;
mod elementwise;
mod gather;
mod gptq;
mod grouped_gemm;
mod host;
mod interop;
mod matmul;
#[cfg(feature = "ndarray")]
mod ndarray;
mod norm;
mod reduce;
mod rope;
mod scaled;
mod scaled_view;
mod scatter;
mod shape;
mod show;
mod softmax;
mod view;

pub use any::AnyTensor;
pub use attention::AttentionBuilder;
pub use dense::Tensor;
pub use gather::IndexElement;
pub use grouped_gemm::GroupedGemmBuilder;
pub use host::{HostView, HostViewMut};
pub use matmul::{GemmBuilder, MatMul, MatOperand, ProductElement};
pub use norm::NormBuilder;
pub use scaled::ScaledTensor;
