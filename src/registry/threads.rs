//! A pool whose threads stay awake between small pieces of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// How long threads stay awake for more work after some: many times what waking one takes, and
/// longer than a model's loop computes on one thread between operations.
const LINGER: Duration = Duration::from_micros(300);

/// Threads, and what they do.
#[derive(Debug)]
pub(super) struct Pool {
    threads: rayon::ThreadPool,
    /// What each thread does, as one of the constants below.
    states: Arc<[AtomicU8]>,
}

/// Sleeps, or does what it was woken for.
const RESTING: u8 = 0;
/// Was asked to look for work.
const CALLED: u8 = 1;
/// Looks for work, or does what it found.
const LINGERING: u8 = 2;
/// Runs what shares its work with the others.
const SHARING: u8 = 3;

impl Pool {
    pub(super) fn new(threads: rayon::ThreadPool) -> Self {
        let states = (0..threads.current_num_threads()).map(|_| AtomicU8::new(RESTING)).collect();
        Pool { threads, states }
    }

    /// Runs `f`, which shares its work with the other threads, on one of them.
    pub(super) fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.threads.install(|| {
            let state = self.threads.current_thread_index().and_then(|i| self.states.get(i));
            let _sharing = state.map(Sharing::new);
            self.keep_awake();
            f()
        })
    }

    /// Has the other threads look for work until there was none for [`LINGER`].
    ///
    /// A thread that sleeps takes longer to wake than a small operation takes to run.
    fn keep_awake(&self) {
        let call = |state: &AtomicU8| turn(state, RESTING, CALLED);
        if self.states.iter().filter(|state| call(state)).count() == 0 {
            return;
        }
        let states = self.states.clone();
        self.threads.spawn_broadcast(move |context| {
            if let Some(state) = states.get(context.index())
                && turn(state, CALLED, LINGERING)
            {
                linger();
                state.store(RESTING, Ordering::Relaxed);
            }
        });
    }
}

/// Turns one state into another; `false` where it is a third.
fn turn(state: &AtomicU8, from: u8, to: u8) -> bool {
    state.load(Ordering::Relaxed) == from
        && state.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Marks a thread as one that has work of its own to return to.
struct Sharing<'a> {
    state: &'a AtomicU8,
    before: u8,
}

impl<'a> Sharing<'a> {
    fn new(state: &'a AtomicU8) -> Self {
        Sharing { state, before: state.swap(SHARING, Ordering::Relaxed) }
    }
}

impl Drop for Sharing<'_> {
    fn drop(&mut self) {
        let before = if self.before == CALLED { RESTING } else { self.before };
        self.state.store(before, Ordering::Relaxed);
    }
}

/// Runs work of the pool, and waits a while for more.
fn linger() {
    /// Looks for work between two looks at the clock.
    const LOOKS: usize = 16;
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
    use std::sync::atomic::AtomicUsize;

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
            scope.spawn(|| workers.enter(regions));
            regions();
        });
        assert_eq!(count.into_inner(), 3 * 50 * 4 * 5);
    }

    #[test]
    fn threads_go_to_sleep_and_are_woken_again() {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let pool = Pool::new(threads);
        for _ in 0..3 {
            pool.install(|| rayon::join(|| {}, || {}));
            while pool.states.iter().any(|state| state.load(Ordering::Relaxed) != RESTING) {
                std::thread::yield_now();
            }
        }
    }
}
