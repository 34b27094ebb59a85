//! From the syntax tree to the compact form: names become slots, modifiers become
//! functions, branches learn where their lanes meet again. Whatever is not understood to
//! the last modifier is refused here, with its line.

pub(crate) mod alu;
mod arith;
mod async_copy;
mod build;
mod cfg;
mod compare;
mod control;
mod convert;
mod decode;
pub(crate) mod function;
mod memory;
mod mma;
mod mods;
pub(crate) mod ops;
pub(crate) mod special;
mod warp;
mod wgmma;

pub(crate) use build::lower_module;
