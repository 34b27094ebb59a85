//! Memory that backends hand out.

use std::ptr::NonNull;
#[cfg(feature = "emulator")]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

#[cfg(feature = "emulator")]
use super::host::HostBytes;
use crate::caps::MemoryKind;

/// An allocation of a backend, freed when dropped.
///
/// # Safety
/// `host`, where it gives a place, gives the same one each time: initialised, aligned to
/// [`HOST_ALIGNMENT`](super::HOST_ALIGNMENT), and valid for the length that was asked for, to read
/// and to write, by any thread, as long as the allocation lives.
pub(crate) unsafe trait RawMemory: Send + Sync {
    /// Where the host finds the bytes, if it may touch them.
    fn host(&self) -> Option<NonNull<u8>>;

    /// Where the device finds them.
    fn address(&self) -> u64;

    /// Copies bytes from `offset` to the host, all within the allocation.
    fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), String>;

    /// Copies bytes of the host to `offset`, all within the allocation.
    fn write(&self, offset: usize, from: &[u8]) -> Result<(), String>;
}

/// Why a backend gave no memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// There is no more of it; the reason, if the driver gave one.
    #[error("{0}")]
    OutOfMemory(String),
    /// The device failed: in its driver's words, and what to do.
    #[error("{0}")]
    Device(String),
}

/// Where the memory of a backend comes from.
pub(crate) trait Allocator: Send + Sync {
    /// `len` zero bytes of a kind that is neither [`MemoryKind::Host`] nor [`MemoryKind::Mapped`].
    fn allocate(&self, kind: MemoryKind, len: usize) -> Result<Box<dyn RawMemory>, Refusal>;

    /// Whether memory that it gave is backed by pages at once, which the system counts itself.
    fn gives_resident(&self) -> bool;

    /// Free and total bytes of the device's own memory; `None` where that is the host's. An error
    /// is a [`Refusal::Device`].
    fn own_memory(&self) -> Result<Option<(u64, u64)>, String>;

    /// Lets go of what ended work held.
    fn reclaim(&self);
}

/// Memory of the host as a backend's: what an emulated GPU has.
#[cfg(feature = "emulator")]
pub(crate) struct EmulatedMemory {
    bytes: HostBytes,
    len: usize,
    visible: bool,
    counter: Option<Arc<AtomicU64>>,
}

#[cfg(feature = "emulator")]
impl EmulatedMemory {
    /// `len` zero bytes that the host may touch, or not, counted while they live.
    pub(crate) fn new(len: usize, visible: bool, counter: Option<Arc<AtomicU64>>) -> Option<Self> {
        let bytes = HostBytes::zeroed(len)?;
        if let Some(counter) = &counter {
            counter.fetch_add(len as u64, Ordering::Relaxed);
        }
        Some(EmulatedMemory { bytes, len, visible, counter })
    }

    fn check(&self, offset: usize, len: usize) -> Result<(), String> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(format!("{len} bytes from {offset} reach past the {} there are", self.len)),
        }
    }
}

#[cfg(feature = "emulator")]
impl Drop for EmulatedMemory {
    fn drop(&mut self) {
        if let Some(counter) = &self.counter {
            counter.fetch_sub(self.len as u64, Ordering::Relaxed);
        }
    }
}

// SAFETY: `HostBytes` are initialised and aligned, and valid for the length that they were made
// with, at a place that does not change.
#[cfg(feature = "emulator")]
unsafe impl RawMemory for EmulatedMemory {
    fn host(&self) -> Option<NonNull<u8>> {
        NonNull::new(self.bytes.as_ptr()).filter(|_| self.visible)
    }

    fn address(&self) -> u64 {
        self.bytes.as_ptr().addr() as u64
    }

    fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), String> {
        self.check(offset, to.len())?;
        // SAFETY: within the allocation, which others write only under the buffer's tracker.
        unsafe { self.bytes.as_ptr().add(offset).copy_to(to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), String> {
        self.check(offset, from.len())?;
        // SAFETY: as above; the tracker admits no other user beside this one.
        unsafe { self.bytes.as_ptr().add(offset).copy_from(from.as_ptr(), from.len()) };
        Ok(())
    }
}
