//! Project chores: `cargo xtask <command>`.
//!
//! `test` and `chat` are the two commands of the README; the others are what those two and CI
//! are made of. A failure is one line on standard error and a non-zero exit code.

mod arm;
mod bundle;
mod cache;
mod cargo;
mod chat;
mod checkpoint;
mod cuda;
mod fuzz;
mod model;
mod pip;
mod sanitize;
#[cfg(feature = "sass")]
mod sass;
mod test;
mod wheel;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sanitize::Sanitizer;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Project chores")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer a prompt with a language model, fetching the default one on first use
    Chat {
        /// The prompt, then flags of `examples/chat` (listed by `cargo xtask chat -- --help`)
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run all tests, with whatever set-up they need
    Test {
        /// Also run the tests that are ignored because they take long
        #[arg(long)]
        full: bool,
        /// Fetch nothing: tests that need a model not yet in the cache are reported as ignored
        #[arg(long)]
        offline: bool,
        /// Run the library's tests for another machine: `aarch64`, by qemu where this is none
        #[arg(long)]
        target: Option<String>,
        /// Arguments for `cargo test`, such as `--test layers`
        #[arg(allow_hyphen_values = true)]
        args: Vec<OsString>,
        /// Arguments for the test binaries, such as `--nocapture`
        #[arg(last = true)]
        binary_args: Vec<OsString>,
    },
    /// Feed the parsers, conversions and operations mutated input
    Fuzz {
        /// How long, all targets together, in processor time (with `--coverage` by the clock)
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Where the random choices start, to repeat a run
        #[arg(long)]
        seed: Option<u64>,
        /// Only this one: `gguf`, `safetensors`, `index`, `npy`, `num` or `ops`
        #[arg(long)]
        target: Option<String>,
        /// Let libFuzzer guide the choices by what the target's code does: for long runs of one
        /// target, with nightly Rust and a C++ compiler
        #[arg(long)]
        coverage: bool,
    },
    /// Run the library's tests under AddressSanitizer, with nightly Rust
    Asan {
        /// Arguments for `cargo test`, such as `--test loader`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run the library's tests under ThreadSanitizer, with nightly Rust and its `rust-src`
    Tsan {
        /// Arguments for `cargo test`, such as `--test faults`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Write a large model of zeros that takes no room on disk, to try loading with
    Checkpoint {
        /// Where to
        folder: PathBuf,
        /// Size in GiB
        #[arg(long, default_value_t = 8)]
        gib: u64,
        /// Number of files
        #[arg(long, default_value_t = 4)]
        shards: u64,
    },
    /// Fetch the default model into the user's cache folder and print its path
    Model,
    /// Fetch NVIDIA's run-time compiler (NVRTC 13.0) and its headers, and print their folder
    Cuda {
        /// Instead, ptxas, cuobjdump and nvdisasm, which show the machine code of kernels
        #[arg(long)]
        sass: bool,
    },
    /// Put tests and benches as programs into a folder, for a machine without Rust
    Bundle {
        /// Where to
        #[arg(default_value = "target/bundle")]
        folder: PathBuf,
    },
    /// Account for the speed of GPU kernels by their machine code: instructions, bytes, times
    SassReport {
        /// Only this architecture: `sm_121a` or `sm_90a`
        #[arg(long)]
        arch: Option<String>,
        /// Only kernels and operations with this in their name
        #[arg(long)]
        kernel: Option<String>,
    },
    /// Install what `test --target aarch64` needs, on Debian
    Arm,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Fuzz { seconds, seed, target, coverage } => {
            fuzz::run(&fuzz::Options { seconds, seed, target, coverage })
        }
        Command::Asan { args } => sanitize::run(Sanitizer::Address, &args),
        Command::Tsan { args } => sanitize::run(Sanitizer::Thread, &args),
        Command::Checkpoint { folder, gib, shards } => checkpoint::write(&folder, gib, shards),
        Command::Chat { args } => chat::run(args),
        Command::Test { full, offline, target, args, binary_args } => {
            test::run(&test::Options { full, offline, target, args, binary_args })
        }
        #[cfg(feature = "sass")]
        Command::SassReport { arch, kernel } => sass::report(&sass::Filter { arch, kernel }),
        #[cfg(not(feature = "sass"))]
        Command::SassReport { .. } => with_library(),
        Command::Bundle { folder } => bundle::write(&folder),
        Command::Arm => arm::set_up().map(|()| ExitCode::SUCCESS),
        Command::Cuda { sass } => {
            let folder = if sass { cuda::fetch_sass_tools() } else { cuda::fetch() };
            folder.map(|path| {
                println!("{}", path.display());
                ExitCode::SUCCESS
            })
        }
        Command::Model => model::fetch().map(|path| {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// This command again, with what runs the library.
#[cfg(not(feature = "sass"))]
fn with_library() -> anyhow::Result<ExitCode> {
    let mut command = cargo::command("run");
    command.args(["--quiet", "--package", "xtask", "--features", "sass", "--"]);
    command.args(std::env::args_os().skip(1));
    cargo::replace_by(command)
}
