//! What a device is, and how fast it and the CPU reach each kind of memory:
//! `cargo run --release --example gpu_info [-- --device emulated:sm_121a --mib 1]`.
//!
//! Which kind of memory a GPU reads fastest is published for few machines; this measures it.
//! Medians after a warm-up; a copy's bytes are counted as read and as written.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use ferrocerium::caps::MemoryKind;
use ferrocerium::memory::Buffer;
use ferrocerium::op::{Convert, Op, Reduce, Reduction};
use ferrocerium::{Device, Tensor};

#[derive(Parser)]
struct Cli {
    /// `cpu`, or with feature `emulator` `emulated:` and an architecture such as `sm_121a`
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Size of the buffers, larger than caches
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    mib: u32,
    /// Runs that a median is taken of
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let device = device(&cli.device)?;
    let caps = device.caps();
    println!("{}: {caps}", device.name());
    if caps.shared_memory > 0 {
        println!("shared memory of a block: {} bytes", caps.shared_memory);
    }
    println!("memory: {}", device.memory());
    println!("{} kernels\n", device.registry().list().len());
    println!("GB/s of {} MiB, median of {} runs", cli.mib, cli.runs);
    println!(
        "{:<8} {:>10} {:>10} {:>12} {:>12}",
        "", "CPU reads", "copies", "device reads", "copies"
    );
    for &kind in &caps.memory_kinds {
        println!("{}", Row::measure(&device, kind, cli)?);
    }
    if device.name().starts_with("emulated") {
        println!("\nthe device's are the emulator's: they say nothing of the GPU");
    }
    Ok(())
}

fn device(name: &str) -> Result<Device> {
    match name.split_once(':') {
        None if name == "cpu" => Ok(Device::builder().cpu()?),
        #[cfg(feature = "emulator")]
        Some(("emulated", arch)) => Ok(Device::emulated(arch.parse()?)?),
        _ => bail!("--device {name}: it can be cpu, or with feature `emulator` emulated:sm_121a"),
    }
}

/// A kind of memory, and what was measured of it.
struct Row {
    kind: MemoryKind,
    /// Bytes a second: read and copied by the CPU, then by the device. None where the kind can
    /// not be had.
    rates: Option<[f64; 4]>,
}

/// Elements that are reduced to one, so that reading is nearly all there is to do.
const COLS: usize = 4096;

impl Row {
    fn measure(device: &Device, kind: MemoryKind, cli: &Cli) -> Result<Self> {
        let bytes = (cli.mib as usize) << 20;
        let Some(source) = Source::new(device, kind, bytes)? else {
            return Ok(Row { kind, rates: None });
        };
        let rows = bytes / size_of::<f32>() / COLS;
        let x = Tensor::<f32, 2>::from_buffer(device, source.buffer.clone(), 0, [rows, COLS])?;
        let largest = Tensor::<f32, 1>::zeros(device, [rows])?;
        let to = Tensor::<f32, 2>::zeros(device, [rows, COLS])?;
        let rate = |moved: usize, f: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
            Ok(moved as f64 / median(cli.runs, f)?)
        };
        let read = Op::Reduce(Reduce::new(Reduction::Max, x.operand(), [1], largest.operand()));
        let copy = Op::Convert(Convert::new(x.operand(), to.operand()));
        let mut sum = 0;
        let mut bounce = vec![0; bytes];
        let rates = [
            rate(bytes, &mut || {
                let guard = source.buffer.read()?;
                let words = guard
                    .chunks_exact(8)
                    .map(|w| u64::from_ne_bytes([w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]]));
                sum = words.fold(sum, u64::wrapping_add);
                Ok(())
            })?,
            rate(2 * bytes, &mut || {
                bounce.copy_from_slice(&source.buffer.read()?);
                Ok(())
            })?,
            rate(bytes, &mut || Ok(device.run(&read)?))?,
            rate(2 * bytes, &mut || Ok(device.run(&copy)?))?,
        ];
        std::hint::black_box((sum, bounce));
        Ok(Row { kind, rates: Some(rates) })
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<8}", self.kind)?;
        let Some(rates) = self.rates else { return write!(f, " {:>10}", "not offered") };
        for (rate, width) in rates.into_iter().zip([10, 10, 12, 12]) {
            write!(f, " {:>width$.2}", rate / 1e9)?;
        }
        Ok(())
    }
}

/// Memory that is read, and the file behind it, if there is one.
struct Source {
    buffer: Buffer,
    file: Option<PathBuf>,
}

impl Source {
    /// Memory of that kind, with values in it; none where the device does not hand it out.
    fn new(device: &Device, kind: MemoryKind, bytes: usize) -> Result<Option<Self>> {
        let values = |i: usize| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] & 0x3F;
        match kind {
            MemoryKind::Host => {
                let buffer = device.allocate(bytes, "source")?;
                buffer.write()?.iter_mut().enumerate().for_each(|(i, b)| *b = values(i));
                Ok(Some(Source { buffer, file: None }))
            }
            MemoryKind::Mapped => {
                let name = format!("ferrocerium-gpu-info-{}", std::process::id());
                let path = std::env::temp_dir().join(name);
                let data: Vec<u8> = (0..bytes).map(values).collect();
                let written = fs::write(&path, data);
                written.with_context(|| format!("cannot write {}", path.display()))?;
                let file = Some(path.clone());
                Ok(Some(Source { buffer: Buffer::map_file(path)?, file }))
            }
            _ => Ok(None),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // A file that stays is in the system's folder for such files.
        let _ = self.file.take().map(fs::remove_file);
    }
}

/// The median time of `runs` runs after a warm-up, in seconds.
fn median(runs: u32, f: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    f()?;
    let mut time = || {
        let start = Instant::now();
        f().map(|()| start.elapsed().as_secs_f64())
    };
    let mut times = (0..runs).map(|_| time()).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
