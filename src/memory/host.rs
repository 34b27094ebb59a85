//! Zeroed, aligned heap memory.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::HOST_ALIGNMENT;
use super::pages::HUGE_PAGE;

/// An owned, zero-initialised allocation of at least one byte, aligned to [`HOST_ALIGNMENT`].
///
/// The alignment is made by hand within a larger allocation: of an allocator that is asked for
/// more than its own alignment Rust clears the memory itself, which touches every page, where
/// large memory fresh from the system is zero already. For the same reason it costs nothing but
/// addresses to begin large memory at a huge page.
pub(super) struct HostBytes {
    start: NonNull<u8>,
    layout: Layout,
    /// From `start` to the first aligned byte.
    offset: usize,
    len: usize,
}

impl HostBytes {
    /// `len` zero bytes, or `None` when the allocator refuses or the size is not representable.
    pub(super) fn zeroed(len: usize) -> Option<Self> {
        let align = if len >= HUGE_PAGE { HUGE_PAGE } else { HOST_ALIGNMENT };
        let size = len.max(1).checked_add(align - 1)?;
        let layout = Layout::from_size_align(size, 1).ok()?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let offset = start.addr().get().wrapping_neg() % align;
        Some(HostBytes { start, layout, offset, len })
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        // SAFETY: the offset is below the alignment, by which the allocation exceeds `len`.
        unsafe { self.start.as_ptr().add(self.offset) }
    }
}

impl Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: owned, initialised, and `len` bytes long.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

impl DerefMut for HostBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len) }
    }
}

impl fmt::Debug for HostBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

// SAFETY: the allocation is owned; access to its bytes is coordinated by `Buffer`.
unsafe impl Send for HostBytes {}
// SAFETY: as above: a shared `HostBytes` only hands out a raw pointer.
unsafe impl Sync for HostBytes {}
