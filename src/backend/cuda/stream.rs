//! Streams: queues, with the memory that their work still uses.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::driver::{Driver, Queue, Session};
use super::dry::DrySession;
use super::gpu::{Program, ProgramKey};
use super::lock::lock;
use crate::caps::MemoryKind;
use crate::error::{Error, Result};
use crate::memory::{Allocator, Buffer, Fence, Locks, RawMemory, Refusal};
use crate::registry::{Recorded, Stream};

/// The streams of a GPU, and the memory that it gives.
pub(super) struct Streams {
    driver: Arc<dyn Driver>,
    /// A number that no other GPU of the process has.
    gpu: u64,
    open: Mutex<Vec<Weak<GpuStream>>>,
}

/// A queue, and what its work uses.
pub(super) struct GpuStream {
    // Waits for the work when dropped, so it goes before what the work uses.
    queue: Box<dyn Queue>,
    in_flight: Mutex<VecDeque<InFlight>>,
    /// The first failure that was not reported by `synchronize`.
    failed: Mutex<Option<Fence>>,
    /// What operations need that were looked at, while they are.
    looked: Mutex<Option<BTreeMap<ProgramKey, Program>>>,
    gpu: u64,
}

/// Work that was not seen to be done, and what must outlive it.
struct InFlight {
    work: Fence,
    _buffers: Vec<Buffer>,
    _recorded: Option<Arc<dyn Recorded>>,
}

/// What a stream of a GPU recorded.
struct GpuRecorded {
    launches: Box<dyn Any + Send + Sync>,
    gpu: u64,
}

impl Recorded for GpuRecorded {}

fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Streams {
    pub fn new(driver: Arc<dyn Driver>) -> Arc<Self> {
        Arc::new(Streams { driver, gpu: next_number(), open: Mutex::default() })
    }

    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// Another stream.
    pub fn open(&self) -> Result<Arc<GpuStream>> {
        let queue = self.driver.queue(next_number()).map_err(Error::device)?;
        let (in_flight, failed, looked) = (Mutex::default(), Mutex::default(), Mutex::default());
        let stream = Arc::new(GpuStream { queue, in_flight, failed, looked, gpu: self.gpu });
        let mut open = lock(&self.open);
        open.retain(|stream| stream.strong_count() > 0);
        open.push(Arc::downgrade(&stream));
        Ok(stream)
    }

    /// A stream as one of this GPU.
    pub fn own<'s>(&self, stream: &'s dyn Stream) -> Option<&'s GpuStream> {
        let stream: &dyn Any = stream;
        stream.downcast_ref().filter(|stream: &&GpuStream| stream.gpu == self.gpu)
    }

    fn all(&self) -> Vec<Arc<GpuStream>> {
        lock(&self.open).iter().filter_map(Weak::upgrade).collect()
    }

    /// Waits for the work of all; the first failure since the last time.
    pub fn synchronize(&self) -> Result<()> {
        // All, also where one failed.
        let results: Vec<_> = self.all().iter().map(|stream| stream.synchronize()).collect();
        results.into_iter().collect()
    }
}

impl Allocator for Streams {
    fn allocate(&self, kind: MemoryKind, len: usize) -> Result<Box<dyn RawMemory>, Refusal> {
        self.driver.allocate(kind, len)
    }

    fn gives_resident(&self) -> bool {
        self.driver.gives_resident()
    }

    fn own_memory(&self) -> Result<Option<(u64, u64)>, String> {
        self.driver.own_memory()
    }

    fn reclaim(&self) {
        self.all().iter().for_each(|stream| stream.reclaim());
    }
}

impl GpuStream {
    /// Begins work that comes after what the locked buffers wait for.
    pub fn session(&self, locks: &Locks<'_>) -> Result<Box<dyn Session + '_>, String> {
        if lock(&self.looked).is_some() {
            return Ok(Box::new(DrySession(|_, _: &str, _| Ok(()))));
        }
        self.queue.session(&locks.earlier())
    }

    /// Notes a program that would run, where operations are only looked at: whether they are.
    pub fn looks_at(&self, program: &Program) -> bool {
        let mut looked = lock(&self.looked);
        let looked = looked.as_mut().map(|programs| {
            programs.entry(program.key()).or_insert_with(|| program.clone());
        });
        looked.is_some()
    }

    /// What was noted.
    pub fn looked(&self) -> Vec<Program> {
        lock(&self.looked).take().unwrap_or_default().into_values().collect()
    }

    /// Leaves the locked buffers to work, which keeps them until it is done.
    pub fn keep(&self, work: &Fence, locks: &Locks<'_>, recorded: Option<Arc<dyn Recorded>>) {
        locks.continue_as(work.clone());
        let (work, buffers) = (work.clone(), locks.buffers().cloned().collect());
        lock(&self.in_flight).push_back(InFlight { work, _buffers: buffers, _recorded: recorded });
        self.reclaim();
    }

    /// Lets go of what ended work held.
    fn reclaim(&self) {
        let mut ended = Vec::new();
        let mut in_flight = lock(&self.in_flight);
        while in_flight.front().is_some_and(|flight| flight.work.is_done()) {
            ended.extend(in_flight.pop_front());
        }
        // Whoever finds it no longer in flight finds its failure.
        if let Some(flight) = ended.iter().find(|flight| flight.work.wait().is_err()) {
            lock(&self.failed).get_or_insert_with(|| flight.work.clone());
        }
        // Memory is freed when nothing is locked.
        drop(in_flight);
    }
}

impl Stream for GpuStream {
    fn synchronize(&self) -> Result<()> {
        let works: Vec<Fence> = lock(&self.in_flight).iter().map(|f| f.work.clone()).collect();
        for work in works {
            // Whatever comes of it: `reclaim` finds out.
            let _ = work.wait();
        }
        self.reclaim();
        let failed = lock(&self.failed).take();
        failed.map_or(Ok(()), |work| work.wait())
    }

    fn record(&self) -> Result<()> {
        self.queue.record().map_err(Error::device)
    }

    fn recorded(&self) -> Result<Arc<dyn Recorded>> {
        let launches = self.queue.recorded().map_err(Error::device)?;
        Ok(Arc::new(GpuRecorded { launches, gpu: self.gpu }))
    }

    fn look(&self) {
        *lock(&self.looked) = Some(BTreeMap::new());
    }

    fn replay(&self, recorded: &Arc<dyn Recorded>, locks: &Locks<'_>) -> Result<()> {
        let any: &dyn Any = &**recorded;
        let own = any.downcast_ref().filter(|own: &&GpuRecorded| own.gpu == self.gpu);
        let own = own.ok_or_else(|| Error::device("replay: the graph is of another device"))?;
        let work = self.queue.replay(&*own.launches, &locks.earlier()).map_err(Error::device)?;
        self.keep(&work, locks, Some(recorded.clone()));
        Ok(())
    }
}
