//! Model files: GGUF and safetensors, read in place.
//!
//! Files are hostile until proven otherwise: every length, offset, count, alignment and name of a
//! header is checked, with checked arithmetic and named limits, before it is used. A damaged file
//! gives [`Error::File`](crate::Error::File) with what was found and what was expected.

#[cfg(feature = "gguf")]
pub mod gguf;
