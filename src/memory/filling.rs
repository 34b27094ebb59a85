//! New buffers that several threads fill, a piece at a time, wherever their memory is.

use super::access::{Access, Held, User, WriteGuard};
use super::buffer::Buffer;
use super::direct::DIRECT_ALIGNMENT;
use super::file::SourceFile;
use super::pages::prefer_huge_pages;
use super::pool::Pool;
use super::raw::RawMemory;
use crate::caps::MemoryKind;
use crate::error::Result;

/// Bytes from which on a direct read is worth its while: smaller ones share pages of the cache
/// with others, and with what the system reads ahead.
const DIRECT_WORTH: usize = 256 << 10;

/// Exclusive access to a buffer that is being filled.
pub(crate) struct Filling<'a>(Reach<'a>);

/// How the host gets at the memory.
enum Reach<'a> {
    InPlace(WriteGuard<'a>),
    /// By copies alone.
    Apart(Held<'a>, &'a dyn RawMemory),
}

impl<'a> Filling<'a> {
    /// As [`Buffer::write`], of any kind of memory.
    pub(crate) fn new(buffer: &'a Buffer) -> Result<Self> {
        if let Some(memory) = buffer.apart() {
            let held = Held::acquire(buffer, User::Host, Access::Write)?;
            return Ok(Filling(Reach::Apart(held, memory)));
        }
        let mut guard = buffer.write()?;
        prefer_huge_pages(&mut guard);
        Ok(Filling(Reach::InPlace(guard)))
    }

    /// All of the buffer.
    pub(crate) fn whole(&mut self) -> Piece<'_> {
        match &mut self.0 {
            Reach::InPlace(guard) => Piece::Host(guard),
            Reach::Apart(held, memory) => {
                let buffer = held.buffer;
                Piece::Apart { buffer, memory: *memory, offset: 0, len: buffer.len() }
            }
        }
    }
}

/// Bytes of a buffer that one thread fills. No other piece has any of them.
pub(crate) enum Piece<'a> {
    /// Memory that the host writes.
    Host(&'a mut [u8]),
    /// Memory that the host reaches only by copies.
    Apart { buffer: &'a Buffer, memory: &'a dyn RawMemory, offset: usize, len: usize },
}

impl<'a> Piece<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Piece::Host(bytes) => bytes.len(),
            Piece::Apart { len, .. } => *len,
        }
    }

    /// The first bytes, `mid` of them or all there are, and the others.
    pub(crate) fn split_at(self, mid: usize) -> (Self, Self) {
        let mid = mid.min(self.len());
        match self {
            Piece::Host(bytes) => {
                let (first, others) = bytes.split_at_mut(mid);
                (Piece::Host(first), Piece::Host(others))
            }
            Piece::Apart { buffer, memory, offset, len } => {
                let part = |offset, len| Piece::Apart { buffer, memory, offset, len };
                (part(offset, mid), part(offset + mid, len - mid))
            }
        }
    }

    /// Pieces of that many bytes; the last may be shorter.
    pub(crate) fn chunks(self, size: usize) -> impl Iterator<Item = Piece<'a>> {
        let mut left = Some(self);
        std::iter::from_fn(move || {
            let all = left.take().filter(|piece| piece.len() > 0)?;
            let (first, others) = all.split_at(size.max(1));
            left = Some(others);
            Some(first)
        })
    }

    /// Has `f` write the bytes: in place, or in the bounce buffer, from which they are copied.
    pub(crate) fn fill<R>(
        &mut self,
        bounce: &mut Bounce,
        f: impl FnOnce(&mut [u8]) -> Result<R>,
    ) -> Result<R> {
        match self {
            Piece::Host(bytes) => f(bytes),
            Piece::Apart { buffer, memory, offset, len } => {
                let (offset, len) = (*offset, *len);
                bounce.with(len, |bytes| {
                    let result = f(bytes)?;
                    buffer.copied(memory.write(offset, bytes))?;
                    Ok(result)
                })
            }
        }
    }

    /// Whether the bytes are best read past the page cache, from `offset` of a file on. To find out
    /// changes the process's mappings, for which threads that touch new memory wait: asked before
    /// they begin.
    pub(crate) fn is_read_directly(&self, file: &SourceFile, offset: u64) -> bool {
        let end = offset.saturating_add(self.len() as u64);
        self.len() >= DIRECT_WORTH && file.reads_directly(offset..end)
    }

    /// Fills the bytes with those of a file from `offset` on, past the page cache if `direct`.
    ///
    /// # Errors
    /// Those of [`SourceFile::read_at`]; memory for the bounce buffer, or the copy, refused.
    pub(crate) fn read(
        &mut self,
        file: &SourceFile,
        offset: u64,
        direct: bool,
        bounce: &mut Bounce,
    ) -> Result<()> {
        if !direct {
            return self.fill(bounce, |bytes| file.read_at(offset, bytes));
        }
        let before = (offset % DIRECT_ALIGNMENT as u64) as usize;
        if let Piece::Host(bytes) = self
            && before == 0
            && bytes.as_ptr().addr().is_multiple_of(DIRECT_ALIGNMENT)
        {
            let needed = bytes.len();
            return file.read_directly(offset, bytes, needed);
        }
        let needed = before + self.len();
        bounce.with(needed.next_multiple_of(DIRECT_ALIGNMENT), |bytes| {
            // What is left of the last block may be beyond the end of the file.
            file.read_directly(offset - before as u64, bytes, needed)?;
            let from = &bytes[before..needed];
            match self {
                Piece::Host(to) => to.copy_from_slice(from),
                Piece::Apart { buffer, memory, offset, .. } => {
                    buffer.copied(memory.write(*offset, from))?;
                }
            }
            Ok(())
        })
    }
}

/// Memory on the way to a buffer: pinned where that is a device's own, whose driver then needs no
/// copy beside it.
pub(crate) struct Bounce {
    pool: Pool,
    kind: MemoryKind,
    buffer: Option<Buffer>,
}

impl Bounce {
    /// One for buffers of that kind, which takes memory when it is needed.
    pub(crate) fn new(pool: &Pool, towards: MemoryKind) -> Self {
        let pinned = !towards.host_writable() && pool.has(MemoryKind::Pinned);
        let kind = if pinned { MemoryKind::Pinned } else { MemoryKind::Host };
        Bounce { pool: pool.clone(), kind, buffer: None }
    }

    /// Memory that pieces of that many bytes take on their way.
    pub(crate) fn size_for(piece: usize) -> usize {
        // The blocks of a disk at both ends, and what alignment takes.
        piece + 3 * DIRECT_ALIGNMENT
    }

    /// Has `f` use `len` bytes, aligned for direct reads.
    fn with<R>(&mut self, len: usize, f: impl FnOnce(&mut [u8]) -> Result<R>) -> Result<R> {
        let size = len + DIRECT_ALIGNMENT;
        let buffer = match self.buffer.take().filter(|buffer| buffer.len() >= size) {
            Some(buffer) => buffer,
            None => {
                let buffer = Buffer::allocate(&self.pool, self.kind, size, "bounce buffer")?;
                prefer_huge_pages(&mut buffer.write()?);
                buffer
            }
        };
        let mut guard = buffer.write()?;
        let start = guard.as_ptr().align_offset(DIRECT_ALIGNMENT).min(DIRECT_ALIGNMENT);
        let result = f(&mut guard[start..start + len])?;
        drop(guard);
        self.buffer = Some(buffer);
        Ok(result)
    }
}
