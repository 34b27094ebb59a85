//! Project chores: `cargo xtask <command>`.
//!
//! `test` and `chat` are the two commands of the README; the others are what those two and CI
//! are made of. A failure is one line on standard error and a non-zero exit code.

mod arm;
mod arm_loops;
mod bundle;
mod cache;
mod cargo;
mod chat;
mod checkpoint;
mod cuda;
mod fuzz;
mod llama;
mod model;
mod package;
mod pip;
mod program;
mod results;
#[cfg(feature = "plot")]
mod roofline;
mod sanitize;
#[cfg(feature = "sass")]
mod sass;
mod startup;
mod test;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use program::Runner;
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
    ///
    /// All of them but those of programs and sources, of emulated GPUs, and of mutants, each with its
    /// reason in what is printed first: a quarter of an hour on two cores, most of it compiling.
    Asan {
        /// Instead of these, arguments for `cargo test`, such as `--test loader`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run the library's tests with threads under ThreadSanitizer, with nightly Rust and its
    /// `rust-src`
    ///
    /// The standard library has to be built as well: of the one that comes with the compiler, the
    /// sanitizer does not see how locks are waited for, and takes every second one for a race.
    Tsan {
        /// Instead of these, arguments for `cargo test`, such as `--test faults`
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
    /// Build llama.cpp's `llama-bench`, once, with the C++ compiler there is, and measure the default
    /// model by it and by this library in turn
    LlamaBench {
        /// Weights to measure: of nvfp4, mxfp4, fp8, bf16, f32 (default: all)
        formats: Vec<String>,
        /// Runs of each program that medians are taken of
        #[arg(long, default_value_t = llama::ROUNDS)]
        rounds: usize,
        /// Threads of both
        #[arg(long, default_value_t = llama::default_threads())]
        threads: usize,
        /// Block format of the head beside weights of 4 bits: llama.cpp's files have one there too
        #[arg(long, value_name = "FORMAT")]
        head: Option<String>,
        /// Multiply q, k and v, and gate and up, each by itself here
        #[arg(long)]
        no_join: bool,
        /// Command that runs each measurement, such as `taskset -c 0,1`
        #[arg(long, value_name = "COMMAND")]
        with: Option<String>,
        /// Print one JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Run the benches and write what they print into a file, beside the other benches in it
    Results {
        /// Such as `benches/results/MACHINE-DATE.json`
        file: PathBuf,
        /// Of gemm, gemv, attention, convert, model, peers, llama (default: all)
        benches: Vec<String>,
        /// Command that runs each measurement, such as `taskset -c 0,1`
        #[arg(long, value_name = "COMMAND")]
        with: Option<String>,
    },
    /// Draw a file of `results` as an SVG picture: operations a second, under the machine's limits
    Roofline {
        /// Such as `benches/results/MACHINE-DATE.json`
        file: PathBuf,
        /// The picture (default: beside the file)
        to: Option<PathBuf>,
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
    /// Measure how soon the GPU kernels of `chat` are ready, at the first start and at the next: by
    /// the compiler, without a GPU
    Startup {
        /// The architecture
        #[arg(long, default_value = "sm_121a")]
        target: String,
    },
    /// Install what `test --target aarch64` needs, on Debian
    Arm {
        /// Print how many cycles inner loops take by the models of `llvm-mca` instead
        #[arg(long)]
        loops: bool,
    },
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
        Command::SassReport { .. } => with_feature("sass"),
        #[cfg(feature = "plot")]
        Command::Roofline { file, to } => roofline::draw(&file, to),
        #[cfg(not(feature = "plot"))]
        Command::Roofline { .. } => with_feature("plot"),
        Command::Bundle { folder } => bundle::write(&folder),
        Command::LlamaBench { formats, rounds, threads, head, no_join, with, json } => {
            let (join, runner) = (!no_join, Runner(with));
            llama::run(&llama::Options { formats, rounds, threads, head, join, runner, json })
        }
        Command::Results { file, benches, with } => {
            results::run(&results::Options { file, benches, runner: Runner(with) })
        }
        Command::Arm { loops } => {
            let done = if loops { arm_loops::run() } else { arm::set_up() };
            done.map(|()| ExitCode::SUCCESS)
        }
        Command::Startup { target } => startup::run(&target),
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

/// This command again, with what a feature pulls in.
#[cfg(not(all(feature = "sass", feature = "plot")))]
fn with_feature(name: &str) -> anyhow::Result<ExitCode> {
    let mut command = cargo::command("run");
    command.args(["--quiet", "--package", "xtask", "--features", name, "--"]);
    command.args(std::env::args_os().skip(1));
    cargo::replace_by(command)
}
