//! Work that a thread lends to others for as long as a call lasts.
//!
//! It gives out tickets: who takes one is inside until it has run the job. The loan ends when no
//! ticket is left and nobody inside.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::{ptr, thread};

/// What others do for a call. It does not panic.
pub(crate) type Job<'a> = &'a (dyn Fn() + Sync);

/// A ticket in [`Lender::state`], above the number of threads inside.
const TICKET: u64 = 1 << 32;

/// Looks at whether others are done before they may have this thread's processor: longer than a
/// task of a small operation takes.
const PATIENCE: usize = 1 << 12;

/// Where one job at a time is lent from.
#[derive(Debug, Default)]
pub(crate) struct Lender {
    /// Whether there is a loan.
    taken: AtomicBool,
    /// Its [`Job`], there while tickets are left or somebody is inside.
    job: AtomicPtr<()>,
    /// Tickets left, and threads inside.
    state: AtomicU64,
}

impl Lender {
    /// Lends a job to so many threads while something is done, which hears whether it is lent: not
    /// where another is. Returns when who took a ticket is done too.
    pub(crate) fn lend<R>(
        &self,
        job: Job<'_>,
        tickets: usize,
        meanwhile: impl FnOnce(bool) -> R,
    ) -> R {
        if tickets == 0 || self.taken.swap(true, Ordering::Acquire) {
            return meanwhile(false);
        }
        self.job.store(ptr::from_ref(&job).cast_mut().cast(), Ordering::Relaxed);
        self.state.store(tickets as u64 * TICKET, Ordering::SeqCst);
        // Also where that panics.
        let _loan = Loan(self);
        meanwhile(true)
    }

    /// Whether a job wants threads.
    pub(crate) fn has_tickets(&self) -> bool {
        self.state.load(Ordering::SeqCst) >= TICKET
    }

    /// Runs the job that is lent, where that wants threads.
    pub(crate) fn run(&self) -> bool {
        let take = |state: u64| (state >= TICKET).then(|| state - TICKET + 1);
        let looked = self.state.load(Ordering::Relaxed);
        if looked < TICKET
            || self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, take).is_err()
        {
            return false;
        }
        let job = self.job.load(Ordering::Relaxed).cast::<Job<'_>>();
        // SAFETY: `lend` stored a pointer to a job before it gave out tickets, and neither returns
        // nor unwinds while somebody is inside, as this thread is by its ticket.
        let job = unsafe { *job };
        job();
        self.state.fetch_sub(1, Ordering::Release);
        true
    }
}

/// A job that is lent. Dropped, it waits for who is inside.
struct Loan<'a>(&'a Lender);

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let lender = self.0;
        // No more tickets.
        lender.state.fetch_and(TICKET - 1, Ordering::Relaxed);
        let mut looks = 0;
        while lender.state.load(Ordering::Acquire) != 0 {
            if looks < PATIENCE {
                looks += 1;
                std::hint::spin_loop();
            } else {
                // Others may have no processor of their own.
                thread::yield_now();
            }
        }
        lender.taken.store(false, Ordering::Release);
    }
}
