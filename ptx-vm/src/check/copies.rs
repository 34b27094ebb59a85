//! Asynchronous copies into shared memory that nobody waited for yet.

use std::collections::HashMap;

use crate::error::FaultKind;

/// What one of them fills, and who began it where.
pub(super) struct Pending {
    pub start: u64,
    pub bytes: u32,
    pub thread: u32,
    pub line: u32,
}

/// All of a block, by number from 1 on.
#[derive(Default)]
pub(super) struct Copies {
    pending: HashMap<u32, Pending>,
    last: u32,
}

impl Copies {
    /// The number of a new one.
    pub fn number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    pub fn begin(&mut self, id: u32, copy: Pending) {
        self.pending.insert(id, copy);
    }

    pub fn end(&mut self, id: u32) -> Option<Pending> {
        self.pending.remove(&id)
    }

    /// An access to what one of them fills.
    pub fn fault(&self, access: &'static str, address: u64, id: u32) -> FaultKind {
        let copy = self.pending.get(&id);
        FaultKind::PendingCopy {
            access,
            address,
            issued_line: copy.map_or(0, |p| p.line),
            issuer: copy.map_or(0, |p| p.thread),
        }
    }
}
