//! What a machine can do at most, measured: the lines of a roofline.

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use ferrocerium::{Device, Tensor};

/// Runs that a median is taken of.
pub const RUNS: usize = 7;

/// What some threads can do at most.
pub struct Limits {
    /// Floating-point operations a second: multiply-adds between registers.
    pub flops: f64,
    /// Bytes a second, read from memory larger than any cache.
    pub bytes: f64,
}

impl Limits {
    /// Measures both for one thread.
    pub fn measure() -> Self {
        // Beyond the largest caches of servers, which reach several hundred MB.
        let data = vec![1u64; 1 << 27];
        let read = median(|| {
            black_box(data.iter().fold(0u64, |sum, x| sum.wrapping_add(*x)));
        });
        Limits { flops: peak_flops(), bytes: (data.len() * 8) as f64 / read }
    }

    /// What several threads can do together, each measuring at the same time.
    #[allow(dead_code, reason = "not every bench runs on several threads")]
    pub fn measure_on(threads: usize) -> Self {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(Limits::measure)).collect();
            let limits = running.into_iter().map(|thread| thread.join().expect("it measures"));
            limits.fold(Limits { flops: 0.0, bytes: 0.0 }, |sum, one| Limits {
                flops: sum.flops + one.flops,
                bytes: sum.bytes + one.bytes,
            })
        })
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} GFLOP/s, {:.1} GB/s read", self.flops / 1e9, self.bytes / 1e9)
    }
}

/// Normal values, the same in every run.
#[allow(dead_code, reason = "not every bench makes its own tensors")]
pub fn random<const R: usize>(device: &Device, shape: [usize; R]) -> Tensor<f32, R> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let normal = |_| {
        let (u, v) = (uniform().max(1e-300), uniform());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    };
    Tensor::from_fn(device, shape, normal).expect("memory")
}

/// The median time of a few runs after a warm-up, in seconds.
pub fn median(mut f: impl FnMut()) -> f64 {
    f();
    let time = || {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    middle(std::iter::repeat_with(time).take(RUNS).collect())
}

/// The median of some times.
pub fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
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
            return rate(16, median(|| unsafe { chains_avx512() }));
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            // SAFETY: AVX2 and FMA were just detected.
            return rate(8, median(|| unsafe { chains_avx2() }));
        }
    }
    rate(4, median(chains_portable))
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
