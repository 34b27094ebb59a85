//! `cargo xtask fuzz`: the fuzz targets on mutated seeds, for as long as wanted.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};

use crate::cargo;

/// What to fuzz, and how.
pub struct Options {
    pub seconds: u64,
    pub seed: Option<u64>,
    pub target: Option<String>,
    pub coverage: bool,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    if options.coverage { by_coverage(options) } else { by_chance(options) }
}

/// Runs `tests/fuzz.rs`, in the build of the other tests, for that many seconds of processor
/// time: all targets together, or one.
fn by_chance(options: &Options) -> Result<ExitCode> {
    let mut command = cargo::command("test");
    command.args(["--workspace", "--all-features", "--test", "fuzz", "--", "--nocapture"]);
    command.env("FERROCERIUM_FUZZ_SECONDS", options.seconds.to_string());
    if let Some(seed) = options.seed {
        command.env("FERROCERIUM_FUZZ_SEED", seed.to_string());
    }
    if let Some(target) = &options.target {
        command.env("FERROCERIUM_FUZZ_TARGET", target);
    }
    finish(command)
}

/// What `cargo fuzz` passes: counters for libFuzzer in every block, and AddressSanitizer, which
/// also tells libFuzzer of each allocation.
const INSTRUMENTED: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cdebug-assertions -Coverflow-checks -Ccodegen-units=1 -Zsanitizer=address";
/// Builds a target for libFuzzer, with the nightly compiler and C++, and runs it. What it finds to
/// lead somewhere new is kept in `target/fuzz/`, for the next run to start from.
fn by_coverage(options: &Options) -> Result<ExitCode> {
    let target = options.target.as_ref().context("--coverage: name a --target")?;
    let fuzz = cargo::workspace().join("fuzz");
    let (seeds, built) = (fuzz.join("corpus").join(target), cargo::workspace().join("target/fuzz"));
    ensure!(seeds.is_dir(), "{target} is no target: it has no seeds in {}", seeds.display());
    let mut build = cargo::nightly("build", &fuzz.join("Cargo.toml"));
    build.args(["--release", "--target", cargo::HOST, "--bin", target, "--target-dir"]).arg(&built);
    build.env("RUSTFLAGS", INSTRUMENTED);
    let status = build.status().map_err(|e| anyhow!("cannot start cargo: {e}"))?;
    ensure!(status.success(), "the target was not built; it needs nightly Rust and C++");
    let corpus = built.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    let mut command =
        std::process::Command::new(built.join(cargo::HOST).join("release").join(target));
    command.args([&corpus, &seeds]);
    // The limits of `tests/fuzz.rs`.
    command.args(["-max_len=16384", "-malloc_limit_mb=16", "-timeout=5", "-print_final_stats=1"]);
    command.arg(format!("-max_total_time={}", options.seconds));
    command.args(options.seed.map(|seed| format!("-seed={seed}")));
    command.current_dir(&built);
    finish(command)
}

fn finish(mut command: std::process::Command) -> Result<ExitCode> {
    let status = command.status().map_err(|e| anyhow!("cannot start {command:?}: {e}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
