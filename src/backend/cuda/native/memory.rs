//! Memory that the driver gives.

use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use super::api::{Stream, check_memory, failed, sys};
use crate::caps::MemoryKind;
use crate::memory::{RawMemory, Refusal};

/// Host memory that every context maps.
const PORTABLE_AND_MAPPED: u32 = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;

/// An allocation of the driver.
pub(super) struct NativeMemory {
    stream: Arc<Stream>,
    kind: MemoryKind,
    /// Also the host's, where the host may touch it: the address space is one.
    address: u64,
}

impl NativeMemory {
    /// `len` zero bytes.
    pub fn new(stream: &Arc<Stream>, kind: MemoryKind, len: usize) -> Result<Self, Refusal> {
        let len = len.max(1);
        stream.context.bind().map_err(failed)?;
        let address = match kind {
            MemoryKind::Pinned => {
                let mut start = null_mut();
                // SAFETY: a place for an address.
                let result = unsafe { sys::cuMemHostAlloc(&mut start, len, PORTABLE_AND_MAPPED) };
                check_memory("cuMemHostAlloc", result)?;
                start.addr() as u64
            }
            MemoryKind::Managed => {
                let flags = sys::CUmemAttach_flags::CU_MEM_ATTACH_GLOBAL as u32;
                let mut address = 0;
                // SAFETY: a place for an address.
                let result = unsafe { sys::cuMemAllocManaged(&mut address, len, flags) };
                check_memory("cuMemAllocManaged", result).map(|()| address)?
            }
            MemoryKind::Device => stream.allocate(len)?,
            MemoryKind::Host | MemoryKind::Mapped => {
                return Err(Refusal::Device(format!("the driver gives no {kind} memory")));
            }
        };
        let memory = NativeMemory { stream: stream.clone(), kind, address };
        match memory.host() {
            // SAFETY: just allocated, that long, and nobody else's yet.
            Some(start) => unsafe { start.as_ptr().write_bytes(0, len) },
            None => {
                // From here on it is any stream's.
                let cleared = stream.clear(address, len).and_then(|()| stream.synchronize());
                cleared.map_err(failed)?;
            }
        }
        Ok(memory)
    }
}

// SAFETY: pinned and managed memory is the host's too, at the same address; it was written all
// over, is aligned to pages, and lives until dropped.
unsafe impl RawMemory for NativeMemory {
    fn host(&self) -> Option<NonNull<u8>> {
        let visible = self.kind != MemoryKind::Device;
        NonNull::new(self.address as *mut u8).filter(|_| visible)
    }

    fn address(&self) -> u64 {
        self.address
    }

    fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), String> {
        self.stream.copy_out(self.address + offset as u64, to)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Result<(), String> {
        // SAFETY: the bytes are borrowed until the copy was waited for.
        let copied = unsafe { self.stream.copy_in(self.address + offset as u64, from) };
        let waited = self.stream.synchronize();
        copied.and(waited)
    }
}

impl Drop for NativeMemory {
    fn drop(&mut self) {
        if self.kind == MemoryKind::Device {
            return self.stream.free(self.address);
        }
        let _ = self.stream.context.bind().map(|()| {
            // SAFETY: allocated by the counterpart of each, freed once, when work that used it
            // has ended.
            unsafe {
                match self.kind {
                    MemoryKind::Pinned => sys::cuMemFreeHost(self.address as *mut _),
                    _ => sys::cuMemFree_v2(self.address),
                }
            }
        });
    }
}
