//! Files that have their name only once they are whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file that is being written, under a hidden name beside its own.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) file: File,
    path: PathBuf,
    partial: PathBuf,
}

impl Partial {
    /// Begins the file that `path` is to be, or opens what is there of it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let partial = beside(path, ".partial")?;
        loop {
            let file = open(&partial)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let problem = "another process is writing it; wait for that one";
                    return Err(Error::file(path, problem));
                }
                // A file system without locks: then nobody else is kept out.
                Err(TryLockError::Error(_)) => {}
            }
            // Between opening and locking, whoever had the lock may have given it its name.
            if is_at(&file, &partial) {
                return Ok(Self { file, path: path.to_owned(), partial });
            }
        }
    }

    /// What the file will be.
    #[cfg(feature = "safetensors")]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn io<T>(&self, result: io::Result<T>) -> Result<T> {
        result.map_err(|e| Error::io(&self.path, e))
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.io(write_all_at(&self.file, bytes, at))
    }

    /// Gives the file its name, once all of it is on the disk.
    pub(super) fn finish(&self) -> Result<()> {
        self.io(self.file.sync_all())?;
        self.io(fs::rename(&self.partial, &self.path))?;
        self.io(sync_folder(&self.path))
    }

    /// Leaves nothing of it.
    pub(super) fn discard(&self) {
        // Nothing can be done about a failure here; the name says what the file is.
        let _ = fs::remove_file(&self.partial);
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Closing the file is not enough while a process that another thread is starting still has
        // it open. Where there is no lock there is none to fail on.
        let _ = self.file.unlock();
    }
}

/// Whether it is that file that is still at that place.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().ok().zip(fs::metadata(path).ok()).is_some_and(|(a, b)| same(a, b))
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    // A file that is open is not renamed there.
    true
}

/// The hidden name beside `path` with that ending.
pub(super) fn beside(path: &Path, suffix: &str) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(Error::file(path, "no name of a file that can be written"));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    Ok(path.with_file_name(hidden))
}

/// Opens a file for reading and writing, keeping what is in it.
pub(super) fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).map_err(|e| Error::io(path, e))
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
fn write_all_at(mut file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    io::Seek::seek(&mut file, io::SeekFrom::Start(at))?;
    io::Write::write_all(&mut file, bytes)
}

/// Makes a new name in a folder last.
fn sync_folder(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}
