//! Threads that help whoever calls, and stay awake between small pieces of work.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long threads stay awake for more work after some: many times what waking one takes, and
/// longer than a model's loop computes on one thread between operations.
const LINGER: Duration = Duration::from_micros(300);

/// Threads, and what they do.
#[derive(Debug)]
pub(super) struct Pool {
    helpers: rayon::ThreadPool,
    /// What each helper does, as one of the constants below.
    states: Arc<[AtomicU8]>,
    /// Calls of [`Pool::share`] that are under way.
    calls: AtomicUsize,
}

/// Sleeps, or does what it was woken for.
const RESTING: u8 = 0;
/// Was asked to look for work.
const CALLED: u8 = 1;
/// Looks for work, or does what it found.
const LINGERING: u8 = 2;

impl Pool {
    pub(super) fn new(helpers: rayon::ThreadPool) -> Self {
        let states = (0..helpers.current_num_threads()).map(|_| AtomicU8::new(RESTING)).collect();
        Pool { helpers, states, calls: AtomicUsize::new(0) }
    }

    /// Runs `task` on each of `len` items, which the calling thread and helpers take one by one.
    ///
    /// The calling thread begins at once: a thread that sleeps takes longer to wake than a small
    /// operation takes to run. Of several calls at a time each has fewer helpers.
    pub(super) fn share<T>(
        &self,
        len: usize,
        items: impl Iterator<Item = T> + Send,
        task: impl Fn(T) + Sync,
    ) {
        let call = Call::new(&self.calls);
        let helpers = self.states.len().saturating_sub(call.others).min(len.saturating_sub(1));
        let items = Mutex::new(items);
        let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            while let Some(item) = next() {
                task(item);
            }
        };
        if helpers == 0 {
            return work();
        }
        self.keep_awake();
        let done = AtomicUsize::new(0);
        self.helpers.in_place_scope(|scope| {
            for _ in 0..helpers {
                scope.spawn(|_| {
                    work();
                    done.fetch_add(1, Ordering::Release);
                });
            }
            work();
            // Those of the pool do other work while they wait.
            if self.helpers.current_thread_index().is_none() {
                wait_awake(|| done.load(Ordering::Acquire) == helpers);
            }
        });
    }

    /// Has the helpers look for work until there was none for [`LINGER`].
    fn keep_awake(&self) {
        let call = |state: &AtomicU8| turn(state, RESTING, CALLED);
        if self.states.iter().filter(|state| call(state)).count() == 0 {
            return;
        }
        let states = self.states.clone();
        self.helpers.spawn_broadcast(move |context| {
            if let Some(state) = states.get(context.index())
                && turn(state, CALLED, LINGERING)
            {
                linger();
                state.store(RESTING, Ordering::Relaxed);
            }
        });
    }
}

/// A call that is under way.
struct Call<'a> {
    calls: &'a AtomicUsize,
    /// Calls that were when it began.
    others: usize,
}

impl<'a> Call<'a> {
    fn new(calls: &'a AtomicUsize) -> Self {
        Call { calls, others: calls.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Turns one state into another; `false` where it is a third.
fn turn(state: &AtomicU8, from: u8, to: u8) -> bool {
    state.load(Ordering::Relaxed) == from
        && state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Looks between two looks at the clock.
const LOOKS: usize = 16;

/// Returns when something holds, or after a while: who still waits then may sleep.
fn wait_awake(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while start.elapsed() < LINGER {
        for _ in 0..LOOKS {
            if holds() {
                return;
            }
            std::hint::spin_loop();
        }
    }
}

/// Runs work of the pool, and waits a while for more.
fn linger() {
    let mut idle_since = Instant::now();
    while idle_since.elapsed() < LINGER {
        for _ in 0..LOOKS {
            if rayon::yield_now() == Some(rayon::Yield::Executed) {
                idle_since = Instant::now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Workers;

    #[test]
    fn every_task_runs_once_whoever_calls_and_however_they_are_nested() {
        let workers = Workers::with_threads(3);
        let count = AtomicUsize::new(0);
        let regions = || {
            for _ in 0..50 {
                workers.run(4, |_| {
                    let mut data = [0usize; 5];
                    workers.chunks_mut(&mut data, 2, |_, chunk| chunk.fill(1));
                    count.fetch_add(data.iter().sum(), Ordering::Relaxed);
                });
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(regions);
            scope.spawn(|| rayon::join(regions, regions));
            regions();
        });
        assert_eq!(count.into_inner(), 4 * 50 * 4 * 5);
    }

    #[test]
    fn the_calling_thread_and_a_helper_work_at_the_same_time() {
        let workers = Workers::with_threads(2);
        let barrier = std::sync::Barrier::new(2);
        let caller = std::thread::current().id();
        let on_caller = AtomicUsize::new(0);
        workers.run(2, |_| {
            barrier.wait();
            let here = std::thread::current().id() == caller;
            on_caller.fetch_add(usize::from(here), Ordering::Relaxed);
        });
        assert_eq!(on_caller.into_inner(), 1);
    }

    #[test]
    fn a_panic_of_a_task_reaches_the_caller_and_the_pool_works_on() {
        let workers = Workers::with_threads(2);
        let panics = || workers.run(8, |i| assert!(i != 5, "task 5"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        let count = AtomicUsize::new(0);
        workers.run(8, |_| _ = count.fetch_add(1, Ordering::Relaxed));
        assert_eq!(count.into_inner(), 8);
    }

    #[test]
    fn threads_go_to_sleep_and_are_woken_again() {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let pool = Pool::new(threads);
        for _ in 0..3 {
            pool.share(4, 0..4, |_| {});
            while pool.states.iter().any(|state| state.load(Ordering::Relaxed) != RESTING) {
                std::thread::yield_now();
            }
        }
    }
}
