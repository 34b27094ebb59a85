//! Shared memory of one block, and the state of its bytes.

use std::collections::HashMap;

use super::order::{Clocks, Stamp};
use crate::error::{FaultKind, Space};

/// Shared variables start here: the first KiB is the system's on sm_90 and later.
pub(crate) const SHARED_BASE: u64 = 1024;

/// Who makes an access.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Actor {
    pub warp: usize,
    pub lane: usize,
    pub line: u32,
}

/// A variable's place.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    pub name: String,
    pub start: u64,
    pub end: u64,
}

struct Pending {
    start: u64,
    bytes: u32,
    thread: u32,
    line: u32,
}

/// The memory and its shadow. Addresses are offsets in the shared window.
pub(crate) struct SharedMemory {
    data: Vec<u8>,
    regions: Vec<Region>,
    /// With checks off the shadow is empty.
    checked: bool,
    written: Vec<bool>,
    writer: Vec<Stamp>,
    /// The last reader, and the last one of another warp before it.
    readers: Vec<[Stamp; 2]>,
    /// Number of the asynchronous copy that fills the byte, or 0.
    filling: Vec<u32>,
    pending: HashMap<u32, Pending>,
    next_copy: u32,
}

impl SharedMemory {
    pub fn new(regions: Vec<Region>, checked: bool) -> SharedMemory {
        let size = regions.iter().map(|r| r.end).max().unwrap_or(SHARED_BASE) as usize;
        let shadow = if checked { size } else { 0 };
        SharedMemory {
            data: vec![0; size],
            regions,
            checked,
            written: vec![false; shadow],
            writer: vec![Stamp::default(); shadow],
            readers: vec![[Stamp::default(); 2]; shadow],
            filling: vec![0; shadow],
            pending: HashMap::new(),
            next_copy: 0,
        }
    }

    /// Checks that an access lies in one variable.
    pub fn bounds(&self, address: u64, bytes: u32, access: &'static str) -> Result<(), FaultKind> {
        let inside = |r: &&Region| {
            address >= r.start && address < r.end && u64::from(bytes) <= r.end - address
        };
        if self.regions.iter().find(inside).is_some() {
            return Ok(());
        }
        let near = self.regions.iter().rfind(|r| r.start <= address && address - r.start < 1 << 24);
        let near = near.map_or(String::new(), |r| {
            format!(
                "; the nearest is `{}`, {} bytes, which the access leaves by offset {}",
                r.name,
                r.end - r.start,
                address - r.start
            )
        });
        Err(FaultKind::OutOfBounds { access, space: Space::Shared, address, size: bytes, near })
    }

    /// The bytes of an access already checked with [`Self::bounds`].
    fn raw(&self, address: u64, bytes: u32) -> &[u8] {
        &self.data[address as usize..address as usize + bytes as usize]
    }

    /// A little-endian value of up to 8 bytes, as this actor sees it.
    pub fn load(
        &mut self,
        address: u64,
        bytes: u32,
        actor: Actor,
        clocks: &Clocks,
        weak: bool,
    ) -> Result<u64, FaultKind> {
        self.bounds(address, bytes, "read")?;
        self.note_read(address, bytes, actor, clocks, weak)?;
        let mut word = [0; 8];
        word[..bytes as usize].copy_from_slice(self.raw(address, bytes));
        Ok(u64::from_le_bytes(word))
    }

    /// Checks and records a read without taking the value.
    pub fn note_read(
        &mut self,
        address: u64,
        bytes: u32,
        actor: Actor,
        clocks: &Clocks,
        weak: bool,
    ) -> Result<(), FaultKind> {
        if !self.checked {
            return Ok(());
        }
        let stamp = clocks.stamp(actor.warp, actor.lane, actor.line);
        let range = address as usize..address as usize + bytes as usize;
        for (offset, i) in range.enumerate() {
            if self.filling[i] != 0 {
                return Err(self.still_filling("read", i));
            }
            if !self.written[i] {
                return Err(FaultKind::UninitialisedMemory {
                    space: Space::Shared,
                    address,
                    size: bytes,
                    offset: offset as u32,
                });
            }
            if !weak {
                continue;
            }
            let writer = self.writer[i];
            if !writer.is_none() && !clocks.ordered(writer, actor.warp, actor.lane) {
                return Err(race("read", i, "write", writer));
            }
            let readers = &mut self.readers[i];
            if readers[0].thread() / 32 != actor.warp as u32 {
                readers[1] = readers[0];
            }
            readers[0] = stamp;
        }
        Ok(())
    }

