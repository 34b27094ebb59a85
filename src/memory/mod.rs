//! Bytes, who may touch them, and how many there may be.
//!
//! A [`Buffer`] is bytes of one [`MemoryKind`](crate::caps::MemoryKind) plus a record of who is
//! reading and writing them. Host code gets at the bytes through guards ([`Buffer::read`],
//! [`Buffer::write`]); operations lock all of their buffers at once ([`Locks`]). A guard waits for
//! device work that conflicts with it, and only for that; a conflict with another *host guard* is
//! an error ([`Error::Busy`](crate::Error::Busy)), since waiting for one that the same thread
//! holds would never end.
//!
//! Memory comes from a [`Pool`], which keeps the budget and the books. The budget is what the
//! caller set, what the machine has to spare ([`SystemMemory`]) or what a control group around
//! the process allows, whichever is tightest; a request beyond it is refused before any memory is
//! touched.
//!
//! ```
//! use ferrocerium::Device;
//!
//! let device = Device::reference();
//! let buffer = device.allocate(4, "flags")?;
//! buffer.write()?.fill(1);                    // a guard for one statement
//! let reading = buffer.read()?;
//! assert_eq!(reading[..], [1; 4]);
//! assert!(buffer.write().is_err());           // busy: an error, not a wait for ever
//! drop(reading);
//! buffer.write()?[0] = 2;
//! # Ok::<(), ferrocerium::Error>(())
//! ```

mod access;
mod buffer;
mod cgroup;
#[cfg_attr(
    not(any(feature = "gguf", feature = "safetensors")),
    allow(dead_code, reason = "for the loader")
)]
mod direct;
#[cfg_attr(
    not(any(feature = "gguf", feature = "safetensors")),
    allow(dead_code, reason = "for the loader")
)]
mod file;
#[cfg_attr(
    not(any(feature = "gguf", feature = "safetensors")),
    allow(dead_code, reason = "for the loader")
)]
mod filling;
mod host;
#[cfg(feature = "cpu")]
mod lent;
mod limit;
#[cfg_attr(not(any(feature = "cuda", feature = "emulator")), allow(dead_code, reason = "for GPUs"))]
mod locks;
mod mapped;
#[cfg(feature = "cpu")]
mod matrix;
mod pages;
mod pool;
#[cfg_attr(not(any(feature = "cuda", feature = "emulator")), allow(dead_code, reason = "for GPUs"))]
mod raw;
#[cfg_attr(
    not(any(feature = "cpu", feature = "gguf", feature = "npy", feature = "safetensors")),
    allow(dead_code, reason = "most of it is for kernels and files")
)]
mod scratch;
mod system;
mod work;

pub use access::{Access, ReadGuard, WriteGuard};
pub use buffer::{Buffer, Region, RegionView};
pub use file::SourceFile;
#[cfg(any(feature = "gguf", feature = "safetensors"))]
pub(crate) use filling::{Bounce, Filling, Piece};
#[cfg(feature = "cpu")]
pub(crate) use lent::Lender;
pub use limit::{Limit, LimitSource};
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub(crate) use locks::DeviceUse;
pub use locks::{BufferBytes, Locks};
#[cfg(feature = "cpu")]
pub(crate) use matrix::MatrixMut;
pub(crate) use pages::prefer_huge_pages;
pub use pool::{LiveBuffer, MemoryReport, Pool};
#[cfg(feature = "emulator")]
pub(crate) use raw::EmulatedMemory;
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub(crate) use raw::{Allocator, RawMemory, Refusal};
#[cfg(feature = "cpu")]
pub(crate) use scratch::from_line_start;
#[cfg(any(feature = "cpu", feature = "gguf"))]
pub(crate) use scratch::resize;
pub(crate) use scratch::room;
#[cfg(any(feature = "cpu", feature = "gguf", feature = "npy", feature = "safetensors"))]
pub(crate) use scratch::scratch;
pub use system::{RESERVE_MAX, RESERVE_MIN, SystemMemory};
pub(crate) use work::Recording;
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub(crate) use work::{Earlier, Fence, Work};

/// Alignment of host allocations in bytes: a whole number of cache lines, of vector registers,
/// and of the largest transaction a GPU makes.
pub const HOST_ALIGNMENT: usize = 256;
