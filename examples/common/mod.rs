//! What the examples share.
#![allow(dead_code)] // Each of them uses a part of it.

pub mod calibrate;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod detokenizer;
pub mod kv_cache;
pub mod layer;
pub mod llama;
pub mod quantization_config;
pub mod rotation;
pub mod sampling;
pub mod step;
pub mod template;
pub mod tokenizer;
pub mod transform_config;
pub mod weight_format;
pub mod windows;
