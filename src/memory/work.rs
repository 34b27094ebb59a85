//! Work that devices do in their own time, and operations that are recorded rather than run.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::access::Access;
use crate::error::Result;

/// Work that was handed to a device and may still run.
pub(crate) trait Work: Any + Send + Sync {
    /// The stream that it is in: what is in one stream runs in order.
    fn stream(&self) -> u64;

    /// Whether it has ended, well or not.
    fn is_done(&self) -> bool;

    /// Waits until it has ended.
    ///
    /// # Errors
    /// What went wrong with it, each time.
    fn wait(&self) -> Result<()>;
}

/// A handle to work.
pub(crate) type Fence = Arc<dyn Work>;

/// Work that other work has to come after, and what it does with the bytes that they share: what
/// it wrote is worth nothing once it failed.
pub(crate) type Earlier = (Fence, Access);

/// Operations that are being recorded: until that ends, what they write is not there.
pub(crate) struct Recording {
    open: AtomicBool,
}

impl Recording {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Recording { open: AtomicBool::new(true) })
    }

    pub(crate) fn end(&self) {
        self.open.store(false, Ordering::Release);
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recording(open: {})", self.is_open())
    }
}
