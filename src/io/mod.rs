//! Files: GGUF and safetensors models, read in place, and NumPy's arrays ([`npy`]).
//!
//! [`Weights`] opens either and gives tensors by name. [`Gguf`] and [`SafeTensors`] are the files
//! themselves: headers, metadata, where each tensor lies. Files are mapped; nothing is copied
//! until a call that says so. [`Loader`] plans a whole model first: what is mapped, read or
//! converted on the way, and whether it fits in memory.
//!
//! Files are hostile until proven otherwise: every length, offset, count, alignment and name of a
//! header is checked, with checked arithmetic and named limits, before it is used. A damaged file
//! gives [`Error::File`](crate::Error::File) with what was found and what was expected. Headers are
//! read, not mapped. A file that another process cuts off while its tensors are *mapped* ends
//! this process (SIGBUS) when they are touched; a [`Loader`] with `in_place(false)` reads
//! everything, so that this too is an error value: use it for files that others can write.

#[cfg(any(feature = "gguf", feature = "safetensors"))]
mod decode;
#[cfg(any(feature = "gguf", feature = "safetensors"))]
mod entry;
#[cfg(feature = "gguf")]
pub mod gguf;
#[cfg(any(feature = "gguf", feature = "safetensors"))]
mod loader;
#[cfg(feature = "npy")]
pub mod npy;
#[cfg(any(feature = "npy", feature = "safetensors"))]
mod partial;
#[cfg(feature = "safetensors")]
pub mod safetensors;
#[cfg(any(feature = "gguf", feature = "safetensors"))]
mod weights;

#[cfg(any(feature = "gguf", feature = "safetensors"))]
pub use entry::{Entry, Stored};
#[cfg(feature = "gguf")]
pub use gguf::Gguf;
#[cfg(any(feature = "gguf", feature = "safetensors"))]
pub use loader::{Held, LoadPlan, LoadedWeights, Loader, Progress, Step, Strategy, Target, Weight};
#[cfg(feature = "npy")]
pub use npy::Npy;
#[cfg(feature = "safetensors")]
pub use safetensors::SafeTensors;
#[cfg(any(feature = "gguf", feature = "safetensors"))]
pub use weights::Weights;

#[cfg(target_endian = "big")]
compile_error!(
    "files are little endian and used in place: build without `gguf`, `npy` and `safetensors`"
);
