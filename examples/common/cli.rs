//! What the command lines of the examples share.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::str::FromStr;

#[cfg(not(all(feature = "cuda", feature = "emulator")))]
use anyhow::bail;
use anyhow::{Context, Result, anyhow};
use clap::Args;
use ferrocerium::Device;
use ferrocerium::caps::Arch;
use ferrocerium::device::DeviceBuilder;
use ferrocerium::io::Progress;
use ferrocerium::registry::Numerics;
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

/// How products are computed.
#[derive(Args, Debug)]
pub struct ProductArgs {
    /// Round activations to int8, in blocks of 16, where they meet 4-bit weights (W4A8): faster on
    /// CPUs, less exact. Without it activations are multiplied as they are (W4A32)
    #[arg(long)]
    pub w4a8: bool,
    /// Multiply q, k and v, and gate and up, each by itself. Otherwise those in FP4, MXFP8 and FP8
    /// with scales for rows or groups are multiplied as one matrix: faster, to the same results, or
    /// with activations of 16 bits to those of one rounding less
    #[arg(long)]
    pub no_join: bool,
}

impl ProductArgs {
    /// The freest class that the flags accept.
    pub fn numerics(&self) -> Numerics {
        if self.w4a8 { Numerics::NarrowedOperands } else { Numerics::AsGiven }
    }
}

/// Where to run, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// The fastest there is: `auto`
    Auto,
    /// The CPU kernels: `cpu`
    Cpu,
    /// Plain loops in f64: `reference`
    Reference,
    /// An NVIDIA GPU: `cuda:0`
    Cuda(usize),
    /// A GPU's kernels, executed by the CPU: `emulated:sm_121a`, which shares the host's memory,
    /// or `emulated:sm_90a:discrete`, which has its own
    Emulated { arch: Arch, discrete: bool },
    /// A GPU's kernels, compiled and not run: `compiled:sm_121a`
    Compiled(Arch),
}

impl FromStr for DeviceName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        const NAMES: &str = "auto, cpu, reference, cuda:NUMBER, emulated:ARCH, emulated:ARCH:discrete and \
             compiled:ARCH are there";
        Ok(match text {
            "auto" => DeviceName::Auto,
            "cpu" => DeviceName::Cpu,
            "reference" => DeviceName::Reference,
            "cuda" => DeviceName::Cuda(0),
            _ => {
                let unknown = || format!("no device is called so; {NAMES}");
                let (kind, which) = text.split_once(':').with_context(unknown)?;
                match kind {
                    "cuda" => DeviceName::Cuda(which.parse().ok().with_context(unknown)?),
                    "emulated" => {
                        let arch = which.strip_suffix(":discrete");
                        let discrete = arch.is_some();
                        DeviceName::Emulated { arch: arch.unwrap_or(which).parse()?, discrete }
                    }
                    "compiled" => DeviceName::Compiled(which.parse()?),
                    _ => return Err(anyhow!(unknown())),
                }
            }
        })
    }
}

/// Multiprocessors of a GB10, which estimates assume where there is no GPU.
#[cfg(feature = "emulator")]
const GB10_UNITS: usize = 48;

impl DeviceName {
    /// The device, made by a builder.
    pub fn open(self, builder: DeviceBuilder) -> Result<Device> {
        Ok(match self {
            #[cfg(feature = "cuda")]
            DeviceName::Auto if Device::cuda_count() > 0 => builder.cuda(0)?,
            DeviceName::Auto | DeviceName::Cpu => builder.cpu()?,
            DeviceName::Reference => builder.reference(),
            #[cfg(feature = "cuda")]
            DeviceName::Cuda(index) => builder.cuda(index)?,
            #[cfg(not(feature = "cuda"))]
            DeviceName::Cuda(index) => {
                bail!("cuda:{index}: built without NVIDIA GPUs; add `--features cuda`")
            }
            #[cfg(feature = "emulator")]
            DeviceName::Emulated { arch, discrete: false } => builder.emulated(arch)?,
            #[cfg(feature = "emulator")]
            DeviceName::Emulated { arch, .. } => builder.emulated_discrete(arch)?,
            #[cfg(feature = "emulator")]
            DeviceName::Compiled(arch) => builder.compiled(arch, GB10_UNITS)?,
            #[cfg(not(feature = "emulator"))]
            DeviceName::Emulated { arch, .. } | DeviceName::Compiled(arch) => {
                bail!("{arch}: built without the emulator; add `--features emulator`")
            }
        })
    }
}

/// Whether it is a GPU, real or emulated.
pub fn is_gpu(device: &Device) -> bool {
    device.caps().target.arch().is_some()
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
