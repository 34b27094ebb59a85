//! Shared memory of one block, and the state of its bytes.

use super::copies::{Copies, Pending};
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

/// The state of a word, or of one byte of a word that is accessed in parts.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    writer: Stamp,
    /// The last reader, and the last one of another warp before it.
    readers: [Stamp; 2],
    /// Number of the asynchronous copy that fills it, or 0.
    filling: u32,
    /// One more than the place of the bytes' own cells, or 0.
    parts: u32,
    written: bool,
    /// Written by an ordinary store, which asynchronous reads see only past a proxy fence.
    stored: bool,
}

/// What is wrong with an access to a cell.
enum Problem {
    Filling(u32),
    Unwritten,
    Race { access: &'static str, other_access: &'static str, other: Stamp },
    Proxy(Stamp),
}

/// Bytes of the pieces in which matrix instructions read their operands.
pub(crate) const CHUNK: u64 = 16;

/// Asynchronous reads in progress of one chunk.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    count: u32,
    line: u32,
    /// The thread whose copy reads; none for matrix instructions.
    copier: Option<u32>,
}

/// The memory and its shadow. Addresses are offsets in the shared window.
pub(crate) struct SharedMemory {
    data: Vec<u8>,
    regions: Vec<Region>,
    /// With checks off the shadow is empty.
    checked: bool,
    cells: Vec<Cell>,
    parts: Vec<[Cell; 4]>,
    free_parts: Vec<u32>,
    uses: Vec<Use>,
    in_use: u32,
    copies: Copies,
}

impl SharedMemory {
    pub fn new(regions: Vec<Region>, checked: bool) -> SharedMemory {
        let size = regions.iter().map(|r| r.end).max().unwrap_or(SHARED_BASE) as usize;
        let shadow = if checked { size } else { 0 };
        SharedMemory {
            data: vec![0; size],
            regions,
            checked,
            cells: vec![Cell::default(); shadow.div_ceil(4)],
            parts: Vec::new(),
            free_parts: Vec::new(),
            uses: vec![Use::default(); shadow.div_ceil(CHUNK as usize)],
            in_use: 0,
            copies: Copies::default(),
        }
    }

    /// Calls `f` for the cells of a range with the byte each starts at. `whole`: a word that
    /// is covered completely has one state afterwards.
    #[inline]
    fn visit(
        &mut self,
        address: u64,
        bytes: u32,
        whole: bool,
        mut f: impl FnMut(&mut Cell) -> Result<(), Problem>,
    ) -> Result<(), (Problem, usize)> {
        let (mut at, end) = (address as usize, address as usize + bytes as usize);
        while at < end {
            let (word, stop) = (at / 4, end.min(at / 4 * 4 + 4));
            let covered = stop - at == 4;
            let cell = &mut self.cells[word];
            if covered && cell.parts == 0 {
                f(cell).map_err(|p| (p, at))?;
            } else {
                if cell.parts == 0 {
                    let copies = [*cell; 4];
                    cell.parts = match self.free_parts.pop() {
                        Some(i) => {
                            self.parts[i as usize - 1] = copies;
                            i
                        }
                        None => {
                            self.parts.push(copies);
                            self.parts.len() as u32
                        }
                    };
                }
                let place = cell.parts;
                let parts = &mut self.parts[place as usize - 1];
                for i in at..stop {
                    f(&mut parts[i % 4]).map_err(|p| (p, i))?;
                }
                if covered && whole {
                    *cell = parts[0];
                    cell.parts = 0;
                    self.free_parts.push(place);
                }
            }
            at = stop;
        }
        Ok(())
    }

