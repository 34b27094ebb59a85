//! The threads that CPU kernels spread work over.

#[cfg(feature = "cpu")]
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "cpu")]
use super::threads::Pool;

/// The calling thread and those that help it, if any.
///
/// Work is cut into tasks that the threads take one by one, so cores of different speed finish
/// together. What a task computes must not depend on which thread runs it. Between small pieces of
/// work helpers stay awake for a while, for waking one takes longer than a small operation.
#[derive(Clone, Debug)]
pub struct Workers {
    threads: usize,
    #[cfg(feature = "cpu")]
    pool: Option<Arc<Pool>>,
}

impl Workers {
    /// Everything runs on the calling thread.
    pub fn sequential() -> Self {
        Workers {
            threads: 1,
            #[cfg(feature = "cpu")]
            pool: None,
        }
    }

    /// The calling thread and as many helpers as make `threads` of them; the calling thread alone
    /// where the system gives no threads.
    #[cfg(feature = "cpu")]
    pub fn with_threads(threads: usize) -> Self {
        if threads <= 1 {
            return Self::sequential();
        }
        match Pool::new(threads - 1) {
            Ok(pool) => Workers { threads, pool: Some(Arc::new(pool)) },
            Err(error) => {
                tracing::warn!(%error, "no worker threads; running on the calling thread");
                Self::sequential()
            }
        }
    }

    /// How many tasks run at a time.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0)`, …, `task(n - 1)`, in any order, several at a time.
    pub fn run(&self, n: usize, task: impl Fn(usize) + Sync) {
        #[cfg(feature = "cpu")]
        if let Some(pool) = &self.pool
            && n > 1
        {
            return pool.share(n, |tasks| tasks.for_each(&task));
        }
        (0..n).for_each(task);
    }

    /// Cuts `data` into chunks of `len` (the last may be shorter) and runs `task(index, chunk)`
    /// on each, several at a time.
    pub fn chunks_mut<T: Send>(
        &self,
        data: &mut [T],
        len: usize,
        task: impl Fn(usize, &mut [T]) + Sync,
    ) {
        self.share_chunks(data, len, |chunks| chunks.for_each(|(i, chunk)| task(i, chunk)));
    }

    /// Cuts `data` into chunks, as [`Workers::chunks_mut`] does, and runs `each` once on every
    /// thread that takes part: it takes chunks and their numbers until there are no more.
    ///
    /// A thread that comes late may find none.
    pub fn share_chunks<T: Send>(
        &self,
        data: &mut [T],
        len: usize,
        each: impl Fn(&mut dyn Iterator<Item = (usize, &mut [T])>) + Sync,
    ) {
        let len = len.max(1);
        #[cfg(feature = "cpu")]
        if let Some(pool) = &self.pool
            && data.len() > len
        {
            // Each is locked once: taking them from one iterator, threads would meet at its lock.
            let chunks: Vec<_> =
                data.chunks_mut(len).map(|chunk| Mutex::new(Some(chunk))).collect();
            let take = |i: usize| {
                let chunk = chunks[i].lock().unwrap_or_else(PoisonError::into_inner).take();
                chunk.map(|chunk| (i, chunk))
            };
            return pool.share(chunks.len(), |tasks| each(&mut tasks.filter_map(take)));
        }
        each(&mut data.chunks_mut(len).enumerate());
    }
}
