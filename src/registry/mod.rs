//! Kernels: what they are, which are there, and which one runs.
//!
//! A [`Kernel`] states what it supports and what it costs; a [`KernelRegistry`] holds kernels by
//! name; [`select`](KernelRegistry::select) picks one for an operation, in this order: forced by
//! the caller > forced by `FERROCERIUM_KERNEL` > declared cost > order of registration. Never one
//! that does not support the operation. Every decision can be printed ([`Explanation`]).

mod explain;
mod indices;
mod kernel;
mod launch;
mod select;
mod store;
mod workers;

pub use explain::{Candidate, Explanation, Verdict};
pub use kernel::{Cost, Kernel, KernelInfo, Numerics, Tier, Unsupported};
pub use launch::{Launch, ScaledBytes, ScaledBytesMut};
pub use select::Request;
pub use store::KernelRegistry;
pub use workers::Workers;

/// The environment variable that forces kernels by name, read when a device is made: a
/// comma-separated list, each entry
/// forcing its own operation. A name that a registry does not have, although it has kernels of that
/// backend (the part before the first dot), makes operations fail rather than pass unnoticed.
pub const KERNEL_VARIABLE: &str = "FERROCERIUM_KERNEL";
