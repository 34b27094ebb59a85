//! GGUF, the file format of ggml and llama.cpp: versions 2 and 3, little endian.
//!
//! ```text
//! "GGUF" version:u32 tensor_count:u64 metadata_count:u64
//! metadata: (key:string type:u32 value)*
//! tensors:  (name:string n_dims:u32 dims:u64* type:u32 offset:u64)*
//! padding to general.alignment (32 unless stated)
//! data:     each tensor at its offset, a multiple of the alignment
//! ```
//!
//! [`Header::parse`] reads and checks everything up to the data; [`BlockType::decode`] turns a
//! tensor's blocks into `f32`. Dimensions are stored innermost first in the file and reported
//! outermost first here, as everywhere in this crate.
//!
//! Source: the GGUF specification in ggml's repository (`docs/gguf.md`) and `ggml-common.h`.

mod blocks;
mod file;
mod header;
mod kquants;
mod metadata;
mod reader;
mod repack;
mod split;
mod tensor_info;

pub use blocks::BlockType;
pub use file::Gguf;
pub use header::{Header, MAX_ALIGNMENT};
pub use metadata::{Array, MAX_ARRAY_DEPTH, MAX_KEY, MAX_METADATA, Metadata, Value};
pub(super) use repack::{repack, repacked_format};
pub use split::MAX_SPLITS;
pub(super) use split::open_all;
pub use tensor_info::{MAX_DIMS, MAX_TENSOR_NAME, MAX_TENSORS, TensorInfo};
