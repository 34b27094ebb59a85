//! Reference-counted bytes of one memory kind.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use super::access::{ReadGuard, Tracker, WriteGuard};
use super::file::SourceFile;
use super::host::HostBytes;
use super::mapped::map_file;
use super::pool::{Pool, Reservation};
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
    _reservation: Option<Reservation>,
}

enum Storage {
    Host(HostBytes),
    Mapped(Mmap),
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
        let label = label.into();
        let reservation = pool.reserve(&label, len as u64)?;
        let bytes = HostBytes::zeroed(len).ok_or_else(|| pool.refused(&label, len as u64))?;
        Ok(Self::new(label, len, Storage::Host(bytes), Some(reservation)))
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
            _reservation: reservation,
        }))
    }

    /// Who may touch the bytes.
    pub fn kind(&self) -> MemoryKind {
        match self.0.storage {
            Storage::Host(_) => MemoryKind::Host,
            Storage::Mapped(_) => MemoryKind::Mapped,
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

    /// Shared host access, once device work that writes the buffer is done.
    ///
    /// # Errors
    /// [`Error::Busy`] while a host guard writes it.
    pub fn read(&self) -> Result<ReadGuard<'_>> {
        ReadGuard::new(self)
    }

    /// Exclusive host access, once device work that uses the buffer is done.
    ///
    /// # Errors
    /// [`Error::Busy`] while any other host guard holds it, or when the memory is read-only.
    pub fn write(&self) -> Result<WriteGuard<'_>> {
        WriteGuard::new(self)
    }

    pub(super) fn tracker(&self) -> &Tracker {
        &self.0.tracker
    }

    /// The first byte. Read-only for [`MemoryKind::Mapped`].
    pub(super) fn as_ptr(&self) -> *mut u8 {
        match &self.0.storage {
            Storage::Host(bytes) => bytes.as_ptr(),
            Storage::Mapped(map) => map.as_ptr().cast_mut(),
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
