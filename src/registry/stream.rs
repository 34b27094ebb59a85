//! What a device runs work on that is not the calling thread.

use std::any::Any;
use std::sync::Arc;

use crate::error::Result;
use crate::memory::Locks;

/// An order of work on a device: what is in one stream runs one after the other.
pub(crate) trait Stream: Any + Send + Sync {
    /// Waits for everything in it.
    ///
    /// # Errors
    /// The first failure since the last time.
    fn synchronize(&self) -> Result<()>;

    /// Begins to record what is launched into it, instead of running it.
    fn record(&self) -> Result<()>;

    /// Ends that; gives what was recorded.
    fn recorded(&self) -> Result<Arc<dyn Recorded>>;

    /// From here on operations are only looked at, by a stream that nothing else uses.
    fn look(&self);

    /// Runs what another stream of the device recorded, over the locked buffers, which it keeps.
    fn replay(&self, recorded: &Arc<dyn Recorded>, locks: &Locks<'_>) -> Result<()>;
}

/// Launches that a stream recorded.
pub(crate) trait Recorded: Any + Send + Sync {}

/// A device that has streams.
pub(crate) trait Accelerator: Any + Send + Sync {
    /// Another stream.
    fn open_stream(&self) -> Result<Arc<dyn Stream>>;

    /// Makes ready what the operations need that a stream looked at: compiles kernels.
    fn prepare(&self, looked: &Arc<dyn Stream>) -> Result<()>;

    /// Waits for the work of all streams.
    ///
    /// # Errors
    /// The first failure since the last time.
    fn synchronize(&self) -> Result<()>;
}
