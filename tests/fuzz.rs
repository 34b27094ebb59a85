//! The fuzz targets on mutations of their seeds, without coverage and without a fuzzer's tools.
//!
//! For a moment in every test run; for as long as wanted by `cargo xtask fuzz --seconds N`. What
//! fails is printed as hex with the seed of its random numbers. Times are those of the processor,
//! so that a busy or stopped machine makes no input look slow.
#![cfg(all(feature = "safetensors", feature = "gguf", feature = "npy"))]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Most bytes that one allocation may take: inputs are a few kilobytes.
const MAX_ALLOCATION: usize = 16 << 20;
/// Longest time for an input.
const MAX_TIME: Duration = Duration::from_secs(2);
/// Longest input.
const MAX_INPUT: usize = 1 << 14;

/// Notes the largest allocation.
struct Watching;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's pointer, which came from the system allocator.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Whose processor time.
#[derive(Clone, Copy)]
enum Of {
    Thread,
    Process,
}

#[cfg(target_os = "linux")]
fn cpu_time(of: Of) -> Duration {
    let clock = match of {
        Of::Thread => libc::CLOCK_THREAD_CPUTIME_ID,
        Of::Process => libc::CLOCK_PROCESS_CPUTIME_ID,
    };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a `timespec` of this function.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(target_os = "linux"))]
fn cpu_time(_: Of) -> Duration {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed()
}

/// Inputs begun, of all targets.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// Ends the process when an input does not end.
fn watch(seed: u64) {
    let (mut input, mut since) = (0, Duration::ZERO);
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let (now, begun) = (cpu_time(Of::Process), BEGUN.load(Ordering::Relaxed));
        if begun != input {
            (input, since) = (begun, now);
        } else if now - since > 2 * MAX_TIME {
            eprintln!("seed {seed}: the {begun}th input, counted over the targets, never ends");
            std::process::abort();
        }
    }
}

/// Random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    7,
    0x7F,
    0xFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    1 << 32,
    u64::MAX >> 4,
    i64::MAX as u64,
    u64::MAX - 7,
    u64::MAX,
];

/// Changes an input a little, or crosses it with another.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len());
        match random.below(9) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => input[at] = random.next() as u8,
            2 => input.truncate(at),
            3 => input.insert(at, random.next() as u8),
            4 if !input.is_empty() => drop(input.remove(at)),
            5 | 6 => {
                let edge = EDGES[random.below(EDGES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(input.len() - at);
                input[at..at + width].copy_from_slice(&edge[..width]);
            }
            7 => {
                let end = at + random.below(input.len() - at + 1);
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let from = random.below(other.len());
                input.truncate(at);
                input.extend(&other[from..]);
            }
        }
        input.truncate(MAX_INPUT);
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = folder.read_dir().unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_input_brings_a_target_down() {
    let only = std::env::var("FERROCERIUM_FUZZ_TARGET").ok();
    let chosen: Vec<_> = (targets::TARGETS.iter())
        .filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
        .collect();
    assert!(!chosen.is_empty(), "FERROCERIUM_FUZZ_TARGET={only:?} is no target");
    let time = variable("FERROCERIUM_FUZZ_SECONDS")
        .map_or(Duration::from_millis(300), |s| Duration::from_secs(s) / chosen.len() as u32);
    let seed = variable("FERROCERIUM_FUZZ_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| now.as_nanos() as u64)
    });
    println!("FERROCERIUM_FUZZ_SEED={seed}");
    std::thread::spawn(move || watch(seed));
    for (name, target) in chosen {
        let mut random = Random(seed);
        // Inputs that mutations start from; new ones replace old ones, but for the seeds.
        let seeds = seeds(name);
        let mut pool = seeds.clone();
        let (begun, mut runs) = (cpu_time(Of::Thread), 0u64);
        let (mut slowest, mut most) = (Duration::ZERO, 0);
        while cpu_time(Of::Thread) - begun < time || runs < 100 {
            let other = pool[random.below(pool.len())].clone();
            let mut input = pool[random.below(pool.len())].clone();
            if runs >= seeds.len() as u64 {
                mutate(&mut input, &other, &mut random);
            } else {
                input.clone_from(&seeds[runs as usize]);
            }
            LARGEST.store(0, Ordering::Relaxed);
            BEGUN.fetch_add(1, Ordering::Relaxed);
            let started = cpu_time(Of::Thread);
            let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
            let took = cpu_time(Of::Thread) - started;
            let largest = LARGEST.load(Ordering::Relaxed);
            let fine = outcome.is_ok() && took < MAX_TIME && largest <= MAX_ALLOCATION;
            let hex: String = match fine {
                true => String::new(),
                false => input.iter().map(|byte| format!("{byte:02x}")).collect(),
            };
            assert!(fine, "{name}, seed {seed}, run {runs}: {took:?}, {largest} bytes: {hex}");
            (slowest, most) = (slowest.max(took), most.max(largest));
            if random.below(16) == 0 {
                match pool.len() {
                    0..64 => pool.push(input),
                    n => pool[seeds.len() + random.below(n - seeds.len())] = input,
                }
            }
            runs += 1;
        }
        println!(
            "{name}: {runs} inputs in {:.1} s of processor time, {:.1} ms and {} bytes at most",
            (cpu_time(Of::Thread) - begun).as_secs_f64(),
            slowest.as_secs_f64() * 1e3,
            most,
        );
    }
}
