//! `cargo xtask asan` and `tsan`: the tests under LLVM's sanitizers, with the nightly compiler.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::cargo;
use crate::test::{Total, test_targets};

/// A sanitizer of the compiler.
#[derive(Clone, Copy)]
pub enum Sanitizer {
    /// Bounds, lifetimes and leaks of memory.
    Address,
    /// Races between threads.
    Thread,
}

/// Tests that are left out unless they are asked for, and why.
const LEFT_OUT: [(&str, &str); 11] = [
    ("chat", "starts programs, which are not instrumented"),
    ("package", "starts programs, which are not instrumented"),
    ("programs", "starts programs, which are not instrumented"),
    ("quantize", "starts programs, which are not instrumented"),
    ("dependencies", "reads sources and runs nothing"),
    ("kernel_table", "reads sources and runs nothing"),
    ("layers", "reads sources and runs nothing"),
    ("readme", "reads sources and runs nothing"),
    ("emulated", "runs kernels in an emulator, by a compiler that is not instrumented"),
    ("isa", "starts itself anew for what `conformance` and `cpu` run at every level"),
    ("mutations", "runs the cases of `conformance` once for each of its mutants"),
];

/// Tests with threads: what one thread does alone has no races.
const OF_THREADS: [&str; 7] = ["buffers", "cpu", "device", "faults", "loader", "memory", "save"];

impl Sanitizer {
    fn command(self) -> Command {
        let mut command = cargo::nightly("test", &cargo::workspace().join("Cargo.toml"));
        command.args(["--package", "ferrocerium", "--all-features", "--target", cargo::HOST]);
        let folder = match self {
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
        // Half of what optimising takes, for speed that the sanitizer spends many times over.
        command.env("CARGO_PROFILE_TEST_LTO", "off");
        command
    }

    /// The tests that it runs, of all that there are.
    fn tests(self, all: Vec<String>) -> Vec<String> {
        let wanted = |name: &String| match self {
            Sanitizer::Address => {
                let left_out = LEFT_OUT.iter().any(|(left_out, _)| left_out == name);
                // Without a model these are ignored.
                !left_out && !name.starts_with("model")
            }
            Sanitizer::Thread => OF_THREADS.contains(&name.as_str()),
        };
        all.into_iter().filter(wanted).collect()
    }
}

/// Runs the library's tests, or those that `args` choose for `cargo test`.
pub fn run(sanitizer: Sanitizer, args: &[OsString]) -> Result<ExitCode> {
    let mut command = sanitizer.command();
    if args.is_empty() {
        command.args(["--no-fail-fast", "--lib"]);
        for name in sanitizer.tests(test_targets()?) {
            command.args(["--test", &name]);
        }
        if let Sanitizer::Address = sanitizer {
            LEFT_OUT.iter().for_each(|(name, reason)| println!("left out: {name}: {reason}"));
        }
    }
    command.args(args);
    let mut total = Total::default();
    let success = total.run(command)?;
    println!("\ntotal: {total}");
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_there_and_new_tests_are_run() {
        let all = test_targets().unwrap();
        let named = LEFT_OUT.iter().map(|(name, _)| *name).chain(OF_THREADS);
        named.for_each(|name| assert!(all.iter().any(|other| other == name), "no test {name}"));
        let all = || ["emulated", "gemm", "loader", "model_llama", "new"].map(str::to_owned);
        assert_eq!(Sanitizer::Address.tests(all().into()), ["gemm", "loader", "new"]);
        assert_eq!(Sanitizer::Thread.tests(all().into()), ["loader"]);
    }
}
