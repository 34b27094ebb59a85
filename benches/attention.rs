//! Attention in prefill and decode: `cargo bench --bench attention [-- --json]`.
//!
//! Medians after a warm-up, on normal random values, one thread and all, outputs poisoned before
//! each run. The limits are measured in the same run: multiply-adds of registers only, and reading
//! memory larger than any cache, each on as many threads. The peer is the same attention as two matrix products
//! by `matrixmultiply` for each head, the heads shared out to as many threads, with the softmax left
//! out: less work than attention is.

mod common;

use common::{Limits, Report, assert_written, in_turn, poison, random, timed};
use ferrocerium::format::Nvfp4;
use ferrocerium::tensor::MatOperand;
use ferrocerium::{Device, F8E4M3, Tensor, bf16};
use serde_json::json;

fn main() {
    let threads = Device::cpu().caps().units;
    let limits = [Limits::measure(1), Limits::measure(threads)];
    let header = format!(
        "{:<34} {:<6} {:>7} {:>10} {:>10} {:>9} {:>9} {:>9}",
        "queries × keys, heads / kv, d",
        "kv",
        "threads",
        "ms",
        "GFLOP/s",
        "GB/s",
        "of limit",
        "vs peer"
    );
    let mut report = Report::new(&Device::cpu(), &limits.each_ref(), &header);
    for case in CASES {
        for limits in &limits {
            let device = Device::builder().threads(limits.threads).cpu();
            let row = Row::measure(&device.expect("threads are there"), case, limits);
            report.row(&row.line(), row.json());
        }
    }
    report.finish();
}

/// Causal attention of the last `queries` positions.
#[derive(Clone, Copy)]
struct Case {
    queries: usize,
    keys: usize,
    heads: usize,
    kv_heads: usize,
    d: usize,
    kv: &'static str,
}

const fn case(queries: usize, keys: usize, kv: &'static str) -> Case {
    Case { queries, keys, heads: 12, kv_heads: 4, d: 64, kv }
}

const CASES: [Case; 9] = [
    case(512, 512, "f32"),
    case(2048, 2048, "f32"),
    case(2048, 2048, "bf16"),
    Case { heads: 16, kv_heads: 4, d: 128, ..case(2048, 2048, "f32") },
    case(1, 512, "f32"),
    case(1, 32768, "f32"),
    case(1, 32768, "bf16"),
    case(1, 32768, "fp8"),
    case(1, 32768, "nvfp4"),
];

struct Row {
    case: Case,
    threads: usize,
    seconds: f64,
    peer_seconds: f64,
    flops: f64,
    bytes: f64,
    floor: f64,
}

impl Row {
    fn measure(device: &Device, case: Case, limits: &Limits) -> Self {
        let q = random(device, [1, case.queries, case.heads, case.d]);
        let kv_shape = [1, case.keys, case.kv_heads, case.d];
        let (k, v) = (random(device, kv_shape), random(device, kv_shape));
        let (times, bits) = match case.kv {
            "bf16" => {
                let cast = |x: &Tensor<f32, 4>| x.cast::<bf16>().expect("a cast");
                (measure(case, &q, &cast(&k), &cast(&v), (&k, &v)), 16.0)
            }
            "fp8" => {
                let cast = |x: &Tensor<f32, 4>| x.cast::<F8E4M3>().expect("a cast");
                (measure(case, &q, &cast(&k), &cast(&v), (&k, &v)), 8.0)
            }
            "nvfp4" => {
                let quantize = |x: &Tensor<f32, 4>| x.quantize::<Nvfp4>().expect("finite values");
                (measure(case, &q, &quantize(&k), &quantize(&v), (&k, &v)), 4.5)
            }
            _ => (measure(case, &q, &k, &v, (&k, &v)), 32.0),
        };
        // Pairs of a query and a key that it sees; both products.
        let pairs = case.queries * case.keys - case.queries * (case.queries - 1) / 2;
        let flops = (4 * pairs * case.heads * case.d) as f64;
        let bytes = (2 * k.len()) as f64 * bits / 8.0 + (2 * q.len() * 4) as f64;
        let floor = limits.floor(flops, bytes);
        Row {
            case,
            threads: limits.threads,
            seconds: times.0,
            peer_seconds: times.1,
            flops,
            bytes,
            floor,
        }
    }