    #[cold]
    fn fault(&self, problem: Problem, at: usize, address: u64, bytes: u32) -> FaultKind {
        let at_byte = at as u64;
        match problem {
            Problem::Filling(id) => self.copies.fault("read", at_byte, id),
            Problem::Unwritten => FaultKind::UninitialisedMemory {
                space: Space::Shared,
                address,
                size: bytes,
                offset: (at_byte - address) as u32,
            },
            Problem::Race { access, other_access, other } => FaultKind::Race {
                access,
                address: at_byte,
                other_access,
                other_thread: other.thread(),
                other_line: other.line(),
            },
            Problem::Proxy(writer) => FaultKind::ProxyFence {
                address: at_byte,
                writer: writer.thread(),
                written_line: writer.line(),
            },
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
    #[inline]
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
        let stamp = own_stamp(actor, clocks, weak);
        let note = |cell: &mut Cell| {
            readable(cell)?;
            let other = cell.writer;
            if conflict(other, stamp) && !clocks.ordered(other, actor.warp, actor.lane) {
                return Err(Problem::Race { access: "read", other_access: "write", other });
            }
            cell.note_reader(stamp, actor.warp);
            Ok(())
        };
        self.visit(address, bytes, false, note).map_err(|(p, at)| self.fault(p, at, address, bytes))
    }

    /// Checks a read by an asynchronous instruction that a warp issues: what the warp itself
    /// and whoever is ordered before it stored must have passed a proxy fence.
    pub fn note_async_read(
        &mut self,
        address: u64,
        bytes: u32,
        warp: usize,
        clocks: &Clocks,
    ) -> Result<(), FaultKind> {
        self.bounds(address, bytes, "asynchronous read")?;
        if !self.checked {
            return Ok(());
        }
        let note = |cell: &mut Cell| {
            readable(cell)?;
            let other = cell.writer;
            if other.is_none() {
                return Ok(());
            }
            if !clocks.ordered_for_warp(other, warp) {
                return Err(Problem::Race {
                    access: "asynchronous read",
                    other_access: "write",
                    other,
                });
            }
            if cell.stored && !clocks.past_proxy_fence(other, warp) {
                return Err(Problem::Proxy(other));
            }
            Ok(())
        };
        self.visit(address, bytes, false, note).map_err(|(p, at)| self.fault(p, at, address, bytes))
    }

    /// A chunk of a matrix operand, checked, for an instruction that goes on reading it until
    /// [`Self::end_use`].
    pub fn begin_use(
        &mut self,
        address: u64,
        warp: usize,
        line: u32,
        clocks: &Clocks,
    ) -> Result<[u8; CHUNK as usize], FaultKind> {
        self.note_async_read(address, CHUNK as u32, warp, clocks)?;
        if self.checked {
            let u = &mut self.uses[(address / CHUNK) as usize];
            *u = Use { count: u.count + 1, line, copier: None };
            self.in_use += 1;
        }
        let mut out = [0; CHUNK as usize];
        out.copy_from_slice(self.raw(address, CHUNK as u32));
        Ok(out)
    }

    /// A bulk store starts to read these chunks, and does so until [`Self::end_use`].
    pub fn begin_copy_from(&mut self, address: u64, bytes: u32, actor: Actor) {
        if !self.checked {
            return;
        }
        let copier = Some((actor.warp * 32 + actor.lane) as u32);
        for chunk in address / CHUNK..(address + u64::from(bytes)) / CHUNK {
            let u = &mut self.uses[chunk as usize];
            *u = Use { count: u.count + 1, line: actor.line, copier };
            self.in_use += 1;
        }
    }

    /// The warp waited for an instruction that read the chunk.
    pub fn end_use(&mut self, address: u64, warp: usize, line: u32, clocks: &Clocks) {
        if !self.checked {
            return;
        }
        let u = &mut self.uses[(address / CHUNK) as usize];
        u.count = u.count.saturating_sub(1);
        self.in_use = self.in_use.saturating_sub(1);
        let stamp = clocks.stamp(warp, 0, line);
        let note = |cell: &mut Cell| {
            cell.note_reader(stamp, warp);
            Ok(())
        };
        // The read itself was checked when it began.
        let _ = self.visit(address, CHUNK as u32, false, note);
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
        let new = value.to_le_bytes();
        let new = &new[..bytes as usize];
        self.note_write(address, new, actor, clocks, weak, true)?;
        let at = address as usize;
        self.data[at..at + bytes as usize].copy_from_slice(new);
        Ok(())
    }

    /// Checks and records a write of these bytes. Writes of what is there already need no
    /// order with the write before: threads that all set a flag do no harm.
    #[inline]
    fn note_write(
        &mut self,
        address: u64,
        new: &[u8],
        actor: Actor,
        clocks: &Clocks,
        weak: bool,
        stored: bool,
    ) -> Result<(), FaultKind> {
        if !self.checked {
            return Ok(());
        }
        let bytes = new.len() as u32;
        if self.in_use != 0 {
            self.not_in_use(address, bytes)?;
        }
        let changes = self.raw(address, bytes) != new;
        let stamp = own_stamp(actor, clocks, weak);
        let note = |cell: &mut Cell| {
            if cell.filling != 0 {
                return Err(Problem::Filling(cell.filling));
            }
            for (other, other_access) in
                [(cell.writer, "write"), (cell.readers[0], "read"), (cell.readers[1], "read")]
            {
                if (changes || other_access == "read")
                    && conflict(other, stamp)
                    && !clocks.ordered(other, actor.warp, actor.lane)
                {
                    return Err(Problem::Race { access: "write", other_access, other });
                }
            }
            *cell =
                Cell { writer: stamp, written: true, stored, parts: cell.parts, ..Cell::default() };
            Ok(())
        };
        self.visit(address, bytes, true, note).map_err(|(p, at)| match p {
            Problem::Filling(id) => self.copies.fault("write", at as u64, id),
            p => self.fault(p, at, address, bytes),
        })
    }

    fn not_in_use(&self, address: u64, bytes: u32) -> Result<(), FaultKind> {
        let last = address + u64::from(bytes.max(1)) - 1;
        for chunk in address / CHUNK..=last / CHUNK {
            let u = self.uses[chunk as usize];
            if let (1.., Some(issuer)) = (u.count, u.copier) {
                let address = address.max(chunk * CHUNK);
                let issued_line = u.line;
                return Err(FaultKind::PendingCopy {
                    access: "write",
                    address,
                    issued_line,
                    issuer,
                });
            }
            if u.count != 0 {
                return Err(FaultKind::PendingMma {
                    access: "write",
                    what: format!("shared address {:#x}", address.max(chunk * CHUNK)),
                    issued_line: u.line,
                });
            }
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
        self.note_write(address, data, actor, clocks, true, false)?;
        let at = address as usize;
        self.data[at..at + data.len()].copy_from_slice(data);
        let id = self.copies.number();
        if self.checked {
            self.fill(address, bytes, |cell| cell.filling = id);
            let thread = (actor.warp * 32 + actor.lane) as u32;
            self.copies.begin(id, Pending { start: address, bytes, thread, line: actor.line });
        }
        Ok(id)
    }

    /// The copy has been waited for by this lane: its bytes count as written by it now.
    pub fn finish_copy(&mut self, id: u32, warp: usize, lane: usize, clocks: &Clocks) {
        let Some(p) = self.copies.end(id) else { return };
        self.arrived(id, &p, clocks.stamp(warp, lane, p.line));
    }

    /// A copy on behalf of an mbarrier is complete: whoever saw the phase end may read it,
    /// and nobody else could have gone on.
    pub fn finish_copy_for_all(&mut self, id: u32) {
        let Some(p) = self.copies.end(id) else { return };
        self.arrived(id, &p, Stamp::default());
    }

    fn arrived(&mut self, id: u32, p: &Pending, writer: Stamp) {
        self.fill(p.start, p.bytes, |cell| {
            if cell.filling == id {
                cell.filling = 0;
                cell.writer = writer;
            }
        });
    }

    fn fill(&mut self, address: u64, bytes: u32, mut f: impl FnMut(&mut Cell)) {
        let change = |cell: &mut Cell| {
            f(cell);
            Ok(())
        };
        // Nothing is checked: nothing can be wrong.
        let _ = self.visit(address, bytes, true, change);
    }
}

fn own_stamp(actor: Actor, clocks: &Clocks, weak: bool) -> Stamp {
    let stamp = clocks.stamp(actor.warp, actor.lane, actor.line);
    if weak { stamp } else { stamp.strong() }
}

/// Whether two accesses need an order: one of them is not strong.
fn conflict(other: Stamp, own: Stamp) -> bool {
    !(other.is_none() || other.is_strong() && own.is_strong())
}

impl Cell {
    #[inline]
    fn note_reader(&mut self, stamp: Stamp, warp: usize) {
        if self.readers[0].thread() / 32 != warp as u32 {
            self.readers[1] = self.readers[0];
        }
        self.readers[0] = stamp;
    }
}

#[inline]
fn readable(cell: &Cell) -> Result<(), Problem> {
    if cell.filling != 0 {
        Err(Problem::Filling(cell.filling))
    } else if !cell.written {
        Err(Problem::Unwritten)
    } else {
        Ok(())
    }
}
