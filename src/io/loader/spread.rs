//! Jobs that threads take one by one, while the calling one says how far they are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use crate::error::{Error, Result};

/// Runs `task` on every job, by that many threads, each with a state of its own; calls `done` for
/// every job that is. The first error of any of the three ends it.
pub(super) fn spread<T: Send, S>(
    threads: usize,
    jobs: &mut [T],
    state: impl Fn() -> S + Sync,
    task: impl Fn(&mut S, usize, &mut T) -> Result<()> + Sync,
    mut done: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let threads = threads.min(jobs.len());
    let queue = Mutex::new(jobs.iter_mut().enumerate());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let stop = AtomicBool::new(false);
    let work = |ended: mpsc::Sender<(usize, Result<()>)>| {
        let mut state = state();
        while !stop.load(Ordering::Relaxed)
            && let Some((i, job)) = next()
        {
            let result = task(&mut state, i, job);
            let go_on = result.is_ok();
            if ended.send((i, result)).is_err() || !go_on {
                return;
            }
        }
    };
    thread::scope(|scope| {
        let (ended, results) = mpsc::channel();
        for i in 0..threads {
            let (ended, work) = (ended.clone(), &work);
            let thread = thread::Builder::new().name("ferrocerium-load".to_owned());
            match thread.spawn_scoped(scope, move || work(ended)) {
                Ok(_) => {}
                // Fewer do as well.
                Err(_) if i > 0 => break,
                Err(e) => return Err(Error::device(format!("load: no thread was to be had: {e}"))),
            }
        }
        drop(ended);
        let mut outcome = Ok(());
        for (i, result) in results {
            if outcome.is_ok() {
                outcome = result.and_then(|()| done(i));
                stop.store(outcome.is_err(), Ordering::Relaxed);
            }
        }
        outcome
    })
}
