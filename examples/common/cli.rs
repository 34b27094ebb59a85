//! What the command lines of the examples share.

use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use ferrocerium::Device;
use ferrocerium::device::DeviceBuilder;
use ferrocerium::io::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// Flags for the device.
#[derive(Args, Debug)]
pub struct DeviceArgs {
    /// Threads (default: one per core)
    #[arg(long)]
    pub threads: Option<usize>,
    /// The most MiB of memory that weights and activations may take
    #[arg(long)]
    pub memory_limit: Option<u64>,
}

impl DeviceArgs {
    /// A builder with what the flags say.
    pub fn builder(&self) -> DeviceBuilder {
        let mut builder = Device::builder();
        if let Some(mib) = self.memory_limit {
            builder = builder.memory_limit(mib.saturating_mul(1 << 20));
        }
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        builder
    }
}

/// Exit code 0, or 1 after the error as one line on stderr.
pub fn exit(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// How far reading a model is, on stderr where that is a terminal.
pub fn progress_bar(bytes: u64) -> Result<ProgressBar> {
    let bar = ProgressBar::new(bytes);
    bar.set_style(ProgressStyle::with_template(
        "{elapsed_precise} [{bar:30}] {bytes} of {total_bytes} at {bytes_per_sec} {msg}",
    )?);
    Ok(bar)
}

/// Shows a loader's reports on such a bar.
pub fn show(bar: &ProgressBar) -> impl FnMut(&Progress<'_>) -> ControlFlow<()> {
    |progress| {
        bar.set_length(progress.bytes);
        bar.set_position(progress.bytes_done);
        ControlFlow::Continue(())
    }
}
