//! `cargo xtask fuzz`: the fuzz targets on mutated seeds, for as long as wanted.

use std::process::ExitCode;

use anyhow::{Result, anyhow};

use crate::cargo;

/// Runs `tests/fuzz.rs` for that many seconds, all targets together.
pub fn run(seconds: u64, seed: Option<u64>) -> Result<ExitCode> {
    let mut command = cargo::command("test");
    command.args(["--release", "--all-features", "--test", "fuzz", "--", "--nocapture"]);
    command.env("FERROCERIUM_FUZZ_SECONDS", seconds.to_string());
    if let Some(seed) = seed {
        command.env("FERROCERIUM_FUZZ_SEED", seed.to_string());
    }
    // Overflow is what is looked for.
    command.env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
    command.env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
    let status = command.status().map_err(|e| anyhow!("cannot start cargo: {e}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
