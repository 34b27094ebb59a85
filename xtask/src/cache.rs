//! The user's cache folder, and folders in it that are either whole or absent.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

/// `$XDG_CACHE_HOME/ferrocerium`, or `~/.cache/ferrocerium`.
pub fn root() -> Result<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        // A relative XDG_CACHE_HOME is invalid and to be ignored, says the XDG specification.
        path.is_absolute().then_some(path)
    };
    match (absolute("XDG_CACHE_HOME"), absolute("HOME")) {
        (Some(cache), _) => Ok(cache.join("ferrocerium")),
        (None, Some(home)) => Ok(home.join(".cache").join("ferrocerium")),
        (None, None) => bail!(
            "no cache folder: neither XDG_CACHE_HOME nor HOME is an absolute path; \
             set XDG_CACHE_HOME to a folder you can write to"
        ),
    }
}

/// A folder being filled beside its final place. It takes that place in one step by
/// [`Staging::commit`]; until then nothing is visible there, and dropping it removes it.
///
/// The lock file next to it makes a second process wait, so that what a killed process left
/// behind can be told from what a living one is filling.
pub struct Staging {
    partial: PathBuf,
    target: PathBuf,
    _lock: File,
}

impl Staging {
    /// Waits for other processes that fill `target`, then starts an empty folder for it.
    pub fn begin(target: &Path) -> Result<Self> {
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            bail!("{} has no parent folder to stage in", target.display());
        };
        let name = name.to_string_lossy();
        fs::create_dir_all(parent).map_err(|e| explain(e, parent, None))?;
        let lock_path = parent.join(format!(".{name}.lock"));
        let lock = File::create(&lock_path).map_err(|e| explain(e, &lock_path, None))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting for another process that is fetching {name}");
                lock.lock().map_err(|e| explain(e, &lock_path, None))?;
            }
            Err(TryLockError::Error(e)) => return Err(explain(e, &lock_path, None)),
        }
        let partial = parent.join(format!(".{name}.partial"));
        remove_dir_if_present(&partial)?;
        fs::create_dir(&partial).map_err(|e| explain(e, &partial, None))?;
        Ok(Self { partial, target: target.to_owned(), _lock: lock })
    }

    /// The folder to fill.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Puts the filled folder in its final place, replacing what was there.
    pub fn commit(self) -> Result<()> {
        sync_dir(&self.partial);
        remove_dir_if_present(&self.target)?;
        fs::rename(&self.partial, &self.target).map_err(|e| explain(e, &self.target, None))?;
        if let Some(parent) = self.target.parent() {
            sync_dir(parent);
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a commit there is nothing at this path; on the error path the first error is
        // the one to report.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

/// Flushes a folder's entries to disk where the system can; not every file system allows it,
/// and the rename is atomic towards other processes either way.
fn sync_dir(path: &Path) {
    let _ = File::open(path).and_then(|dir| dir.sync_all());
}

fn remove_dir_if_present(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}; remove it by hand", path.display()))
        }
        _ => Ok(()),
    }
}

/// One line for an error of the file system: what failed and what to do about it.
/// `needed` is the disk space in bytes that the whole task takes, if known.
pub fn explain(error: io::Error, path: &Path, needed: Option<u64>) -> anyhow::Error {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_space(needed),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => anyhow!(
            "cannot write {path}: {error}; make it writable, or set XDG_CACHE_HOME to a folder \
             that is"
        ),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => anyhow!(
            "cannot write {path}: {error}; a file is in the way: remove it, or set \
             XDG_CACHE_HOME to another folder"
        ),
        _ => {
            anyhow!("cannot write {path}: {error}; set XDG_CACHE_HOME to a folder you can write to")
        }
    }
}

/// The line for a full disk.
pub fn no_space(needed: Option<u64>) -> anyhow::Error {
    let folder =
        root().map_or_else(|_| "the cache folder".into(), |root| root.display().to_string());
    let need = needed.map(|n| format!(" about {} MB", n.div_ceil(1_000_000)));
    anyhow!(
        "no space left on the disk of {folder}: free{}, or set XDG_CACHE_HOME to a folder on \
         another disk",
        need.as_deref().unwrap_or(" some")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("xtask-cache-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn staging_that_is_dropped_leaves_the_old_content() {
        let dir = scratch("dropped");
        let target = dir.join("thing");
        let first = Staging::begin(&target).unwrap();
        fs::write(first.path().join("file"), "old").unwrap();
        first.commit().unwrap();
        let second = Staging::begin(&target).unwrap();
        fs::write(second.path().join("file"), "half-writ").unwrap();
        let partial = second.path().to_owned();
        drop(second);
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "old");
        assert!(!partial.exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn staging_clears_what_a_killed_process_left() {
        let dir = scratch("killed");
        let target = dir.join("thing");
        fs::create_dir_all(dir.join(".thing.partial")).unwrap();
        fs::write(dir.join(".thing.partial/half"), "x").unwrap();
        let staging = Staging::begin(&target).unwrap();
        assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 0);
        drop(staging);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_full_disk_says_how_much_to_free() {
        let error = io::Error::from(io::ErrorKind::StorageFull);
        let line = explain(error, Path::new("/cache"), Some(191_234_000)).to_string();
        assert!(line.contains("about 192 MB"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}
