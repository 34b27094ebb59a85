//! Launches that do not happen: for learning what would run.

use super::driver::{Grid, ModuleId, Session};
use super::failure::Problem;
use crate::memory::{DeviceUse, Fence};

/// A session that gives addresses, and launches to a function. Addresses are those on the host:
/// nothing reads what is there.
pub(super) struct DrySession<F>(pub F);

/// An address of memory that is not there, as aligned as any.
const SOMEWHERE: u64 = 256;

impl<F: FnMut(ModuleId, &str, Grid) -> Result<(), String>> Session for DrySession<F> {
    fn bind(&mut self, used: DeviceUse<'_>, offset: usize, len: usize) -> Result<u64, String> {
        Ok(if len == 0 { 0 } else { used.buffer.address() + offset as u64 })
    }

    fn keep(&mut self, bytes: Vec<u8>, label: &str) -> Result<u64, String> {
        self.scratch(bytes.len(), label)
    }

    fn scratch(&mut self, bytes: usize, _label: &str) -> Result<u64, String> {
        Ok(if bytes == 0 { 0 } else { SOMEWHERE })
    }

    fn clear(&mut self, _address: u64, _bytes: usize) -> Result<(), String> {
        Ok(())
    }

    fn watch(&mut self, _problem: Problem) -> Result<u64, String> {
        Ok(SOMEWHERE)
    }

    fn launch(
        &mut self,
        module: ModuleId,
        entry: &str,
        grid: Grid,
        _parameter: &[u8],
    ) -> Result<(), String> {
        (self.0)(module, entry, grid)
    }

    fn submit(self: Box<Self>, _kernel: &str) -> Result<Option<Fence>, String> {
        Ok(None)
    }
}
