//! Loading against `dd`, in the same rounds: `cargo bench --bench load -- [FILE] [ROUNDS]`.
//!
//! What `dd` does is not quite the same: its 4 MiB stay in the processor's cache, where a load
//! ends with all bytes in memory that is new. So `dd` with one block for the whole file, which
//! also ends that way, stands beside it. Cold is a file of which the page cache has nothing;
//! without a file a safetensors file of 1 GiB is written to the folder of temporary files.
//!
//! Pages that nobody uses may be with the host of a virtual machine, which gives them back more
//! slowly than disks read. So there is also a load right after another, into memory that this one
//! has just freed; and each round goes in another order.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ferrocerium::Device;
use ferrocerium::format::{Format, Quantizer};
use ferrocerium::io::{LoadedWeights, Loader, Target, Weight};

/// What is measured, by its name. What it loads is freed afterwards.
type Task<'a> = (&'a str, &'a dyn Fn() -> Result<Option<LoadedWeights>>);

/// A load right after another.
const AGAIN: &str = "load into memory, again";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let rounds = args.get(1).map_or(Ok(6), |n| n.parse())?;
    let temporary = std::env::temp_dir().join("ferrocerium-bench-load.safetensors");
    let path = match args.first() {
        Some(path) => PathBuf::from(path),
        None => {
            write_model(&temporary, 8, 128 << 20)?;
            temporary.clone()
        }
    };
    let result = compare(&path, rounds);
    let _ = std::fs::remove_file(temporary);
    result
}

/// A model of so many bf16 matrices, of bytes that no file system can make fewer.
fn write_model(path: &Path, matrices: u64, bytes: u64) -> Result<()> {
    let rows = bytes / 2 / 4096;
    let entry = |i| {
        let (start, end) = (i * bytes, (i + 1) * bytes);
        format!(
            r#""{i}.weight":{{"dtype":"BF16","shape":[{rows},4096],"data_offsets":[{start},{end}]}}"#
        )
    };
    let mut header = format!("{{{}}}", (0..matrices).map(entry).collect::<Vec<_>>().join(","));
    // As writers do: what is in place has to be aligned.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut state = 1u64;
    for _ in 0..matrices * bytes / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Without the upper bit of the exponent: no infinity and no NaN.
        file.write_all(&(state & 0xBFFF_BFFF_BFFF_BFFF).to_le_bytes())?;
    }
    file.into_inner()?.sync_all()?;
    Ok(())
}

fn compare(path: &Path, rounds: usize) -> Result<()> {
    let len = std::fs::metadata(path)?.len();
    let device = Device::cpu();
    let whole = format!("bs={len}");
    let read = |args: &[&str]| dd(path, args).map(|()| None);
    let load = |in_place: bool| load(&device, path, in_place, Target::Keep);
    let nvfp4 = Target::Blocks(Format::Nvfp4, Quantizer::Amax);
    let tasks: [Task<'_>; 7] = [
        ("dd bs=4M", &|| read(&["bs=4M"])),
        ("dd bs=4M iflag=direct", &|| read(&["bs=4M", "iflag=direct"])),
        ("dd, all in one block", &|| read(&[&whole, "iflag=fullblock"])),
        ("load into memory", &|| load(false)),
        (AGAIN, &|| load(false)),
        ("load in place, and touch all", &|| load(true)),
        ("load as nvfp4", &|| self::load(&device, path, false, nvfp4)),
    ];
    for cold in [true, false] {
        let mut seconds = vec![Vec::new(); tasks.len()];
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..tasks.len()).collect();
            order.rotate_left(round % tasks.len());
            if round % 2 == 1 {
                order.reverse();
            }
            for i in order {
                match cold {
                    true => dd(path, &["iflag=nocache", "count=0"])?,
                    false => dd(path, &["bs=4M"])?,
                }
                if tasks[i].0 == AGAIN {
                    drop(load(false)?);
                }
                let started = Instant::now();
                let loaded = (tasks[i].1)()?;
                seconds[i].push(started.elapsed().as_secs_f64());
                drop(loaded);
            }
        }
        println!(
            "{}, {:.2} GB, {rounds} rounds:",
            if cold { "cold" } else { "warm" },
            len as f64 / 1e9
        );
        seconds.iter_mut().for_each(|seconds| seconds.sort_by(f64::total_cmp));
        let rate = |i: usize, at: usize| len as f64 / 1e9 / seconds[i][at];
        for (i, (name, _)) in tasks.iter().enumerate() {
            let [fast, middle, slow] = [0, rounds / 2, rounds - 1].map(|at| rate(i, at));
            let share = 100.0 * middle / rate(0, rounds / 2);
            println!("  {name:<30}{middle:6.2} GB/s ({slow:.2} to {fast:.2}), {share:.0}% of dd");
        }
    }
    Ok(())
}

/// Reads the file to nowhere, or only drops it from the page cache.
fn dd(path: &Path, args: &[&str]) -> Result<()> {
    let input = format!("if={}", path.display());
    let mut command = Command::new("dd");
    command.args([&input, "of=/dev/null", "status=none"]).args(args);
    let status = command.status().context("dd can not be started")?;
    ensure!(status.success(), "dd {args:?} failed");
    Ok(())
}

fn load(
    device: &Device,
    path: &Path,
    in_place: bool,
    linear: Target,
) -> Result<Option<LoadedWeights>> {
    let target = |weight: &Weight<'_>| if weight.is_linear() { linear } else { Target::Keep };
    let plan = Loader::open(device, path)?.in_place(in_place).plan(target)?;
    let loaded = plan.load(|_| ControlFlow::Continue(()))?;
    if in_place {
        for (_, tensor) in loaded.iter() {
            for region in tensor.operand().regions() {
                let bytes = region.buffer().read()?;
                let sum = std::sync::atomic::AtomicU64::new(0);
                let pieces = region.len().div_ceil(4 << 20);
                device.workers().run(pieces, |i| {
                    let bytes = &bytes[region.range()];
                    let piece = bytes.chunks(4 << 20).nth(i).unwrap_or(&[]);
                    let words = piece
                        .chunks_exact(8)
                        .map(|w| u64::from_ne_bytes(w.try_into().unwrap_or_default()));
                    sum.fetch_add(
                        words.fold(0, u64::wrapping_add),
                        std::sync::atomic::Ordering::Relaxed,
                    );
                });
                std::hint::black_box(sum);
            }
        }
    }
    Ok(Some(loaded))
}
