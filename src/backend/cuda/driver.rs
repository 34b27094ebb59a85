//! What loads and launches compiled kernels: the emulator, or a GPU's driver.

use std::any::Any;

use super::failure::Problem;
use crate::caps::MemoryKind;
use crate::memory::{DeviceUse, Earlier, Fence, RawMemory, Refusal};

/// A module that a driver has loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleId(pub(super) usize);

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks, up to 2^31 − 1.
    pub blocks: u32,
    /// Threads of a block, up to 1024.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared_memory: u32,
}

/// What a driver loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// Instructions of a virtual machine, as text.
    Ptx,
    /// Machine code of one architecture, which a driver older than the compiler takes too.
    Cubin,
}

/// Loads modules, gives memory, opens queues.
pub(super) trait Driver: Send + Sync {
    /// What it loads.
    fn image(&self) -> Image;

    /// Takes compiled code.
    fn load(&self, code: &[u8]) -> Result<ModuleId, String>;

    /// `len` zero bytes, as an [`Allocator`](crate::memory::Allocator) gives them.
    fn allocate(&self, kind: MemoryKind, len: usize) -> Result<Box<dyn RawMemory>, Refusal>;

    /// Whether memory that it gave is backed by pages at once, which the system counts itself.
    fn gives_resident(&self) -> bool;

    /// Free and total bytes of the GPU's own memory; `None` where that is the host's.
    fn own_memory(&self) -> Result<Option<(u64, u64)>, String>;

    /// A queue of that number, which no other queue of the process has.
    fn queue(&self, number: u64) -> Result<Box<dyn Queue>, String>;
}

/// Work that runs in order. Dropping it waits for the work.
pub(super) trait Queue: Send + Sync {
    /// Begins work that comes after some earlier work, of this queue and of others.
    fn session(&self, earlier: &[Earlier]) -> Result<Box<dyn Session + '_>, String>;

    /// From here on sessions are recorded, not run.
    fn record(&self) -> Result<(), String>;

    /// Ends the recording.
    fn recorded(&self) -> Result<Box<dyn Any + Send + Sync>, String>;

    /// Runs what a queue of the same driver recorded, after some earlier work.
    fn replay(
        &self,
        recorded: &(dyn Any + Send + Sync),
        earlier: &[Earlier],
    ) -> Result<Fence, String>;
}

/// Launches over memory that the caller keeps alive, and free of conflicting uses, until the work
/// is done.
pub(super) trait Session {
    /// The address that kernels find `len` bytes from `offset` of a buffer at, 0 for none. It is as
    /// aligned as the bytes are on the host, up to 256.
    fn bind(&mut self, used: DeviceUse<'_>, offset: usize, len: usize) -> Result<u64, String>;

    /// The address of bytes that kernels read and that the session keeps.
    fn keep(&mut self, bytes: Vec<u8>, label: &str) -> Result<u64, String>;

    /// Bytes that only kernels of the session write and read, not written yet.
    fn scratch(&mut self, bytes: usize, label: &str) -> Result<u64, String>;

    /// Makes such bytes zeros, in order with launches.
    fn clear(&mut self, address: u64, bytes: usize) -> Result<(), String>;

    /// The address of a word, zero where kernels begin. Where it is another number when they have
    /// ended, the work has failed, and those who wait for it are told the problem that it stands
    /// for.
    fn watch(&mut self, problem: Problem) -> Result<u64, String>;

    /// Runs a kernel that takes one parameter, these bytes.
    fn launch(
        &mut self,
        module: ModuleId,
        entry: &str,
        grid: Grid,
        parameter: &[u8],
    ) -> Result<(), String>;

    /// Ends the work, which errors call by the name of `kernel`; `None` where it is recorded.
    fn submit(self: Box<Self>, kernel: &str) -> Result<Option<Fence>, String>;
}
