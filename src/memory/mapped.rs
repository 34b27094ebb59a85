//! Files mapped read-only.

use std::fs::File;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, Result};

/// Maps a whole file, of which `path` is named in errors.
///
/// The mapping sees changes that other processes make to the file, and reading a page that was
/// cut off by truncation raises SIGBUS: map only files that nobody rewrites in place.
pub(super) fn map_file(file: &File, path: &Path) -> Result<Mmap> {
    // SAFETY: the mapping is private and read-only. The documented caller's duty is that the file
    // is not modified while mapped; bytes are only ever read as plain-old-data, for which every
    // pattern is valid.
    unsafe { MmapOptions::new().map(file) }.map_err(|e| Error::io(path, e))
}
