//! safetensors, the file format of the Hugging Face hub: a JSON header, then the tensors.
//!
//! ```text
//! header_len:u64  {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, …}  data
//! ```
//!
//! The `safetensors` crate checks the header (offsets without gaps or overlaps, sizes against
//! shapes); [`parse_header`] adds what it leaves open. A folder with
//! `model.safetensors.index.json` is one model in several files.
//!
//! Block-scaled weights lie in such files as several tensors under one name, and who wrote the
//! file shows in the names: [`ScaledParts`] has the table.
//!
//! [`save`] writes tensors, [`Writer`] a file of any size weight by weight.

mod contents;
mod file;
mod header;
mod scaled;
mod shards;
mod writer;

pub use contents::Contents;
pub use file::SafeTensors;
pub use header::{MAX_HEADER, TensorInfo, parse_header, read_header};
pub use scaled::{Naming, ScaledParts, TensorScale};
pub use shards::{INDEX_NAME, MAX_SHARDS, SINGLE_NAME, shard_names};
pub use writer::{Writer, save};
