//! Reads past the page cache.
//!
//! What a disk gives then goes to where it is wanted by itself, several requests at a time, and
//! no page of the cache is taken from others for it. That is for files that are not in the cache:
//! what is there is copied from it in less time.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Alignment of places, of offsets and of sizes: what every block device is content with, and the
/// size of a page of the cache.
pub(crate) const DIRECT_ALIGNMENT: usize = 4096;

/// The same file, whatever its name leads to now, opened for direct reads where its file system
/// has them.
#[cfg(target_os = "linux")]
pub(super) fn open(file: &File) -> Option<File> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    let same = Path::new("/proc/self/fd").join(file.as_raw_fd().to_string());
    File::options().read(true).custom_flags(libc::O_DIRECT).open(same).ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn open(_: &File) -> Option<File> {
    None
}

/// Fills `bytes` from `offset` on, all of it aligned, and says how many it got: fewer where the
/// file ends or its file system wants a larger alignment.
pub(super) fn read(file: &File, offset: u64, bytes: &mut [u8]) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        match read_at(file, &mut bytes[done..], offset + done as u64) {
            Ok(n @ 1..) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
        }
    }
    done
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, bytes, offset)
}

#[cfg(not(unix))]
fn read_at(_: &File, _: &mut [u8], _: u64) -> io::Result<usize> {
    Ok(0)
}

/// Whether the page cache has that part of a file, by a look at a few of its pages. Where the
/// system does not say, as of files of others, it is said to.
#[cfg(target_os = "linux")]
pub(super) fn is_cached(file: &File, range: Range<u64>) -> bool {
    /// Pages that are looked at.
    const LOOKS: usize = 4;
    let start = range.start / DIRECT_ALIGNMENT as u64 * DIRECT_ALIGNMENT as u64;
    let len = usize::try_from(range.end - start).unwrap_or(usize::MAX);
    let mut options = memmap2::MmapOptions::new();
    // SAFETY: no byte of the mapping is ever touched.
    let Ok(map) = (unsafe { options.offset(start).len(len).map(file) }) else { return true };
    let pages = len.div_ceil(DIRECT_ALIGNMENT);
    (0..LOOKS).all(|look| {
        let page = (pages - 1) * look / (LOOKS - 1);
        let mut resident = 1u8;
        // SAFETY: the page is one of the mapping's, and the call writes one byte for it.
        unsafe {
            let place = map.as_ptr().add(page * DIRECT_ALIGNMENT);
            libc::mincore(place.cast_mut().cast(), 1, &mut resident);
        }
        resident & 1 == 1
    })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_cached(_: &File, _: Range<u64>) -> bool {
    true
}
