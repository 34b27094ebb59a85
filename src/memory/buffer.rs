//! Reference-counted bytes of one memory kind.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use super::access::{Access, Held, ReadGuard, Tracker, User, WriteGuard};
use super::file::SourceFile;
use super::host::HostBytes;
use super::mapped::map_file;
use super::pool::{Pool, Reservation};
use super::raw::{RawMemory, Refusal};
use crate::caps::MemoryKind;
use crate::error::{Error, Result};

/// Bytes of one memory kind, and who is using them.
///
/// Cheap to clone; clones are the same bytes. The memory is freed when the last clone and the
/// last operation that uses it are gone.
#[derive(Clone)]
pub struct Buffer(Arc<Inner>);

struct Inner {
    id: u64,
    label: String,
    len: usize,
    storage: Storage,
    tracker: Tracker,
    // Dropped after `storage`: the budget is free only when the memory is.
    reservation: Option<Reservation>,
}

enum Storage {
    Host(HostBytes),
    Mapped(Mmap),
    Raw(MemoryKind, Box<dyn RawMemory>),
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Buffer {
    /// `len` zero bytes of [`MemoryKind::Host`], booked in `pool` under `label`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the pool's budget or the system does not allow it.
    ///
    /// ```
    /// # use ferrocerium::memory::{Buffer, Pool};
    /// let pool = Pool::new("cpu", 1 << 20);
    /// let buffer = Buffer::host(&pool, 1000, "scratch")?;
    /// buffer.write()?[7] = 42;
    /// assert_eq!(buffer.read()?[7], 42);
    /// assert_eq!(pool.report().used, 1000);
    /// assert!(Buffer::host(&pool, 2 << 20, "too much").is_err());
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn host(pool: &Pool, len: usize, label: impl Into<String>) -> Result<Self> {
        Self::allocate(pool, MemoryKind::Host, len, label)
    }

    /// `len` zero bytes of a kind that the device of `pool` has, booked under `label`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the pool's budget, the system or the driver does not allow it;
    /// [`Error::Memory`] for a kind that there is not on the device; [`Error::Device`] where the
    /// device failed: a GPU has lost its memory when a kernel on it faults.
    pub fn allocate(
        pool: &Pool,
        kind: MemoryKind,
        len: usize,
        label: impl Into<String>,
    ) -> Result<Self> {
        let label = label.into();
        let allocator = pool.allocator(kind, &label)?;
        let mut reservation = pool.reserve(kind, &label, len as u64)?;
        let storage = match allocator {
            None => HostBytes::zeroed(len)
                .map(Storage::Host)
                .ok_or_else(|| Refusal::OutOfMemory(String::new())),
            Some(from) => from.allocate(kind, len).map(|memory| {
                if from.gives_resident() {
                    reservation.fulfil();
                }
                Storage::Raw(kind, memory)
            }),
        };
        let storage = storage.map_err(|refusal| pool.refused(&label, len as u64, refusal))?;
        Ok(Self::new(label, len, storage, Some(reservation)))
    }

    /// A whole file, mapped read-only ([`MemoryKind::Mapped`]).
    ///
    /// The bytes are the page cache's, so no budget is charged. Nobody may modify or truncate the
    /// file while the buffer lives: bytes that are cut off end the process with SIGBUS when they
    /// are touched. Read files of which that is not certain, by [`SourceFile`] or `io::Loader`.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be opened or mapped, [`Error::File`] when it is not a
    /// regular file.
    pub fn map_file(path: impl AsRef<Path>) -> Result<Self> {
        SourceFile::open(path)?.map()
    }

    pub(super) fn map(file: &File, path: &Path) -> Result<Self> {
        let map = map_file(file, path)?;
        Ok(Self::new(path.display().to_string(), map.len(), Storage::Mapped(map), None))
    }

    fn new(label: String, len: usize, storage: Storage, reservation: Option<Reservation>) -> Self {
        Buffer(Arc::new(Inner {
            id: next_id(),
            label,
            len,
            storage,
            tracker: Tracker::default(),
            reservation,
        }))
    }

    /// Who may touch the bytes.
    pub fn kind(&self) -> MemoryKind {
        match self.0.storage {
            Storage::Host(_) => MemoryKind::Host,
            Storage::Mapped(_) => MemoryKind::Mapped,
            Storage::Raw(kind, _) => kind,
        }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// What the allocating call named it.
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// A number that no other buffer of this process has.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// How many handles to it there are.
    pub(crate) fn handles(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Shared host access, once device work that writes the buffer is done.
    ///
    /// # Errors
    /// [`Error::Busy`] while a host guard writes it; [`Error::Memory`] for memory that the host can
    /// not touch; what went wrong with work that should have written it.
    pub fn read(&self) -> Result<ReadGuard<'_>> {
        ReadGuard::new(self)
    }

    /// Exclusive host access, once device work that uses the buffer is done.
    ///
    /// # Errors
    /// [`Error::Busy`] while any other host guard holds it, or when the memory is read-only;
    /// [`Error::Memory`] for memory that the host can not touch; what went wrong with work that
    /// should have written it, once.
    pub fn write(&self) -> Result<WriteGuard<'_>> {
        WriteGuard::new(self)
    }

    /// Copies bytes from `offset` on to the host, whatever the kind of memory, once device work
    /// that writes them is done.
    ///
    /// # Errors
    /// [`Error::Shape`] when they reach past the end; those of [`Buffer::read`] but for the kind.
    pub fn copy_to_host(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let range = self.range(offset, to.len())?;
        match self.apart() {
            Some(memory) => {
                let _held = Held::acquire(self, User::Host, Access::Read)?;
                self.copied(memory.read(offset, to))
            }
            None => {
                to.copy_from_slice(&self.read()?[range]);
                Ok(())
            }
        }
    }

    /// Copies bytes that the host can not touch, for who holds the buffer.
    pub(super) fn copy_held(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        self.range(offset, to.len())?;
        self.copied(match self.apart() {
            Some(memory) => memory.read(offset, to),
            None => Err("it is the host's, and borrowed".to_owned()),
        })
    }

    /// Copies bytes of the host to `offset` and on, whatever the kind of memory, once device work
    /// that uses the buffer is done.
    ///
    /// # Errors
    /// [`Error::Shape`] when they reach past the end; those of [`Buffer::write`] but for the kind.
    pub fn copy_from_host(&self, offset: usize, from: &[u8]) -> Result<()> {
        let range = self.range(offset, from.len())?;
        match self.apart() {
            Some(memory) => {
                let _held = Held::acquire(self, User::Host, Access::Write)?;
                self.copied(memory.write(offset, from))
            }
            None => {
                self.write()?[range].copy_from_slice(from);
                Ok(())
            }
        }
    }

    /// Gives the bytes of a new buffer to `f` to be filled: in place where the host can write
    /// them, else as zeros of the host's that are copied over afterwards.
    ///
    /// # Errors
    /// Those of `f`, and of [`Buffer::copy_from_host`].
    pub fn fill<R>(&self, f: impl FnOnce(&mut [u8]) -> Result<R>) -> Result<R> {
        if self.kind() != MemoryKind::Device {
            return f(&mut self.write()?);
        }
        let mut bytes = self.host_bytes(self.len())?;
        let result = f(&mut bytes)?;
        self.copy_from_host(0, &bytes)?;
        Ok(result)
    }

    /// Memory of the host for a copy of `len` bytes.
    fn host_bytes(&self, len: usize) -> Result<HostBytes> {
        HostBytes::zeroed(len).ok_or_else(|| Error::Memory {
            label: self.label().to_owned(),
            problem: format!("the host has no {len} bytes for a copy of it"),
        })
    }

    fn range(&self, offset: usize, len: usize) -> Result<std::ops::Range<usize>> {
        Region::new(self.clone(), offset, len).map(|region| region.range())
    }

    /// Memory that the host reaches only by copies.
    pub(super) fn apart(&self) -> Option<&dyn RawMemory> {
        match &self.0.storage {
            Storage::Raw(_, memory) if memory.host().is_none() => Some(&**memory),
            _ => None,
        }
    }

    /// What came of a copy.
    pub(super) fn copied(&self, result: std::result::Result<(), String>) -> Result<()> {
        result.map_err(|reason| {
            let problem = format!("it can not be copied: {reason}");
            Error::Memory { label: self.label().to_owned(), problem }
        })
    }

    /// Where it is booked.
    pub(super) fn pool(&self) -> Option<&Pool> {
        self.0.reservation.as_ref().map(|reservation| &reservation.pool)
    }

    pub(super) fn tracker(&self) -> &Tracker {
        &self.0.tracker
    }

    /// The first byte, where the host may touch it. Read-only for [`MemoryKind::Mapped`].
    pub(super) fn host_ptr(&self) -> Result<*mut u8> {
        match &self.0.storage {
            Storage::Host(bytes) => Ok(bytes.as_ptr()),
            Storage::Mapped(map) => Ok(map.as_ptr().cast_mut()),
            Storage::Raw(kind, memory) => {
                memory.host().map(|start| start.as_ptr()).ok_or_else(|| Error::Memory {
                    label: self.label().to_owned(),
                    problem: format!(
                        "it is {kind} memory, which the host can not touch; copy it, by \
                         `to_vec()`, `to_kind(MemoryKind::Host)` or `Buffer::copy_to_host`"
                    ),
                })
            }
        }
    }

    /// Where a device finds the first byte, if it can reach memory of this kind.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn address(&self) -> u64 {
        match &self.0.storage {
            Storage::Host(bytes) => bytes.as_ptr().addr() as u64,
            Storage::Mapped(map) => map.as_ptr().addr() as u64,
            Storage::Raw(_, memory) => memory.address(),
        }
    }
}

