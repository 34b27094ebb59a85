//! What the system is told about pages of memory.

/// Size and alignment of a huge page on x86-64, and on aarch64 with pages of 4 KiB.
pub(super) const HUGE_PAGE: usize = 2 << 20;

/// Asks for huge pages in memory that is about to be filled for the first time by several
/// threads: it then takes a fault each 2 MiB instead of each 4 KiB. Advice only.
#[cfg(target_os = "linux")]
pub(crate) fn prefer_huge_pages(bytes: &mut [u8]) {
    let start = bytes.as_mut_ptr();
    let first = start.addr().next_multiple_of(HUGE_PAGE) - start.addr();
    let len = bytes.len().saturating_sub(first) / HUGE_PAGE * HUGE_PAGE;
    if len > 0 {
        // SAFETY: `first + len` is at most the length of the slice, which is borrowed mutably;
        // the advice changes no byte.
        unsafe {
            libc::madvise(start.add(first).cast(), len, libc::MADV_HUGEPAGE);
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn prefer_huge_pages(_: &mut [u8]) {}
