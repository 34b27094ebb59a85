//! Loads a model and says what that took: `cargo run --release --example load -- MODEL`.
//!
//! With `--plan` it only says what it would take; nothing but headers is read then.

#[path = "common/mod.rs"]
mod common;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use ferrocerium::io::Loader;

use common::cli::{DeviceArgs, exit, progress_bar, show};
use common::weight_format::WeightFormat;

#[derive(Parser)]
struct Cli {
    /// A GGUF file, a safetensors file, or a folder with safetensors files
    model: PathBuf,
    /// What linear layers are held in
    #[arg(long, default_value = "keep", value_parser = WeightFormat::NAMES)]
    format: String,
    /// How scales are chosen
    #[arg(long)]
    quantizer: Option<String>,
    /// Read what needs no conversion into memory, instead of using the mapped file
    #[arg(long)]
    read: bool,
    /// Print the plan and load nothing
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

fn main() -> ExitCode {
    exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<()> {
    let device = cli.device.builder().cpu()?;
    let format = WeightFormat::parse(&cli.format, cli.quantizer.as_deref())?;
    let loader = Loader::open(&device, &cli.model)?.in_place(!cli.read);
    let plan = loader.plan(|weight| format.target(weight))?;
    if cli.plan {
        print!("{plan}");
        plan.check()?;
        return Ok(());
    }
    let started = Instant::now();
    let bar = progress_bar(0)?;
    let model = plan.load(show(&bar))?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let gb = plan.file_bytes() as f64 / 1e9;
    println!(
        "{} weights, {gb:.2} GB read in {seconds:.2} s: {:.2} GB/s, {:.1} MiB in memory{}",
        model.len(),
        gb / seconds,
        plan.bytes() as f64 / (1 << 20) as f64,
        peak_resident()
    );
    println!("{}", device.memory());
    Ok(())
}

/// The most memory that the process had, where the system says.
fn peak_resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map(|line| format!(", {} resident at most", line.trim())).unwrap_or_default()
}
