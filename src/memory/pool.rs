//! The budget of a device, and the books on it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::buffer::Buffer;
use super::limit::{Limit, LimitSource};
use super::raw::{Allocator, Refusal};
use super::system::{Promise, SystemMemory};
use crate::caps::MemoryKind;
use crate::error::{Bytes, Error, Result};

/// Bytes that are granted before the system is asked again how much it has. Larger allocations
/// ask every time.
const RECHECK: u64 = 64 << 20;

/// Where a device's buffers are accounted: a budget, and a record of every live buffer.
///
/// Cheap to clone; clones share the books.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

struct Inner {
    device: String,
    budget: u64,
    system: Option<SystemMemory>,
    backend: Option<Backend>,
    books: Mutex<Books>,
}

/// The device's own memory.
struct Backend {
    allocator: Arc<dyn Allocator>,
    /// What it has, [`MemoryKind::Host`] aside.
    kinds: Vec<MemoryKind>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("device", &self.device).field("budget", &self.budget).finish()
    }
}

#[derive(Debug, Default)]
struct Books {
    used: u64,
    peak: u64,
    next_id: u64,
    live: BTreeMap<u64, LiveBuffer>,
    /// Bytes that the system was found to have room for when it was last asked, less those
    /// booked since.
    granted: u64,
}

/// A buffer that is alive, as [`MemoryReport`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveBuffer {
    /// What the allocating call named it.
    pub label: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What a device's memory is used for, and how much more there is: see `Device::memory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryReport {
    /// Bytes in live buffers. Mapped files are not counted: their pages are the page cache's.
    pub used: u64,
    /// The most bytes that were in live buffers at once.
    pub peak: u64,
    /// The limit for `used` as things are now: `used` and what the tightest of `limits` leaves.
    pub budget: u64,
    /// How many buffers are alive.
    pub buffers: usize,
    /// The largest live buffers, largest first, at most [`MemoryReport::LARGEST`].
    pub largest: Vec<LiveBuffer>,
    /// Everything that limits further allocations, tightest first.
    pub limits: Vec<Limit>,
}

impl MemoryReport {
    /// How many of the largest buffers a report lists.
    pub const LARGEST: usize = 8;

    /// Bytes that may still be allocated: `budget − used`.
    pub fn available(&self) -> u64 {
        self.budget.saturating_sub(self.used)
    }
}

impl Pool {
    /// A pool for the device of that name, with a budget in bytes and no other limit.
    pub fn new(device: impl Into<String>, budget: u64) -> Self {
        Self::with(device, budget, None)
    }

    /// A pool that is also kept within what the system has.
    ///
    /// ```
    /// # use ferrocerium::memory::{Buffer, Pool, SystemMemory};
    /// let pool = Pool::within_system("cpu", u64::MAX, SystemMemory::default());
    /// println!("{}", pool.report());          // every limit, with the numbers behind it
    /// let too_much = Buffer::host(&pool, 1 << 46, "weights");
    /// # #[cfg(target_os = "linux")]
    /// assert!(too_much.unwrap_err().to_string().contains("by the system"));
    /// ```
    pub fn within_system(device: impl Into<String>, budget: u64, system: SystemMemory) -> Self {
        Self::with(device, budget, Some(system))
    }

    fn with(device: impl Into<String>, budget: u64, system: Option<SystemMemory>) -> Self {
        let (device, books) = (device.into(), Mutex::default());
        Pool(Arc::new(Inner { device, budget, system, backend: None, books }))
    }