/// Bytes of a region for the host to read.
#[derive(Debug)]
pub struct RegionView<'a>(View<'a>);

#[derive(Debug)]
enum View<'a> {
    /// In place.
    Borrowed(ReadGuard<'a>, std::ops::Range<usize>),
    /// A copy.
    Copied(HostBytes),
}

impl std::ops::Deref for RegionView<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            View::Borrowed(guard, range) => &guard[range.clone()],
            View::Copied(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Buffer(#{} `{}`: {} bytes, {})",
            self.id(),
            self.label(),
            self.len(),
            self.kind()
        )
    }
}

/// A range of a buffer's bytes.
#[derive(Clone, Debug)]
pub struct Region {
    buffer: Buffer,
    offset: usize,
    len: usize,
}

impl Region {
    /// `len` bytes of `buffer` from `offset`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the range is not inside the buffer.
    pub fn new(buffer: Buffer, offset: usize, len: usize) -> Result<Self> {
        match offset.checked_add(len) {
            Some(end) if end <= buffer.len() => Ok(Region { buffer, offset, len }),
            _ => Err(Error::shape(
                "region",
                "offset, len",
                format!(
                    "{len} bytes from {offset} reach past the {} bytes of buffer `{}`",
                    buffer.len(),
                    buffer.label()
                ),
            )),
        }
    }

