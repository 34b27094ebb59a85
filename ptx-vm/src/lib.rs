//! Runs compiled CUDA kernels (PTX) on the CPU, with checks no GPU makes.
//!
//! ```
//! use ptx_vm::{LaunchConfig, Machine, Module};
//!
//! # let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry double(\
//! #   .param .u64 p)\n{ .reg .b64 %d<4>; .reg .b32 %r<3>;\n ld.param.u64 %d1, [p];\n\
//! #   mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4; add.s64 %d3, %d1, %d2;\n\
//! #   ld.global.u32 %r2, [%d3]; add.s32 %r2, %r2, %r2; st.global.u32 [%d3], %r2; ret; }";
//! let module = Module::from_ptx(ptx)?;
//! let mut machine = Machine::new();
//! let data = machine.upload(&[1u8, 0, 0, 0, 2, 0, 0, 0])?;
//! machine.launch(&module, "double", &LaunchConfig::new(1, 2), &[data.into()])?;
//! let mut out = [0u8; 8];
//! machine.read(data, &mut out)?;
//! assert_eq!(out, [2, 0, 0, 0, 4, 0, 0, 0]);
//! # Ok::<(), ptx_vm::Error>(())
//! ```
//!
//! What the compiler emitted is executed instruction by instruction, warps in lock-step,
//! blocks in parallel on host threads. While it runs, the machine watches every access:
//! bounds and alignment of every allocation, bytes and registers that nobody wrote, races
//! on shared memory, barriers that not all threads reach, data of asynchronous copies that
//! nobody waited for. A defect is an [`Error::Fault`] with the kernel, the line (of the
//! CUDA source too, when compiled with `-lineinfo`), the block, the thread and what
//! happened.
//!
//! An instruction, modifier or directive that is not understood is an error when the module
//! is read, with its line: nothing is guessed. `FIDELITY.md` says for each class of
//! instructions what it was checked against.
//!
//! # Inside
//! `parse` turns text into a syntax tree, `lower` turns that into a compact form (names
//! are slots, modifiers are functions on 32 lanes, branches know where lanes meet again),
//! `exec` runs it, `check` keeps the state of every shared byte and what is ordered before
//! what, `numeric` knows every float format and rounds in one place.
//!
//! The parser is our own: kernels use a small part of PTX's grammar, strictness about that
//! part is the point, and a generated parser of the whole language
//! (`ptx-syntax` 0.5, 122,000 lines) would cost more compile time than this whole crate.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod check;
mod error;
mod exec;
mod launch;
mod lower;
mod machine;
mod module;
mod numeric;
mod parse;
mod profile;
mod target;
mod tensor_map;

pub use error::{Error, Fault, FaultKind, Result, Space};
pub use launch::{Arg, DevicePtr, Dim, LaunchConfig, Report};
pub use machine::Machine;
pub use module::Module;
pub use numeric::product::Arithmetic;
pub use profile::{LineCount, Profile};
pub use target::Target;
pub use tensor_map::{Swizzle, TENSOR_MAP_BYTES, TensorMap};

/// The README's code, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
