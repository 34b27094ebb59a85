//! Zeroed, aligned heap memory.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use super::HOST_ALIGNMENT;

/// An owned, zero-initialised allocation of at least one byte, aligned to [`HOST_ALIGNMENT`].
pub(super) struct HostBytes {
    ptr: NonNull<u8>,
    layout: Layout,
}

impl HostBytes {
    /// `len` zero bytes, or `None` when the allocator refuses or the size is not representable.
    pub(super) fn zeroed(len: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len.max(1), HOST_ALIGNMENT).ok()?;
        // SAFETY: the layout's size is not zero.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(HostBytes { ptr, layout })
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from `alloc_zeroed` with this very layout and is freed once.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

// SAFETY: the allocation is owned; access to its bytes is coordinated by `Buffer`.
unsafe impl Send for HostBytes {}
// SAFETY: as above: a shared `HostBytes` only hands out a raw pointer.
unsafe impl Sync for HostBytes {}