    /// All bytes of a buffer.
    pub fn whole(buffer: Buffer) -> Self {
        let len = buffer.len();
        Region { buffer, offset: 0, len }
    }

    /// The buffer.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// First byte.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The range of the buffer's bytes.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }

    /// Its bytes, borrowed.
    ///
    /// # Errors
    /// Those of [`Buffer::read`].
    pub fn host(&self) -> Result<RegionView<'_>> {
        Ok(RegionView(View::Borrowed(self.buffer.read()?, self.range())))
    }

    /// A copy of its bytes, in all of a buffer of that length.
    ///
    /// # Errors
    /// Those of [`Buffer::copy_to_host`] and [`Buffer::copy_from_host`].
    pub fn copy_to(&self, buffer: Buffer) -> Result<Region> {
        buffer.copy_from_host(0, &self.to_host()?)?;
        Ok(Region::whole(buffer))
    }

    /// Its bytes: borrowed where the host can touch them, else copied.
    ///
    /// # Errors
    /// Those of [`Buffer::copy_to_host`].
    pub fn to_host(&self) -> Result<RegionView<'_>> {
        if self.buffer.kind() != MemoryKind::Device {
            return self.host();
        }
        let mut bytes = self.buffer.host_bytes(self.len)?;
        self.buffer.copy_to_host(self.offset, &mut bytes)?;
        Ok(RegionView(View::Copied(bytes)))
    }

    /// `len` bytes from `offset` within this region.
    ///
    /// # Errors
    /// [`Error::Shape`] when the range is not inside this region.
    pub fn slice(&self, offset: usize, len: usize) -> Result<Self> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => {
                Ok(Region { buffer: self.buffer.clone(), offset: self.offset + offset, len })
            }
            _ => Err(Error::shape(
                "region",
                "offset, len",
                format!("{len} bytes from {offset} reach past the region's {} bytes", self.len),
            )),
        }
    }
}