    fn line(&self) -> String {
        let Case { queries, keys, heads, kv_heads, d, kv } = self.case;
        format!(
            "{:<34} {:<6} {:>7} {:>10.3} {:>10.1} {:>9.2} {:>8.0}% {:>8.2}×",
            format!("{queries} × {keys}, {heads} / {kv_heads}, {d}"),
            kv,
            self.threads,
            self.seconds * 1e3,
            self.flops / self.seconds / 1e9,
            self.bytes / self.seconds / 1e9,
            100.0 * self.floor / self.seconds,
            self.peer_seconds / self.seconds,
        )
    }

    fn json(&self) -> serde_json::Value {
        let Case { queries, keys, heads, kv_heads, d, kv } = self.case;
        json!({
            "queries": queries, "keys": keys, "heads": heads, "kv_heads": kv_heads, "d": d,
            "kv": kv, "threads": self.threads, "seconds": self.seconds, "flops": self.flops / self.seconds,
            "operations": self.flops, "bytes": self.bytes,
            "share_of_limit": self.floor / self.seconds,
            "peer": "matrixmultiply f32, both products, no softmax, heads on as many threads",
            "peer_seconds": self.peer_seconds,
        })
    }
}

/// Our attention, and the peer's products of the same sizes, in turn.
fn measure(
    case: Case,
    q: &Tensor<f32, 4>,
    k: &impl MatOperand<4>,
    v: &impl MatOperand<4>,
    (k_f32, v_f32): (&Tensor<f32, 4>, &Tensor<f32, 4>),
) -> (f64, f64) {
    let out = Tensor::<f32, 4>::zeros(q.device(), q.shape()).expect("memory");
    let host = |x: &Tensor<f32, 4>| x.to_vec().expect("host");
    let (q_host, k_host, v_host) = (host(q), host(k_f32), host(v_f32));
    let workers = q.device().workers();
    // Each thread of the peer has heads of its own, and memory for their scores and results.
    let each = case.heads.div_ceil(workers.threads());
    let memory = || (vec![0.0f32; case.queries * case.keys], vec![0.0f32; q.len()]);
    let mut shares: Vec<_> = (0..case.heads).step_by(each).map(|_| memory()).collect();
    let mut ours = || {
        poison(&out);
        timed(|| q.attention(k, v).causal().run_into(&out).expect("sizes fit"))
    };
    let mut peer = || {
        timed(|| {
            workers.chunks_mut(&mut shares, 1, |share, memory| {
                let (scores, out) = &mut memory[0];
                for head in share * each..case.heads.min((share + 1) * each) {
                    let kv_head = head / (case.heads / case.kv_heads);
                    let (q, k) = (&q_host[head * case.d..], &k_host[kv_head * case.d..]);
                    let (v, out) = (&v_host[kv_head * case.d..], &mut out[head * case.d..]);
                    both_products(case, q, k, v, scores, out);
                }
            });
        })
    };
    let [ours, peer] = in_turn([&mut ours, &mut peer]);
    assert_written(&out);
    (ours, peer)
}

/// `scores = q·kᵀ`, `out = scores·v`, of one head.
fn both_products(case: Case, q: &[f32], k: &[f32], v: &[f32], scores: &mut [f32], out: &mut [f32]) {
    let Case { queries, keys, heads, kv_heads, d, .. } = case;
    let (row, kv_row) = ((heads * d) as isize, (kv_heads * d) as isize);
    // SAFETY: `queries` rows of `q` and `out` and `keys` rows of `k` and `v`, each of `d` elements
    // at its stride, and `queries · keys` scores: what the slices hold.
    unsafe {
        let (q, k, v) = (q.as_ptr(), k.as_ptr(), v.as_ptr());
        let (s, o) = (scores.as_mut_ptr(), out.as_mut_ptr());
        let n = keys as isize;
        matrixmultiply::sgemm(queries, d, keys, 1.0, q, row, 1, k, 1, kv_row, 0.0, s, n, 1);
        matrixmultiply::sgemm(queries, keys, d, 1.0, s, n, 1, v, kv_row, 1, 0.0, o, row, 1);
    }
}
