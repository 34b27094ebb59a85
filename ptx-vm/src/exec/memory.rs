//! Device memory: allocations with their limits, and which bytes were ever written.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use crate::error::{FaultKind, Space};

/// Generic addresses of shared memory start here.
pub(crate) const SHARED_WINDOW: u64 = 1 << 40;
/// Generic addresses of local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 2 << 40;
/// Generic addresses of kernel parameters start here.
pub(crate) const PARAM_WINDOW: u64 = 3 << 40;
/// Bytes of each of these windows.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;
/// Device allocations start here.
const GLOBAL_BASE: u64 = 0x7f00_0000_0000;
/// Allocations start at multiples of this, as the driver's do.
const ALLOCATION_ALIGN: u64 = 256;
/// Nothing lies this close behind an allocation.
const GUARD_BYTES: u64 = 4096;

/// One allocation.
struct Allocation {
    base: u64,
    bytes: u64,
    words: Vec<AtomicU32>,
    /// Per word, one bit a byte: written.
    written: Vec<AtomicU8>,
    read_only: bool,
    freed: bool,
    name: String,
}

/// All memory of a device. Words are atomics, so that blocks on several threads may share
/// them; accesses wider than a word are made word by word.
pub(crate) struct DeviceMemory {
    allocations: Vec<Allocation>,
    next: u64,
    /// Held by read-modify-write operations on their address.
    locks: Vec<Mutex<()>>,
}

impl DeviceMemory {
    pub fn new() -> Self {
        let locks = (0..64).map(|_| Mutex::new(())).collect();
        DeviceMemory { allocations: Vec::new(), next: GLOBAL_BASE, locks }
    }

    /// A new allocation; its bytes count as never written. `None` if the host has no memory
    /// for it.
    pub fn allocate(&mut self, bytes: u64, align: u64, name: &str) -> Option<u64> {
        let align = align.max(ALLOCATION_ALIGN);
        let mut base = self.next.div_ceil(align) * align;
        while !self.is_free(base, bytes) {
            base += GUARD_BYTES.max(align);
        }
        self.map(base, bytes, name)?;
        self.next = base + bytes + GUARD_BYTES;
        Some(base)
    }

    /// An allocation at an address that is free. `None` if the host has no memory for it.
    pub fn map(&mut self, base: u64, bytes: u64, name: &str) -> Option<u64> {
        let words = usize::try_from(bytes.div_ceil(4)).ok()?;
        let (words, written) = (zeroed(words)?, zeroed(words)?);
        let (read_only, freed, name) = (false, false, name.to_owned());
        let new = Allocation { base, bytes, words, written, read_only, freed, name };
        // What was freed there is forgotten.
        let first = self.allocations.partition_point(|a| a.base + a.bytes <= base);
        let last = self.allocations.partition_point(|a| a.base < base + bytes);
        self.allocations.splice(first..last, [new]);
        Some(base)
    }

    /// Whether bytes are of no allocation in use, nor of a window.
    pub fn is_free(&self, base: u64, bytes: u64) -> bool {
        let Some(end) = base.checked_add(bytes) else { return false };
        let first = self.allocations.partition_point(|a| a.base + a.bytes <= base);
        let mut near = self.allocations[first..].iter().take_while(|a| a.base < end);
        let windows = SHARED_WINDOW..PARAM_WINDOW + WINDOW_BYTES;
        near.all(|a| a.freed) && (end <= windows.start || base >= windows.end)
    }

    /// Forbids writes by kernels; false where no allocation in use starts there.
    pub fn protect(&mut self, base: u64) -> bool {
        match self.allocations.iter_mut().find(|a| a.base == base && !a.freed) {
            Some(a) => {
                a.read_only = true;
                true
            }
            None => false,
        }
    }

    /// Gives an allocation back; later accesses are reported as such.
    pub fn free(&mut self, base: u64) -> bool {
        match self.allocations.iter_mut().find(|a| a.base == base && !a.freed) {
            Some(a) => {
                a.freed = true;
                a.words = Vec::new();
                a.written = Vec::new();
                true
            }
            None => false,
        }
    }

    fn index_of(&self, address: u64) -> Option<usize> {
        self.allocations.partition_point(|a| a.base <= address).checked_sub(1)
    }

    fn find(
        &self,
        address: u64,
        bytes: u32,
        access: &'static str,
    ) -> Result<&Allocation, FaultKind> {
        if let Some(a) = self.index_of(address).map(|i| &self.allocations[i])
            && address - a.base + u64::from(bytes) <= a.bytes
            && !a.freed
        {
            return Ok(a);
        }
        Err(FaultKind::OutOfBounds {
            access,
            space: Space::Global,
            address,
            size: bytes,
            near: self.describe(address),
        })
    }

    /// Whether the address lies in a variable that kernels cannot write.
    pub fn is_read_only(&self, address: u64) -> bool {
        self.index_of(address)
            .map(|i| &self.allocations[i])
            .is_some_and(|a| a.read_only && address - a.base < a.bytes)
    }

    fn describe(&self, address: u64) -> String {
        let Some(i) = self.index_of(address) else {
            let null = address < 4096;
            let hint = if null {
                "it is a null pointer"
            } else {
                "no allocation is near: a host pointer?"
            };
            return format!("; {hint}");
        };
        let a = &self.allocations[i];
        if a.freed && address - a.base < a.bytes {
            return format!("; `{}` was freed", a.name);
        }
        let past = (address - a.base).saturating_sub(a.bytes);
        if past > 1 << 30 {
            return "; no allocation is near: a host pointer?".into();
        }
        format!(
            "; the nearest is `{}`, {} bytes at {:#x}, which the access leaves by offset {}",
            a.name,
            a.bytes,
            a.base,
            address - a.base
        )
    }

