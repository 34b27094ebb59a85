//! Tensors: views, host guards, construction, printing, and parts of block-scaled tensors.
#![cfg(feature = "cpu")]

#[path = "../common/ops.rs"]
mod ops;

mod concat;
mod host;
mod interop;
mod scaled;
mod show;
mod views;
