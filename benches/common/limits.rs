//! What a machine can do at most, measured: the lines of a roofline.

use std::fmt;
use std::hint::black_box;

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

/// Memory beyond the largest caches of servers, which reach several hundred MB.
pub struct Memory {
    data: Vec<u64>,
    threads: usize,
}

impl Memory {
    /// To be read by threads, each a part.
    pub fn new(threads: usize) -> Self {
        Memory { data: vec![1; 1 << 27], threads }
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> f64 {
        (self.data.len() * 8) as f64
    }

    /// Reads all of it, and says how many seconds that took.
    pub fn read(&self) -> f64 {
        let part = self.data.len().div_ceil(self.threads);
        timed(|| {
            let parts: Vec<_> = self.data.chunks(part).collect();
            together(parts.len(), |i| {
                black_box(parts[i].iter().fold(0u64, |sum, x| sum.wrapping_add(*x)));
            });
        })
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
