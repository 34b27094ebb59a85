//! The budget of a device, and the books on it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Where a device's buffers are accounted: a budget, and a record of every live buffer.
///
/// Cheap to clone; clones share the books.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: String,
    budget: u64,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    used: u64,
    peak: u64,
    next_id: u64,
    live: BTreeMap<u64, LiveBuffer>,
}

/// A buffer that is alive, as [`MemoryReport`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveBuffer {
    /// What the allocating call named it.
    pub label: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What a device's memory is used for: see `Device::memory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryReport {
    /// Bytes in live buffers. Mapped files are not counted: their pages are the page cache's.
    pub used: u64,
    /// The most bytes that were in live buffers at once.
    pub peak: u64,
    /// The limit for `used`.
    pub budget: u64,
    /// How many buffers are alive.
    pub buffers: usize,
    /// The largest live buffers, largest first, at most [`MemoryReport::LARGEST`].
    pub largest: Vec<LiveBuffer>,
}

impl MemoryReport {
    /// How many of the largest buffers a report lists.
    pub const LARGEST: usize = 8;
}

impl Pool {
    /// A pool for the device of that name, with a budget in bytes.
    pub fn new(device: impl Into<String>, budget: u64) -> Self {
        Pool(Arc::new(Inner { device: device.into(), budget, books: Mutex::default() }))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Every update leaves the books consistent, so a panic elsewhere does not spoil them.
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The budget in bytes.
    pub fn budget(&self) -> u64 {
        self.0.budget
    }

    /// Used, peak, budget, and the largest live buffers by label.
    pub fn report(&self) -> MemoryReport {
        let books = self.books();
        MemoryReport {
            used: books.used,
            peak: books.peak,
            budget: self.0.budget,
            buffers: books.live.len(),
            largest: largest(&books),
        }
    }

    /// Books `bytes` under `label`, or says what holds the memory. The reservation ends when the
    /// returned value is dropped.
    pub(super) fn reserve(&self, label: &str, bytes: u64) -> Result<Reservation> {
        let mut books = self.books();
        if books.used.checked_add(bytes).is_none_or(|total| total > self.0.budget) {
            return Err(self.out_of_memory(&books, label, bytes));
        }
        books.used += bytes;
        books.peak = books.peak.max(books.used);
        let id = books.next_id;
        books.next_id += 1;
        books.live.insert(id, LiveBuffer { label: label.to_owned(), bytes });
        Ok(Reservation { pool: self.clone(), id })
    }

    /// The error for an allocation that the system refused although the budget allowed it.
    pub(super) fn refused(&self, label: &str, bytes: u64) -> Error {
        self.out_of_memory(&self.books(), label, bytes)
    }

    fn out_of_memory(&self, books: &Books, label: &str, request: u64) -> Error {
        let list = largest(books).iter().map(LiveBuffer::to_string).collect::<Vec<_>>().join(", ");
        Error::OutOfMemory {
            label: label.to_owned(),
            device: self.0.device.clone(),
            request,
            used: books.used,
            budget: self.0.budget,
            holders: if list.is_empty() { list } else { format!("; largest: {list}") },
        }
    }
}

fn largest(books: &Books) -> Vec<LiveBuffer> {
    let mut all: Vec<_> = books.live.values().collect();
    all.sort_by_key(|b| std::cmp::Reverse(b.bytes));
    all.into_iter().take(MemoryReport::LARGEST).cloned().collect()
}

/// Bytes booked in a pool until this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    pool: Pool,
    id: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut books = self.pool.books();
        if let Some(buffer) = books.live.remove(&self.id) {
            books.used -= buffer.bytes;
        }
    }
}

impl fmt::Display for LiveBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.label, Bytes(self.bytes))
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} used in {} buffers, {} at peak, {} budget",
            Bytes(self.used),
            self.buffers,
            Bytes(self.peak),
            Bytes(self.budget)
        )?;
        for buffer in &self.largest {
            write!(f, "\n  {buffer}")?;
        }
        Ok(())
    }
}

/// A byte count, printed with a binary unit.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}
