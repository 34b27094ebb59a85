//! A function ready to run, and what it needs of memory.

use super::ops::{Inst, Known, Slot};

/// A variable in a function's frame.
#[derive(Debug, Clone)]
pub(crate) struct FrameVar {
    pub offset: u64,
    pub bytes: u64,
}

/// A shared variable declared in a function or used from the module.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SharedVar {
    pub name: String,
    pub align: u32,
    pub bytes: u64,
    /// Sized at launch.
    pub dynamic: bool,
}

/// A kernel's parameter.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub name: String,
    pub offset: u32,
    pub bytes: u32,
}

/// A lowered function.
pub(crate) struct Function {
    pub name: String,
    pub entry: bool,
    pub insts: Vec<Inst>,
    pub slots: u32,
    pub preds: u32,
    pub slot_names: Vec<String>,
    pub pred_names: Vec<String>,
    pub known: Vec<(Slot, Known)>,
    pub params: Vec<Param>,
    pub param_bytes: u32,
    pub frame: Vec<FrameVar>,
    pub frame_bytes: u64,
    pub frame_align: u64,
    pub shared: Vec<SharedVar>,
    pub callees: Vec<u32>,
    pub tuning: crate::parse::ast::Tuning,
}
