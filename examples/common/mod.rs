//! What the examples that run language models share.
#![allow(dead_code)]

pub mod detokenizer;
pub mod sampling;
pub mod template;
pub mod tokenizer;
