//! Few rows times weights of every type, as language models multiply word by word:
//! `cargo bench --bench gemv [-- --json]`.
//!
//! All threads; medians after a warm-up, on normal random values, with outputs poisoned before each
//! run. Every run passes over copies of the weights that are more than caches hold, and every
//! other run only reads as many bytes of memory: weights can not be multiplied with faster than
//! they are read.

mod common;

use common::{
    Limits, Memory, Report, assert_written, in_turn, kind_of, poison, random, stored_as, timed,
};
use ferrocerium::op::{Gemm, Op};
use ferrocerium::{AnyTensor, Device, Tensor};
use serde_json::json;

const N: usize = 4096;
const K: usize = 4096;

/// Bytes of all copies together, at least: more than a machine's caches hold by far, for part of
/// what they hold is found there again.
const WORKING_SET: usize = 1 << 30;

const ROWS: [usize; 5] = [1, 2, 4, 8, 16];

/// Types of weights; behind a `/` what activations are rounded to.
const KINDS: [&str; 13] = [
    "f32",
    "bf16",
    "f16",
    "f8e4m3",
    "f8e5m2",
    "fp8",
    "fp8row",
    "fp8block128",
    "mxfp8",
    "mxfp4",
    "nvfp4",
    "mxfp4/int8",
    "nvfp4/int8",
];

fn main() {
    let device = Device::cpu();
    let limits = Limits::measure(device.caps().units);
    let header = format!(
        "{:<20} {:<12} {:>10} {:>9} {:>9} {:>9}",
        "m × n × k", "B", "ms", "GFLOP/s", "GB/s", "of limit"
    );
    let mut report = Report::new(&device, &[&limits], &header);
    let memory = Memory::new(limits.threads);
    let weights = AnyTensor::from(random(&device, [N, K]));
    for kind in KINDS {
        let (format, device) = kind_of(&device, kind);
        let one = stored_as(&weights, format);
        let bytes = one.bytes();
        let more = (1..WORKING_SET.div_ceil(bytes)).map(|_| stored_as(&weights, format));
        let copies: Vec<_> = std::iter::once(one).chain(more).collect();
        for m in ROWS {
            measure(&device, &copies, (kind, m), &memory, &limits, &mut report);
        }
    }
    report.finish();
}

fn measure(
    device: &Device,
    copies: &[AnyTensor],
    (kind, m): (&str, usize),
    memory: &Memory,
    limits: &Limits,
    report: &mut Report,
) {
    let x = random(device, [m, K]);
    let out = Tensor::<f32, 2>::zeros(device, [m, N]).expect("memory");
    let products: Vec<Op> = {
        let transposed = copies.iter().map(|b| b.t().expect("a matrix").operand().clone());
        transposed.map(|b| Gemm::new(x.operand(), b, out.operand()).into()).collect()
    };
    let mut product = || {
        poison(&out);
        timed(|| products.iter().for_each(|op| device.run(op).expect("sizes fit")))
    };
    let [seconds, reading] = in_turn([&mut product, &mut || memory.read()]);
    assert_written(&out);
    let seconds = seconds / copies.len() as f64;
    let bytes = (copies[0].bytes() + (m * K + m * N) * 4) as f64;
    let flops = 2.0 * (m * N * K) as f64;
    let bandwidth = memory.bytes() / reading;
    let share = (bytes / bandwidth).max(flops / limits.flops) / seconds;
    let line = format!(
        "{:<20} {kind:<12} {:>10.3} {:>9.1} {:>9.2} {:>8.0}%",
        format!("{m} × {N} × {K}"),
        seconds * 1e3,
        flops / seconds / 1e9,
        bytes / seconds / 1e9,
        100.0 * share,
    );
    let json = json!({
        "m": m, "n": N, "k": K, "b": kind, "seconds": seconds, "flops": flops / seconds,
        "operations": flops, "bytes": bytes, "read_bytes_per_s": bandwidth,
        "share_of_limit": share,
    });
    report.row(&line, json);
}
