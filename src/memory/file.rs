//! Files read by offset, and what the system is told about how they are read.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::buffer::Buffer;
use super::direct::{self, DIRECT_ALIGNMENT};
use crate::error::{Error, Result};

/// A regular file that bytes are read from by offset.
///
/// Reading past its end, because another process has cut it off, is an error, where touching a
/// mapped page that is gone ends the process with SIGBUS: read untrusted files, map trusted ones.
/// Cheap to clone; clones are the same open file, whatever its name leads to later.
#[derive(Clone, Debug)]
pub struct SourceFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    path: PathBuf,
    len: u64,
    /// Opened for direct reads, once they were asked for.
    direct: OnceLock<Option<File>>,
}

impl SourceFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`Error::Io`] when it can not be opened, [`Error::File`] when it is not a regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |e| Error::io(path, e);
        // Asked first: opening a pipe would wait for a writer.
        let regular = |meta: &std::fs::Metadata| match meta.is_file() {
            true => Ok(()),
            false => Err(Error::file(path, "not a regular file; models are read from files")),
        };
        regular(&std::fs::metadata(path).map_err(io)?)?;
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        regular(&meta)?;
        let (len, direct) = (meta.len(), OnceLock::new());
        Ok(Self(Arc::new(Inner { file, path: path.to_owned(), len, direct })))
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Its size in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Whether it was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// [`Error::File`] when the file ends before, [`Error::Io`] when the system refuses.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        read_exact_at(&self.0.file, bytes, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Error::file(
                self.path(),
                format!(
                    "ends before byte {}, and had {} when it was opened: it was cut off \
                     meanwhile; fetch it again",
                    offset.saturating_add(bytes.len() as u64),
                    self.len()
                ),
            ),
            _ => Error::io(self.path(), e),
        })
    }

    /// Whether bytes of that range are best read past the page cache: it does not hold them, and
    /// the file system has such reads.
    pub(super) fn reads_directly(&self, range: Range<u64>) -> bool {
        !direct::is_cached(&self.0.file, range) && self.direct().is_some()
    }

    fn direct(&self) -> Option<&File> {
        self.0.direct.get_or_init(|| direct::open(&self.0.file)).as_ref()
    }

    /// Fills the first `needed` of `bytes` from `offset` on, past the page cache. Offset and place
    /// are aligned to [`DIRECT_ALIGNMENT`]; what can not be read that way, as the end of the file,
    /// is read as [`read_at`](Self::read_at) does.
    pub(super) fn read_directly(&self, offset: u64, bytes: &mut [u8], needed: usize) -> Result<()> {
        let blocks = bytes.len() / DIRECT_ALIGNMENT * DIRECT_ALIGNMENT;
        let read = |file| direct::read(file, offset, &mut bytes[..blocks]);
        let done = self.direct().map_or(0, read);
        match done < needed {
            true => self.read_at(offset + done as u64, &mut bytes[done..needed]),
            false => Ok(()),
        }
    }

    /// The whole file, mapped read-only: see [`Buffer::map_file`].
    ///
    /// # Errors
    /// [`Error::Io`] when it can not be mapped.
    pub fn map(&self) -> Result<Buffer> {
        Buffer::map(&self.0.file, self.path())
    }

    /// Says that the bytes will be read soon, so that the disk can begin.
    pub fn will_read(&self, range: Range<u64>) {
        advise(&self.0.file, range, Advice::WillNeed);
    }

    /// Says that the bytes will not be read again, so that the page cache can let go of them.
    pub fn will_not_read(&self, range: Range<u64>) {
        advise(&self.0.file, range, Advice::DontNeed);
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => (bytes, offset) = (&mut bytes[n..], offset + n as u64),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

enum Advice {
    WillNeed,
    DontNeed,
}

/// Advice only: that it could not be given changes nothing.
#[cfg(target_os = "linux")]
fn advise(file: &File, range: Range<u64>, advice: Advice) {
    use std::os::fd::AsRawFd;
    let advice = match advice {
        Advice::WillNeed => libc::POSIX_FADV_WILLNEED,
        Advice::DontNeed => libc::POSIX_FADV_DONTNEED,
    };
    let len = range.end.saturating_sub(range.start);
    // A length of 0 would mean "to the end".
    if let (Ok(start), Ok(len @ 1..)) = (range.start.try_into(), len.try_into()) {
        // SAFETY: the descriptor is open, as `file` is; the call takes no pointer.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), start, len, advice) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_: &File, _: Range<u64>, _: Advice) {}