    /// Writes up to 8 bytes.
    pub fn store(
        &mut self,
        address: u64,
        bytes: u32,
        value: u64,
        actor: Actor,
        clocks: &Clocks,
        weak: bool,
    ) -> Result<(), FaultKind> {
        self.bounds(address, bytes, "write")?;
        self.note_write(address, bytes, actor, clocks, weak)?;
        let at = address as usize;
        self.data[at..at + bytes as usize].copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
        Ok(())
    }

    fn note_write(
        &mut self,
        address: u64,
        bytes: u32,
        actor: Actor,
        clocks: &Clocks,
        weak: bool,
    ) -> Result<(), FaultKind> {
        if !self.checked {
            return Ok(());
        }
        let stamp = clocks.stamp(actor.warp, actor.lane, actor.line);
        for i in address as usize..address as usize + bytes as usize {
            if self.filling[i] != 0 {
                return Err(self.still_filling("write", i));
            }
            if weak {
                for (other, what) in [
                    (self.writer[i], "write"),
                    (self.readers[i][0], "read"),
                    (self.readers[i][1], "read"),
                ] {
                    if !other.is_none() && !clocks.ordered(other, actor.warp, actor.lane) {
                        return Err(race("write", i, what, other));
                    }
                }
            }
            self.written[i] = true;
            self.writer[i] = if weak { stamp } else { Stamp::default() };
            self.readers[i] = [Stamp::default(); 2];
        }
        Ok(())
    }

    /// Starts an asynchronous copy: the bytes arrive at once, and may not be touched until
    /// [`Self::finish_copy`]. The number names the copy.
    pub fn start_copy(
        &mut self,
        address: u64,
        data: &[u8],
        actor: Actor,
        clocks: &Clocks,
    ) -> Result<u32, FaultKind> {
        let bytes = data.len() as u32;
        self.bounds(address, bytes, "asynchronous write")?;
        self.note_write(address, bytes, actor, clocks, true)?;
        let at = address as usize;
        self.data[at..at + data.len()].copy_from_slice(data);
        self.next_copy += 1;
        let id = self.next_copy;
        if self.checked {
            self.filling[at..at + data.len()].fill(id);
            let thread = (actor.warp * 32 + actor.lane) as u32;
            self.pending.insert(id, Pending { start: address, bytes, thread, line: actor.line });
        }
        Ok(id)
    }

    /// The copy has been waited for by this lane: its bytes count as written by it now.
    pub fn finish_copy(&mut self, id: u32, warp: usize, lane: usize, clocks: &Clocks) {
        let Some(p) = self.pending.remove(&id) else { return };
        let stamp = clocks.stamp(warp, lane, p.line);
        for i in p.start as usize..p.start as usize + p.bytes as usize {
            if self.filling[i] == id {
                self.filling[i] = 0;
                self.writer[i] = stamp;
            }
        }
    }

    /// A copy on behalf of an mbarrier is complete: whoever saw the phase end may read it,
    /// and nobody else could have gone on.
    pub fn finish_copy_for_all(&mut self, id: u32) {
        let Some(p) = self.pending.remove(&id) else { return };
        for i in p.start as usize..p.start as usize + p.bytes as usize {
            if self.filling[i] == id {
                self.filling[i] = 0;
                self.writer[i] = Stamp::default();
            }
        }
    }

    fn still_filling(&self, access: &'static str, i: usize) -> FaultKind {
        let p = self.pending.get(&self.filling[i]);
        FaultKind::PendingCopy {
            access,
            address: i as u64,
            issued_line: p.map_or(0, |p| p.line),
            issuer: p.map_or(0, |p| p.thread),
        }
    }
}

fn race(access: &'static str, at: usize, other_access: &'static str, other: Stamp) -> FaultKind {
    FaultKind::Race {
        access,
        address: at as u64,
        other_access,
        other_thread: other.thread(),
        other_line: other.line(),
    }
}
