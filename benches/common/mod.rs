//! What the benches share: limits of the machine, values, medians, tables.
#![allow(dead_code, unused_imports, reason = "not every bench uses all of it")]

mod limits;
mod report;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ferrocerium::format::{Format, Quantizer};
use ferrocerium::registry::{Numerics, Request};
use ferrocerium::{AnyTensor, DType, Device, Tensor};

pub use limits::{Limits, Memory};
pub use report::Report;

/// Runs that a median is taken of.
pub const RUNS: usize = 7;

/// Normal values, the same in every run.
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

/// A kind of weights `FORMAT`, or `FORMAT/int8` where products may round activations to int8: the
/// name of the format, and a handle to the device for such products.
pub fn kind_of<'k>(device: &Device, kind: &'k str) -> (&'k str, Device) {
    let (format, numerics) = match kind.strip_suffix("/int8") {
        Some(format) => (format, Numerics::NarrowedOperands),
        None => (kind, Numerics::AsGiven),
    };
    let request = Request { numerics, ..device.request().clone() };
    (format, device.with_request(request))
}

/// Values in the type, or block format, of that name.
pub fn stored_as(values: &AnyTensor, name: &str) -> AnyTensor {
    if let Ok(dtype) = name.parse::<DType>() {
        return values.cast(dtype).expect("a cast");
    }
    let format: Format = name.parse().expect("a type or a format");
    values.quantize(format, Quantizer::default_for(format)).expect("finite values")
}

/// More than a program's threads take to go to sleep.
const REST: Duration = Duration::from_millis(2);

/// Overwrites a result, so that what is not written shows.
pub fn poison<const R: usize>(out: &Tensor<f32, R>) {
    out.host_mut().expect("no guards").for_each_mut(|_, x| *x = f32::NAN);
}

/// Fails where a poisoned result was not written whole.
pub fn assert_written<const R: usize>(out: &Tensor<f32, R>) {
    let all = out.to_vec().expect("host").iter().all(|x| !x.is_nan());
    assert!(all, "an output was not written");
}

/// The seconds that something takes.
pub fn timed(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

/// The median of what a few runs say they took, after a warm-up.
pub fn median(mut f: impl FnMut() -> f64) -> f64 {
    in_turn([&mut f])[0]
}

/// The medians of what each says it took, run in turn, A B A B, after a warm-up of each: machines
/// change their speed within minutes.
pub fn in_turn<const N: usize>(mut programs: [&mut dyn FnMut() -> f64; N]) -> [f64; N] {
    let times = in_turn_all(&mut programs);
    times.try_into().expect("a time of each")
}

/// As [`in_turn`].
pub fn in_turn_all(programs: &mut [&mut dyn FnMut() -> f64]) -> Vec<f64> {
    let mut times = vec![Vec::new(); programs.len()];
    let alone = programs.len() == 1;
    for run in 0..RUNS + 1 {
        for (f, times) in programs.iter_mut().zip(&mut times) {
            if !alone {
                // Threads of the one before stay awake for a while, and its own may sleep.
                let start = Instant::now();
                while start.elapsed() < REST {
                    f();
                }
            }
            let seconds = f();
            // The first run warms up.
            if run > 0 {
                times.push(seconds);
            }
        }
    }
    times.into_iter().map(middle).collect()
}

/// Seconds for which each of several threads at least runs a program of its own: longer than they
/// take to begin.
const AT_ONCE: f64 = 2e-3;

/// The mean of the seconds that each of some programs takes, a thread each, all at the same time.
pub fn at_once<P: Send>(programs: &mut [P], run: impl Fn(&mut P) -> f64 + Sync) -> f64 {
    let (threads, ready) = (programs.len(), AtomicUsize::new(0));
    let each = |program: &mut P| {
        ready.fetch_add(1, Ordering::Relaxed);
        while ready.load(Ordering::Relaxed) < threads {
            std::hint::spin_loop();
        }
        let (mut runs, mut seconds) = (0, 0.0);
        while seconds < AT_ONCE {
            seconds += run(program);
            runs += 1;
        }
        seconds / f64::from(runs)
    };
    let seconds: f64 = thread::scope(|scope| {
        let running: Vec<_> = programs.iter_mut().map(|p| scope.spawn(|| each(p))).collect();
        running.into_iter().map(|thread| thread.join().expect("it measures")).sum()
    });
    seconds / threads as f64
}

/// The median of some times.
pub fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
