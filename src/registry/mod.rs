//! Kernels: what they are, which are there, and which one runs.
//!
//! A [`Kernel`] states what it supports and what it costs; a [`KernelRegistry`] holds kernels by
//! name; [`select`](KernelRegistry::select) picks one for an operation: that which the caller
//! forces, else which `FERROCERIUM_KERNEL` forces, else which was measured to be the fastest
//! ([`Tuning`]), else the one with the least declared cost, of equals the first registered. Never
//! one that does not support the operation. Every decision can be printed ([`Explanation`]).
//!
//! ```
//! use ferrocerium::op::{Dense, Gemm};
//! use ferrocerium::registry::Explanation;
//! use ferrocerium::{DType, Device};
//!
//! let device = Device::cpu();
//! for kernel in device.registry().list() {
//!     println!("{:24} {:12} {}", kernel.name, kernel.op.name(), kernel.summary);
//! }
//! let x = Dense::spec(DType::F32, &[64, 64])?;
//! let product = Gemm::new(x.clone(), x.clone(), x).into();
//! let name = |e: Explanation| e.chosen().map(|kernel| kernel.name.clone());
//! assert_eq!(name(device.explain(&product)?).as_deref(), Some("cpu.gemm"));
//! // Out of the way, for all who use this device, and back.
//! device.registry().disable("cpu.gemm")?;
//! assert_eq!(name(device.explain(&product)?).as_deref(), Some("reference.gemm"));
//! device.registry().enable("cpu.gemm")?;
//! # Ok::<(), ferrocerium::Error>(())
//! ```

mod explain;
mod indices;
mod kernel;
mod launch;
mod select;
mod store;
#[cfg_attr(not(any(feature = "cuda", feature = "emulator")), allow(dead_code, reason = "for GPUs"))]
mod stream;
#[cfg(feature = "cpu")]
mod threads;
mod tuning;
mod workers;

pub use explain::{Candidate, Explanation, Verdict};
pub use kernel::{Cost, Kernel, KernelInfo, Numerics, Tier, Unsupported};
pub use launch::{Launch, ScaledBytes, ScaledBytesMut};
pub use select::Request;
pub use store::KernelRegistry;
pub(crate) use stream::{Accelerator, Recorded, Stream};
pub use tuning::Tuning;
pub use workers::Workers;

/// The environment variable that forces kernels by name, read when a device is made: a
/// comma-separated list, each entry
/// forcing its own operation. A name that a registry does not have, although it has kernels of that
/// backend (the part before the first dot), makes operations fail rather than pass unnoticed.
pub const KERNEL_VARIABLE: &str = "FERROCERIUM_KERNEL";
