//! What launches compiled kernels: the emulator, or a GPU's driver.

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

/// Loads modules and begins sessions.
pub(super) trait Driver: Send + Sync {
    /// Takes PTX.
    fn load(&self, ptx: &str) -> Result<ModuleId, String>;

    /// Begins work of its own, in order.
    fn session<'s, 'a: 's>(&'s self) -> Box<dyn Session<'a> + 's>;
}

/// Host bytes that kernels see, and launches over them, one after the other.
pub(super) trait Session<'a> {
    /// Bytes that kernels read: the address that they read them at, 0 for none. It is as aligned
    /// as the bytes are, up to 256.
    fn read(&mut self, bytes: &'a [u8], label: &str) -> Result<u64, String>;

    /// Bytes that kernels read and that the session keeps, likewise.
    fn keep(&mut self, bytes: Vec<u8>, label: &str) -> Result<u64, String>;

    /// Bytes that kernels write, likewise.
    fn write(&mut self, bytes: &'a mut [u8], label: &str) -> Result<u64, String>;

    /// Bytes that only kernels of the session write and read, not written yet.
    fn scratch(&mut self, bytes: usize, label: &str) -> Result<u64, String>;

    /// Makes bytes that only kernels of the session use zeros.
    fn clear(&mut self, address: u64, bytes: usize) -> Result<(), String>;

    /// Waits for the work so far, and copies what kernels left at an address of theirs.
    fn fetch(&mut self, address: u64, into: &mut [u8]) -> Result<(), String>;

    /// Runs a kernel that takes one parameter, these bytes.
    fn launch(
        &mut self,
        module: ModuleId,
        kernel: &str,
        grid: Grid,
        parameter: &[u8],
    ) -> Result<(), String>;

    /// Waits for the work; what was written is in its place then.
    fn finish(self: Box<Self>) -> Result<(), String>;
}
