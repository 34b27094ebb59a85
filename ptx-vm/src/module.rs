//! Compiled PTX.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::Result;
use crate::lower::function::Function;
use crate::parse::ast::RawModule;
use crate::target::Target;

/// Modules are told apart by number: a machine keeps the variables of each.
static NEXT_MODULE: AtomicU64 = AtomicU64::new(0);

/// Compiled PTX: parsed, checked against its target, and lowered.
pub struct Module {
    pub(crate) id: u64,
    pub(crate) text: String,
    pub(crate) raw: RawModule,
    pub(crate) target: Target,
    pub(crate) functions: Vec<Function>,
    pub(crate) files: HashMap<u32, String>,
}

impl Module {
    /// Reads a module's PTX.
    ///
    /// # Errors
    /// [`Error::Parse`] for text that is not PTX, [`Error::Unsupported`] for an instruction
    /// that is not executed here, [`Error::IllegalForTarget`] for one that the declared
    /// target does not have: each with its line. Nothing is guessed and nothing is left for
    /// later: a module that loads has only instructions that run.
    ///
    /// [`Error::Parse`]: crate::Error::Parse
    /// [`Error::Unsupported`]: crate::Error::Unsupported
    /// [`Error::IllegalForTarget`]: crate::Error::IllegalForTarget
    pub fn from_ptx(ptx: &str) -> Result<Module> {
        let raw = crate::parse::parse_module(ptx)?;
        let (target, functions) = crate::lower::lower_module(&raw, ptx)?;
        let files = raw.files.iter().cloned().collect();
        let id = NEXT_MODULE.fetch_add(1, Relaxed);
        Ok(Module { id, text: ptx.to_string(), raw, target, functions, files })
    }

    /// The target that the module declares.
    pub fn target(&self) -> Target {
        self.target
    }

    /// The names of the module's kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.functions.iter().filter(|f| f.entry).map(|f| f.name.as_str())
    }

    /// Names and sizes in bytes of a kernel's parameters; `None` without such a kernel.
    pub fn parameters(&self, kernel: &str) -> Option<Vec<(&str, u32)>> {
        let f = self.functions.iter().find(|f| f.entry && f.name == kernel)?;
        Some(f.params.iter().map(|p| (p.name.as_str(), p.bytes)).collect())
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kernels: Vec<_> = self.kernels().collect();
        f.debug_struct("Module").field("target", &self.target).field("kernels", &kernels).finish()
    }
}
