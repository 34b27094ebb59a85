//! Threads that help whoever calls, and stay awake between small pieces of work.
//!
//! A call puts its work on a board, with a ticket for each helper that it has use for, and begins
//! itself. Helpers that are awake look at the board all the time.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::memory::Lender;

/// How long threads stay awake for more work after some: many times what waking one takes, and
/// longer than a model's loop computes on one thread between operations.
const LINGER: Duration = Duration::from_micros(300);

/// Looks at the board between two looks at the clock.
const LOOKS: usize = 16;

/// Threads, and where they look for work.
#[derive(Debug)]
pub(super) struct Pool {
    board: Arc<Board>,
    helpers: usize,
}

impl Pool {
    /// A pool of so many helpers.
    pub(super) fn new(helpers: usize) -> io::Result<Self> {
        // Ends the threads there are where one is refused.
        let pool = Pool { board: Arc::default(), helpers };
        for i in 0..helpers {
            let board = pool.board.clone();
            let thread = thread::Builder::new().name(format!("ferrocerium-{i}"));
            thread.spawn(move || board.help())?;
        }
        Ok(pool)
    }

    /// Runs `each` on the calling thread and on helpers, which take the tasks 0, …, `len - 1` one
    /// by one.
    ///
    /// The calling thread begins at once: a thread that sleeps takes longer to wake than a small
    /// operation takes to run. Of several calls at a time the first has the helpers.
    pub(super) fn share(&self, len: usize, each: impl Fn(&mut dyn Iterator<Item = usize>) + Sync) {
        let next = AtomicUsize::new(0);
        let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < len);
        let work = || each(&mut std::iter::from_fn(take));
        let panic = Mutex::new(None::<Box<dyn Any + Send>>);
        let help = || {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
                *panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
            }
        };
        let helpers = self.helpers.min(len.saturating_sub(1));
        self.board.lent.lend(&help, helpers, |lent| {
            // After the tickets were given out, as who goes to sleep looks for them last.
            if lent {
                self.board.wake(helpers);
            }
            work();
        });
        if let Some(payload) = panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Nobody waits for the threads: the last handle of a device may be dropped by one of them.
        self.board.ended.store(true, Ordering::SeqCst);
        self.board.wake(self.helpers);
    }
}

/// Where the work of one call is put up.
#[derive(Debug, Default)]
struct Board {
    lent: Lender,
    /// Helpers that sleep.
    sleeping: AtomicUsize,
    sleep: Mutex<()>,
    woken: Condvar,
    /// Whether the pool is gone.
    ended: AtomicBool,
}

impl Board {
    /// Wakes helpers that sleep, so many at most.
    fn wake(&self, helpers: usize) {
        let sleeping = self.sleeping.load(Ordering::SeqCst).min(helpers);
        if sleeping > 0 {
            // Who was about to sleep does so now.
            drop(self.sleep.lock().unwrap_or_else(PoisonError::into_inner));
            (0..sleeping).for_each(|_| self.woken.notify_one());
        }
    }

    /// What a helper does all its life.
    fn help(&self) {
        while !self.ended.load(Ordering::Relaxed) {
            let mut idle_since = Instant::now();
            while idle_since.elapsed() < LINGER {
                for _ in 0..LOOKS {
                    if self.lent.run() {
                        idle_since = Instant::now();
                    } else {
                        std::hint::spin_loop();
                    }
                }
            }
            self.sleep();
        }
    }

    fn sleep(&self) {
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        while !self.lent.has_tickets() && !self.ended.load(Ordering::SeqCst) {
            guard = self.woken.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
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
            (0..3).for_each(|_| _ = scope.spawn(regions));
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
        let pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            while pool.board.sleeping.load(Ordering::Relaxed) < 2 {
                thread::yield_now();
            }
            // Each waits for the others.
            let barrier = std::sync::Barrier::new(3);
            pool.share(3, |tasks| tasks.for_each(|_| _ = barrier.wait()));
        }
    }

    #[test]
    fn threads_end_with_their_pool() {
        let pool = Pool::new(2).unwrap();
        let board = Arc::downgrade(&pool.board);
        drop(pool);
        while board.strong_count() > 0 {
            thread::yield_now();
        }
    }
}
