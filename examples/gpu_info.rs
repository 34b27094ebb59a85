//! What a device is, and how fast it and the CPU reach each kind of memory:
//! `cargo run --release --all-features --example gpu_info [-- --device emulated:sm_121a --mib 1]`.
//!
//! Which kind of memory a GPU reads fastest is published for few machines; this measures it.
//! Medians after a warm-up; a copy's bytes are counted as read and as written. The CPU copies to
//! its heap, the device to memory that its results live in.

#[path = "common/cli.rs"]
#[allow(dead_code)] // Other examples use the rest of it.
mod cli;

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use cli::DeviceName;
use ferrocerium::caps::MemoryKind;
use ferrocerium::memory::Buffer;
use ferrocerium::op::{Convert, Op, Reduce, Reduction};
use ferrocerium::{Device, Error, Tensor};

#[derive(Parser)]
struct Cli {
    /// The device: auto, cpu, cuda:NUMBER, emulated:ARCH or emulated:ARCH:discrete
    #[arg(long, default_value = "auto")]
    device: DeviceName,
    /// Size of the buffers, larger than caches
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    mib: u32,
    /// Runs that a median is taken of
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
}

fn main() -> ExitCode {
    cli::exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<()> {
    let device = cli.device.open(Device::builder())?;
    let caps = device.caps();
    println!("{}: {caps}", device.name());
    #[cfg(feature = "cuda")]
    if let Some(number) = device.name().strip_prefix("cuda:") {
        print_attributes(number.parse()?)?;
    }
    if caps.shared_memory > 0 {
        println!("shared memory of a block: {} bytes", caps.shared_memory);
    }
    println!("memory: {}", device.memory());
    println!("results live in {} memory", device.memory_kind());
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

/// What the driver says of a GPU.
#[cfg(feature = "cuda")]
fn print_attributes(index: usize) -> Result<()> {
    let of = ferrocerium::backend::cuda::Attributes::of_cuda(index)?;
    println!("{}, compute capability {}.{}", of.name, of.capability.0, of.capability.1);
    println!("{} multiprocessors, {:.1} GiB of memory", of.units, of.memory as f64 / GIB);
    for (attribute, is_so) in [
        ("its memory is the host's", of.integrated),
        ("reaches the process's pages and mapped files", of.pageable_access),
        ("by the host's page tables", of.host_page_tables),
        ("host and GPU use managed memory at a time", of.concurrent_managed),
        ("memory in the order of a stream", of.pools),
    ] {
        println!("  {attribute}: {}", if is_so { "yes" } else { "no" });
    }
    Ok(())
}

#[cfg(feature = "cuda")]
const GIB: f64 = (1u64 << 30) as f64;

/// A kind of memory, and what was measured of it.
struct Row {
    kind: MemoryKind,
    /// Bytes a second: read and copied by the CPU, then by the device; none where the CPU can not
    /// read in place. None at all of a kind that the device does not hand out.
    rates: Option<[Option<f64>; 4]>,
}

/// Elements that are reduced to one, so that reading is nearly all there is to do.
const COLS: usize = 4096;

impl Row {
    fn measure(device: &Device, kind: MemoryKind, cli: &Cli) -> Result<Self> {
        let bytes = (cli.mib as usize) << 20;
        let Some(source) = Source::new(device, kind, bytes)? else {
            return Ok(Row { kind, rates: None });
        };
        let buffer = &source.buffer;
        let rows = bytes / size_of::<f32>() / COLS;
        let x = Tensor::<f32, 2>::from_buffer(device, buffer.clone(), 0, [rows, COLS])?;
        let largest = Tensor::<f32, 1>::zeros(device, [rows])?;
        let to = Tensor::<f32, 2>::zeros(device, [rows, COLS])?;
        let rate = |moved: usize, f: &mut dyn FnMut() -> Result<()>| -> Result<Option<f64>> {
            Ok(Some(moved as f64 / median(cli.runs, f)?))
        };
        let run = |op: &Op| -> Result<()> {
            device.run(op)?;
            Ok(device.synchronize()?)
        };
        let read = Op::Reduce(Reduce::new(Reduction::Max, x.operand(), [1], largest.operand()));
        let copy = Op::Convert(Convert::new(x.operand(), to.operand()));
        let mut sum = 0;
        let mut heap = vec![0; bytes];
        let read_by_cpu = match kind.host_readable() {
            false => None,
            true => rate(bytes, &mut || {
                let guard = buffer.read()?;
                let words = guard
                    .chunks_exact(8)
                    .map(|w| u64::from_ne_bytes([w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]]));
                sum = words.fold(sum, u64::wrapping_add);
                Ok(())
            })?,
        };
        let rates = [
            read_by_cpu,
            rate(2 * bytes, &mut || Ok(buffer.copy_to_host(0, &mut heap)?))?,
            rate(bytes, &mut || run(&read))?,
            rate(2 * bytes, &mut || run(&copy))?,
        ];
        std::hint::black_box((sum, heap));
        Ok(Row { kind, rates: Some(rates) })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8}", self.kind)?;
        let Some(rates) = self.rates else { return write!(f, " {:>10}", "not offered") };
        for (rate, width) in rates.into_iter().zip([10, 10, 12, 12]) {
            match rate {
                Some(rate) => write!(f, " {:>width$.2}", rate / 1e9)?,
                None => write!(f, " {:>width$}", "-")?,
            }
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
        let value = |i: usize| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] & 0x3F;
        let values: Vec<u8> = (0..bytes).map(value).collect();
        if kind != MemoryKind::Mapped {
            let buffer = match device.allocate_kind(kind, bytes, "source") {
                Err(Error::Memory { .. }) => return Ok(None),
                buffer => buffer?,
            };
            buffer.copy_from_host(0, &values)?;
            return Ok(Some(Source { buffer, file: None }));
        }
        let name = format!("ferrocerium-gpu-info-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let written = fs::write(&path, values);
        written.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Some(Source { buffer: Buffer::map_file(&path)?, file: Some(path) }))
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