    /// The same limits, with memory of these kinds from a backend.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn with_backend(self, allocator: Arc<dyn Allocator>, kinds: &[MemoryKind]) -> Self {
        let Inner { device, budget, system, .. } = &*self.0;
        let backend = Some(Backend { allocator, kinds: kinds.to_vec() });
        let (device, system, books) = (device.clone(), system.clone(), Mutex::default());
        Pool(Arc::new(Inner { device, budget: *budget, system, backend, books }))
    }

    /// Where memory of a kind comes from; `None` for the host's heap.
    ///
    /// # Errors
    /// [`Error::Memory`] where there is none of the kind.
    pub(super) fn allocator(
        &self,
        kind: MemoryKind,
        label: &str,
    ) -> Result<Option<&Arc<dyn Allocator>>> {
        let backend = self.0.backend.as_ref();
        let own = backend.filter(|backend| backend.kinds.contains(&kind));
        match kind {
            MemoryKind::Host => Ok(None),
            MemoryKind::Pinned | MemoryKind::Managed | MemoryKind::Device if own.is_some() => {
                Ok(own.map(|backend| &backend.allocator))
            }
            _ => {
                let kinds = backend.map_or(&[][..], |backend| &backend.kinds);
                let allocated = kinds.iter().filter(|&&kind| kind != MemoryKind::Mapped);
                let mut names: Vec<_> = allocated.map(ToString::to_string).collect();
                if !kinds.contains(&MemoryKind::Host) {
                    names.insert(0, MemoryKind::Host.to_string());
                }
                Err(Error::Memory {
                    label: label.to_owned(),
                    problem: format!(
                        "{} allocates no {kind} memory; {} can be had there",
                        self.0.device,
                        names.join(", ")
                    ),
                })
            }
        }
    }

    /// Whether the device has memory of that kind, [`MemoryKind::Host`] aside.
    pub(super) fn has(&self, kind: MemoryKind) -> bool {
        self.0.backend.as_ref().is_some_and(|backend| backend.kinds.contains(&kind))
    }

    /// Whether this device's kernels find a buffer at its address: [`MemoryKind::Device`] memory is
    /// that of one device.
    pub(crate) fn reaches(&self, buffer: &Buffer) -> bool {
        let own = || buffer.pool().is_some_and(|pool| Arc::ptr_eq(&pool.0, &self.0));
        buffer.kind() != MemoryKind::Device || own()
    }

    /// Free and total bytes of the memory that a kind is in, where that is not the host's.
    fn own_memory(&self, kind: MemoryKind) -> Result<Option<(u64, u64)>, String> {
        let backend = self.0.backend.as_ref().filter(|_| kind == MemoryKind::Device);
        backend.map_or(Ok(None), |backend| backend.allocator.own_memory())
    }

    /// Lets go of what ended work held. The books must not be open: buffers close their entries.
    fn reclaim(&self) {
        if let Some(backend) = &self.0.backend {
            backend.allocator.reclaim();
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Every update leaves the books consistent, so a panic elsewhere does not spoil them.
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The budget in bytes that the pool was made with.
    pub fn budget(&self) -> u64 {
        self.0.budget
    }

    /// Used, peak, the largest live buffers by label, and everything that limits further ones.
    pub fn report(&self) -> MemoryReport {
        self.reclaim();
        // A device that failed has no memory to give.
        let own = self.own_memory(MemoryKind::Device).unwrap_or(Some((0, 0)));
        let books = self.books();
        let mut limits = self.limits(&books, 0);
        limits.extend(own.map(|own| self.own_limit(own)));
        limits.sort_by_key(|limit| limit.available);
        let available = limits.first().map_or(u64::MAX, |limit| limit.available);
        MemoryReport {
            used: books.used,
            peak: books.peak,
            budget: books.used.saturating_add(available),
            buffers: books.live.len(),
            largest: largest(&books),
            limits,
        }
    }

    /// Every limit, tightest first. `own` bytes have been promised to the one who asks.
    fn limits(&self, books: &Books, own: u64) -> Vec<Limit> {
        let mut limits = Vec::new();
        if let Some(system) = &self.0.system {
            limits.extend(system.limits_beside(own));
        }
        if self.0.budget < u64::MAX {
            limits.push(Limit {
                available: self.0.budget.saturating_sub(books.used),
                source: LimitSource::Budget { limit: self.0.budget, used: books.used },
            });
        }
        limits.sort_by_key(|limit| limit.available);
        limits
    }

    /// The limit that a device's own memory sets, of which these bytes are free and there are.
    fn own_limit(&self, (free, total): (u64, u64)) -> Limit {
        let reserve = self.0.system.as_ref().map_or(0, |system| system.reserve_of(total));
        let available = free.saturating_sub(reserve);
        Limit { available, source: LimitSource::Driver { free, total, reserve } }
    }

    /// Books `bytes` under `label`, or says what limits and what holds the memory. The
    /// reservation ends when the returned value is dropped.
    pub(super) fn reserve(&self, kind: MemoryKind, label: &str, bytes: u64) -> Result<Reservation> {
        self.reclaim();
        let own = self.own_memory(kind);
        let own = own.map_err(|problem| self.refused(label, bytes, Refusal::Device(problem)))?;
        let promised = self.0.system.is_some() && own.is_none();
        let promise = promised.then(|| Promise::new(bytes));
        let mut books = self.books();
        let within_budget =
            books.used.checked_add(bytes).is_some_and(|total| total <= self.0.budget);
        let granted = promise.is_none() || bytes <= books.granted;
        if let Some(limit) = own.map(|own| self.own_limit(own))
            && bytes > limit.available
        {
            return Err(self.out_of_memory(&books, label, bytes, Some(&limit), ""));
        }
        if !(within_budget && granted) {
            let mut limits = self.limits(&books, bytes);
            if own.is_some() {
                limits.retain(|limit| matches!(limit.source, LimitSource::Budget { .. }));
            }
            let available = limits.first().map_or(u64::MAX - books.used, |l| l.available);
            if bytes > available {
                return Err(self.out_of_memory(&books, label, bytes, limits.first(), ""));
            }
            if promised {
                books.granted = available.min(RECHECK.max(bytes));
            }
        }
        if promised {
            books.granted -= bytes;
        }
        books.used += bytes;
        books.peak = books.peak.max(books.used);
        let id = books.next_id;
        books.next_id += 1;
        books.live.insert(id, LiveBuffer { label: label.to_owned(), bytes });
        Ok(Reservation { pool: self.clone(), id, promise })
    }

    /// The error for an allocation that was refused although the budget allowed it.
    pub(super) fn refused(&self, label: &str, bytes: u64, refusal: Refusal) -> Error {
        match refusal {
            Refusal::OutOfMemory(reason) => {
                self.out_of_memory(&self.books(), label, bytes, None, &reason)
            }
            Refusal::Device(problem) => {
                let (device, size) = (&self.0.device, Bytes(bytes));
                Error::device(format!("{device}: {size} for `{label}`: {problem}"))
            }
        }
    }

    fn out_of_memory(
        &self,
        books: &Books,
        label: &str,
        request: u64,
        limit: Option<&Limit>,
        reason: &str,
    ) -> Error {
        let holders = largest(books).iter().map(LiveBuffer::to_string).collect::<Vec<_>>();
        let holders = match holders.is_empty() {
            true => String::new(),
            false => format!("; largest: {}", holders.join(", ")),
        };
        let (what, remedy) = match limit {
            Some(limit) => (limit.source.to_string(), limit.source.remedy()),
            None if reason.is_empty() => {
                ("which no limit says but the system refused".into(), "end other programs")
            }
            None => (
                format!("which no limit says but the driver refused ({reason})"),
                "end other programs",
            ),
        };
        Error::OutOfMemory {
            label: label.to_owned(),
            device: self.0.device.clone(),
            request,
            used: books.used,
            available: limit.map_or(0, |limit| limit.available),
            explanation: format!("{what}{holders}; free some, use a smaller format, or {remedy}"),
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
    pub(super) pool: Pool,
    id: u64,
    promise: Option<Promise>,
}

impl Reservation {
    /// The system counts the memory itself from here on.
    pub(super) fn fulfil(&mut self) {
        self.promise = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut books = self.pool.books();
        if let Some(buffer) = books.live.remove(&self.id) {
            books.used -= buffer.bytes;
            if self.promise.is_some() {
                books.granted = books.granted.saturating_add(buffer.bytes).min(RECHECK);
            }
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
            "{} used in {} buffers, {} at peak",
            Bytes(self.used),
            self.buffers,
            Bytes(self.peak)
        )?;
        match self.limits.is_empty() {
            true => write!(f, ", no limit")?,
            false => write!(f, ", at most {} more", Bytes(self.available()))?,
        }
        for limit in &self.limits {
            write!(f, "\n  limit: {limit}")?;
        }
        for buffer in &self.largest {
            write!(f, "\n  {buffer}")?;
        }
        Ok(())
    }
}

#[cfg(all(test, any(feature = "cuda", feature = "emulator")))]
mod tests {
    use super::super::raw::RawMemory;
    use super::*;

    /// A backend that refuses, and counts how often it was asked.
    struct Refusing {
        refusal: Refusal,
        own_memory: Result<Option<(u64, u64)>, String>,
        asked: Mutex<usize>,
    }

    impl Allocator for Refusing {
        fn allocate(&self, _kind: MemoryKind, _len: usize) -> Result<Box<dyn RawMemory>, Refusal> {
            *self.asked.lock().unwrap() += 1;
            Err(self.refusal.clone())
        }

        fn gives_resident(&self) -> bool {
            true
        }

        fn own_memory(&self) -> Result<Option<(u64, u64)>, String> {
            self.own_memory.clone()
        }

        fn reclaim(&self) {}
    }

    /// The error for 100 bytes of the device's own memory, how often the backend was asked for them,
    /// and the report afterwards.
    fn refused(
        refusal: Refusal,
        own_memory: Result<Option<(u64, u64)>, String>,
    ) -> (Error, usize, MemoryReport) {
        let backend = Arc::new(Refusing { refusal, own_memory, asked: Mutex::default() });
        let pool =
            Pool::new("cuda:0", 1 << 20).with_backend(backend.clone(), &[MemoryKind::Device]);
        let error = Buffer::allocate(&pool, MemoryKind::Device, 100, "weights").unwrap_err();
        let asked = *backend.asked.lock().unwrap();
        (error, asked, pool.report())
    }

    #[test]
    fn memory_that_is_full_and_a_device_that_failed_are_different_errors() {
        let full = Refusal::OutOfMemory("CUDA_ERROR_OUT_OF_MEMORY".to_owned());
        let (error, asked, report) = refused(full.clone(), Ok(Some((4096, 8192))));
        assert!(matches!(error, Error::OutOfMemory { request: 100, .. }), "{error:?}");
        assert!(error.to_string().contains("the driver refused (CUDA_ERROR_OUT_OF_MEMORY)"));
        assert_eq!((asked, report.used, report.available()), (1, 0, 4096));

        let faulted = "CUDA_ERROR_LAUNCH_FAILED; restart";
        let (error, asked, report) =
            refused(Refusal::Device(faulted.to_owned()), Ok(Some((4096, 8192))));
        assert!(matches!(error, Error::Device { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("cuda:0: 100 B for `weights`: {faulted}"));
        assert_eq!((asked, report.used, report.available()), (1, 0, 4096));

        // One that does not say how much it has is not asked for any.
        let (error, asked, report) = refused(full, Err(faulted.to_owned()));
        assert!(matches!(error, Error::Device { .. }), "{error:?}");
        assert_eq!((asked, report.used, report.available()), (0, 0, 0));
    }
}
