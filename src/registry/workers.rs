//! The threads that CPU kernels spread work over.

#[cfg(feature = "cpu")]
use std::sync::Arc;

#[cfg(feature = "cpu")]
use super::threads::Pool;

/// A pool of threads, or none.
///
/// Work is cut into tasks that the threads take one by one, so cores of different speed finish
/// together. What a task computes must not depend on which thread runs it.
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

    /// `threads` threads of its own; on the calling thread alone where that is 1, or where the
    /// system gives no threads.
    #[cfg(feature = "cpu")]
    pub fn with_threads(threads: usize) -> Self {
        if threads <= 1 {
            return Self::sequential();
        }
        let builder = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("ferrocerium-{i}"));
        match builder.build() {
            Ok(pool) => Workers { threads, pool: Some(Arc::new(Pool::new(pool))) },
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

    /// Runs `f` on one of the threads, or on the calling one where there are none.
    ///
    /// What runs there shares its work with the other threads at once, where any other thread
    /// first has to wake one and be woken up again, which takes longer than a small operation. So
    /// a loop of many small operations, as in a model that reads token by token, belongs in here.
    /// Inside of another `enter`, and inside of tasks, it just runs `f`.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// let x = Tensor::from_fn(&device, [64, 64], |[i, j]| (i == j) as u8 as f32)?;
    /// let y = device.workers().enter(|| {
    ///     let mut y = x.clone();
    ///     for _ in 0..10 {
    ///         y = y.matmul(&x)?;
    ///     }
    ///     Ok::<_, ferrocerium::Error>(y)
    /// })?;
    /// assert_eq!(y.host()?[[5, 5]], 1.0);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        #[cfg(feature = "cpu")]
        if let Some(pool) = &self.pool {
            return pool.install(f);
        }
        f()
    }

    /// Runs `task(0)`, …, `task(n - 1)`, in any order, several at a time.
    pub fn run(&self, n: usize, task: impl Fn(usize) + Sync) {
        #[cfg(feature = "cpu")]
        if let Some(pool) = &self.pool
            && n > 1
        {
            use rayon::iter::{IntoParallelIterator, ParallelIterator};
            pool.install(|| (0..n).into_par_iter().for_each(&task));
            return;
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
        let len = len.max(1);
        #[cfg(feature = "cpu")]
        if let Some(pool) = &self.pool
            && data.len() > len
        {
            use rayon::iter::{IndexedParallelIterator, ParallelIterator};
            use rayon::slice::ParallelSliceMut;
            pool.install(|| {
                data.par_chunks_mut(len).enumerate().for_each(|(i, chunk)| task(i, chunk));
            });
            return;
        }
        for (i, chunk) in data.chunks_mut(len).enumerate() {
            task(i, chunk);
        }
    }
}