    /// The little-endian value of 1, 2, 4 or 8 aligned bytes.
    #[inline]
    pub fn load(&self, address: u64, bytes: u32, checked: bool) -> Result<u64, FaultKind> {
        let a = self.find(address, bytes, "read")?;
        let offset = (address - a.base) as usize;
        let word = offset / 4;
        if checked {
            let need = written_mask(offset, bytes);
            let mut have = a.written[word].load(Relaxed);
            if bytes == 8 {
                have &= a.written[word + 1].load(Relaxed);
            }
            if have & need != need {
                return Err(self.unwritten(a, address, bytes));
            }
        }
        let low = u64::from(a.words[word].load(Relaxed));
        Ok(match bytes {
            8 => low | u64::from(a.words[word + 1].load(Relaxed)) << 32,
            4 => low,
            _ => low >> (8 * (offset % 4)) & ((1 << (8 * bytes)) - 1),
        })
    }

    fn unwritten(&self, a: &Allocation, address: u64, bytes: u32) -> FaultKind {
        let start = (address - a.base) as usize;
        let written = |i: usize| a.written[i / 4].load(Relaxed) >> (i % 4) & 1 == 1;
        let offset = (0..bytes).find(|&i| !written(start + i as usize)).unwrap_or(0);
        FaultKind::UninitialisedMemory { space: Space::Global, address, size: bytes, offset }
    }

    /// Writes 1, 2, 4 or 8 aligned bytes.
    #[inline]
    pub fn store(&self, address: u64, bytes: u32, value: u64) -> Result<(), FaultKind> {
        let a = self.find(address, bytes, "write")?;
        if a.read_only {
            return Err(FaultKind::ReadOnly { space: Space::Const, address });
        }
        put(a, (address - a.base) as usize, bytes, value);
        Ok(())
    }

    /// The lock that read-modify-write operations on this address hold.
    pub fn lock(&self, address: u64) -> MutexGuard<'_, ()> {
        let lock = &self.locks[(address >> 4) as usize % self.locks.len()];
        // The data is `()`: nothing can be left half changed.
        lock.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Host access: no alignment needed, unwritten bytes read as zero.
    pub fn host_read(&self, address: u64, out: &mut [u8]) -> Result<(), FaultKind> {
        let bytes = u32::try_from(out.len()).unwrap_or(u32::MAX);
        let a = self.find(address, bytes, "read")?;
        let start = (address - a.base) as usize;
        for (i, o) in out.iter_mut().enumerate() {
            let at = start + i;
            *o = (a.words[at / 4].load(Relaxed) >> (8 * (at % 4))) as u8;
        }
        Ok(())
    }

    /// Host access: no alignment needed.
    pub fn host_write(&self, address: u64, data: &[u8]) -> Result<(), FaultKind> {
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let a = self.find(address, bytes, "write")?;
        let start = (address - a.base) as usize;
        let mut at = 0;
        while at < data.len() {
            let offset = start + at;
            if offset.is_multiple_of(4) && data.len() - at >= 4 {
                let mut word = [0; 4];
                word.copy_from_slice(&data[at..at + 4]);
                put(a, offset, 4, u64::from(u32::from_le_bytes(word)));
                at += 4;
            } else {
                put(a, offset, 1, u64::from(data[at]));
                at += 1;
            }
        }
        Ok(())
    }

    /// Whether the host has bytes to read that nobody wrote.
    pub fn fully_written(&self, address: u64, bytes: u32) -> Result<bool, FaultKind> {
        let a = self.find(address, bytes, "read")?;
        let start = (address - a.base) as usize;
        Ok((start..start + bytes as usize)
            .all(|i| a.written[i / 4].load(Relaxed) >> (i % 4) & 1 == 1))
    }
}

fn zeroed<T: Default>(n: usize) -> Option<Vec<T>> {
    let mut out = Vec::new();
    out.try_reserve_exact(n).ok()?;
    out.resize_with(n, T::default);
    Some(out)
}

fn written_mask(offset: usize, bytes: u32) -> u8 {
    match bytes {
        4 | 8 => 0xf,
        _ => ((1u8 << bytes) - 1) << (offset % 4),
    }
}

fn put(a: &Allocation, offset: usize, bytes: u32, value: u64) {
    let word = offset / 4;
    let need = written_mask(offset, bytes);
    let mark = |i: usize| {
        if a.written[i].load(Relaxed) & need != need {
            a.written[i].fetch_or(need, Relaxed);
        }
    };
    match bytes {
        8 => {
            a.words[word].store(value as u32, Relaxed);
            a.words[word + 1].store((value >> 32) as u32, Relaxed);
            mark(word + 1);
        }
        4 => a.words[word].store(value as u32, Relaxed),
        _ => {
            // Neighbours in the word may be written by other threads at the same time.
            let shift = 8 * (offset % 4);
            let field = ((1u64 << (8 * bytes)) - 1) as u32;
            let value = (value as u32 & field) << shift;
            let _ = a.words[word]
                .fetch_update(Relaxed, Relaxed, |old| Some(old & !(field << shift) | value));
        }
    }
    mark(word);
}
