//! What a machine can do at most, measured: the lines of a roofline.

use std::fmt;
use std::hint::black_box;

use ferrocerium::Device;
use ferrocerium::memory::Buffer;
use serde_json::{Value, json};

use super::{median, timed};

/// What some threads can do at most.
pub struct Limits {
    /// How many threads.
    pub threads: usize,
    /// Floating-point operations a second: multiply-adds between registers.
    pub flops: f64,
    /// Bytes a second, read from memory larger than any cache.
    pub bytes: f64,
}

impl Limits {
    /// What threads can do together, each measuring at the same time.
    pub fn measure(threads: usize) -> Self {
        let memory = Memory::new(threads);
        let flops = together(threads, |_| peak_flops()).into_iter().sum();
        Limits { threads, flops, bytes: memory.bytes() / median(|| memory.read()) }
    }

    /// Seconds that so many operations and bytes take at least.
    pub fn floor(&self, flops: f64, bytes: f64) -> f64 {
        (flops / self.flops).max(bytes / self.bytes)
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({"threads": self.threads, "flops": self.flops, "bytes_per_s": self.bytes})
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flops, bytes) = (self.flops / 1e9, self.bytes / 1e9);
        let s = if self.threads == 1 { "" } else { "s" };
        write!(f, "{} thread{s}: {flops:.1} GFLOP/s, {bytes:.1} GB/s read", self.threads)
    }
}

/// Memory beyond the largest caches of servers, which reach several hundred MB; such as tensors
/// have, for the size of its pages decides how fast it is read.
pub struct Memory {
    buffer: Buffer,
    threads: usize,
}

impl Memory {
    /// To be read by threads, each a part.
    pub fn new(threads: usize) -> Self {
        let buffer = Device::cpu().allocate(1 << 30, "read").expect("memory");
        // Pages that nobody has written may all be the same one.
        buffer.write().expect("no guards").fill(1);
        Memory { buffer, threads }
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> f64 {
        self.buffer.len() as f64
    }

    /// Reads all of it, and says how many seconds that took.
    ///
    /// Each thread reads in several places in turn, and asks for what it reads next: otherwise it
    /// waits for more than memory, and kernels that ask ahead are faster than this.
    pub fn read(&self) -> f64 {
        const PLACES: usize = 4;
        let bytes = self.buffer.read().expect("no guards");
        let lines = bytes.as_chunks::<64>().0;
        let parts: Vec<_> = lines.chunks(lines.len().div_ceil(self.threads)).collect();
        timed(|| {
            together(parts.len(), |i| {
                let places: Vec<_> = parts[i].chunks(parts[i].len().div_ceil(PLACES)).collect();
                let mut sums = [0u64; 8];
                for line in 0..places[0].len() {
                    for place in &places {
                        ask_for(place.as_ptr().wrapping_add(line + AHEAD));
                        let Some(line) = place.get(line) else { continue };
                        for (sum, word) in sums.iter_mut().zip(line.as_chunks().0) {
                            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
                        }
                    }
                }
                black_box(sums);
            });
        })
    }
}

/// Lines that are asked for ahead of the one that is read.
const AHEAD: usize = 64;

/// Asks memory for a line, where the processor can be told to.
fn ask_for<T>(_line: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, of any address; SSE is part of the baseline.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(_line.cast());
    }
}

/// What each of some threads finds at the same time.
fn together<T: Send>(threads: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|i| {
                scope.spawn({
                    let f = &f;
                    move || f(i)
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().expect("it measures")).collect()
    })
}

/// Independent chains of multiply-adds: more than latency × units of any processor.
const CHAINS: usize = 12;
const STEPS: usize = 1 << 20;

fn peak_flops() -> f64 {
    let rate = |lanes: usize, seconds: f64| (2 * lanes * CHAINS * STEPS) as f64 / seconds;
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: AVX-512 F was just detected.
            return rate(16, median(|| timed(|| unsafe { chains_avx512() })));
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: AVX2 and FMA were just detected.
            return rate(8, median(|| timed(|| unsafe { chains_avx2() })));
        }
    }
    rate(4, median(|| timed(chains_portable)))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains_avx512() {
    use std::arch::x86_64::*;
    let (a, b) = (black_box(_mm512_set1_ps(0.999)), black_box(_mm512_set1_ps(1e-6)));
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, a, b);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_avx2() {
    use std::arch::x86_64::*;
    let (a, b) = (black_box(_mm256_set1_ps(0.999)), black_box(_mm256_set1_ps(1e-6)));
    let mut sums = [_mm256_setzero_ps(); CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, a, b);
        }
    }
    black_box(sums);
}

/// Four lanes of multiply and add, as the baseline of most architectures has.
fn chains_portable() {
    let (a, b) = (black_box([0.999f32; 4]), black_box([1e-6f32; 4]));
    let mut sums = [[0.0f32; 4]; CHAINS];
    for _ in 0..STEPS {
        for sum in &mut sums {
            for lane in 0..4 {
                sum[lane] = sum[lane] * a[lane] + b[lane];
            }
        }
    }
    black_box(sums);
}
