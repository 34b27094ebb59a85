//! `cargo xtask asan` and `tsan`: the tests under LLVM's sanitizers, with the nightly compiler.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Result, anyhow};

use crate::cargo;

/// A sanitizer of the compiler.
#[derive(Clone, Copy)]
pub enum Sanitizer {
    /// Bounds, lifetimes and leaks of memory.
    Address,
    /// Races between threads.
    Thread,
}

/// Runs the library's tests, or those that `args` choose for `cargo test`.
pub fn run(sanitizer: Sanitizer, args: &[OsString]) -> Result<ExitCode> {
    let mut command = cargo::nightly("test", &cargo::workspace().join("Cargo.toml"));
    command.args(["--package", "ferrocerium", "--all-features", "--target", cargo::HOST]);
    let folder = match sanitizer {
        Sanitizer::Address => {
            command.env("RUSTFLAGS", "-Zsanitizer=address");
            // Tests ask for memory that there is not.
            command.env("ASAN_OPTIONS", "allocator_may_return_null=1");
            "asan"
        }
        Sanitizer::Thread => {
            command.env("RUSTFLAGS", "-Zsanitizer=thread");
            command.env("TSAN_OPTIONS", "allocator_may_return_null=1");
            // The standard library's locks have to be seen.
            command.arg("-Zbuild-std");
            "tsan"
        }
    };
    command.arg("--target-dir").arg(cargo::workspace().join("target").join(folder));
    match args.is_empty() {
        true => command.args(["--lib", "--tests", "--no-fail-fast"]),
        false => command.args(args),
    };
    let status = command.status().map_err(|e| anyhow!("cannot start cargo: {e}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
