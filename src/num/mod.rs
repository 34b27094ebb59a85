//! Element types and their exact conversions.

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
