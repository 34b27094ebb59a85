//! Attention in prefill and decode: `cargo bench --bench attention [-- --json]`.
//!
//! Medians after a warm-up, on normal random values, one thread and all, outputs poisoned before
//! each run. The limits are measured in the same run: multiply-adds of registers only, and reading
//! memory larger than any cache, each on as many threads. Rows "at once" are as many attentions as
//! there are threads, each by a thread of its own: what threads that share nothing but the machine
//! reach together. The peer is the same attention as two matrix products by `matrixmultiply` for
//! each head, the heads shared out to as many threads, with the softmax left out: less work than
//! attention is.

mod common;

use common::{Limits, Report, assert_written, at_once, in_turn, poison, random, timed};
use ferrocerium::format::Nvfp4;
use ferrocerium::{Device, F8E4M3, Tensor, bf16};
use serde_json::json;

fn main() {
    let threads = Device::cpu().caps().units;
    let limits = [Limits::measure(1), Limits::measure(threads)];
    let header = format!(
        "{:<34} {:<6} {:<8} {:>7} {:>10} {:>10} {:>9} {:>9} {:>9}",
        "queries × keys, heads / kv, d",
        "kv",
        "",
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
            for row in rows(case, limits) {
                report.row(&row.line(), row.json());
            }
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

struct Row<'l> {
    case: Case,
    limits: &'l Limits,
    level: &'static str,
    seconds: f64,
    peer_seconds: f64,
}

/// On so many threads; and, where that is more than one, one each.
fn rows(case: Case, limits: &Limits) -> Vec<Row<'_>> {
    let threads = limits.threads;
    let on = |threads| {
        let device = Device::builder().threads(threads).cpu();
        Attending::new(&device.expect("threads are there"), case)
    };
    let mut all = on(threads);
    let mut peer = Peer::new(&all.out, case);
    let mut own: Vec<_> = (0..threads).filter(|_| threads > 1).map(|_| on(1)).collect();
    let (mut ours, mut theirs) = (|| (all.run)(), || peer.run());
    let row = |level, seconds, peer_seconds| Row { case, limits, level, seconds, peer_seconds };
    if own.is_empty() {
        let [ours, theirs] = in_turn([&mut ours, &mut theirs]);
        assert_written(&all.out);
        return vec![row("best", ours, theirs)];
    }
    let mut each = || at_once(&mut own, |own| (own.run)());
    let [ours, each, theirs] = in_turn([&mut ours, &mut each, &mut theirs]);
    assert_written(&all.out);
    own.iter().for_each(|own| assert_written(&own.out));
    // Of one attention, as if all threads had computed it.
    vec![row("best", ours, theirs), row("at once", each / threads as f64, theirs)]
}

impl Row<'_> {
    /// Multiply-adds of both products, twice, and bytes read and written.
    fn work(&self) -> (f64, f64) {
        let Case { queries, keys, heads, kv_heads, d, kv } = self.case;
        // Pairs of a query and a key that it sees.
        let pairs = queries * keys - queries * (queries - 1) / 2;
        let bits = match kv {
            "bf16" => 16.0,
            "fp8" => 8.0,
            "nvfp4" => 4.5,
            _ => 32.0,
        };
        let (kv, q) = ((keys * kv_heads * d) as f64, (queries * heads * d) as f64);
        ((4 * pairs * heads * d) as f64, 2.0 * kv * bits / 8.0 + 8.0 * q)
    }

    fn line(&self) -> String {
        let Case { queries, keys, heads, kv_heads, d, kv } = self.case;
        let (flops, bytes) = self.work();
        format!(
            "{:<34} {:<6} {:<8} {:>7} {:>10.3} {:>10.1} {:>9.2} {:>8.0}% {:>8.2}×",
            format!("{queries} × {keys}, {heads} / {kv_heads}, {d}"),
            kv,
            if self.level == "best" { "" } else { self.level },
            self.limits.threads,
            self.seconds * 1e3,
            flops / self.seconds / 1e9,
            bytes / self.seconds / 1e9,
            100.0 * self.limits.floor(flops, bytes) / self.seconds,
            self.peer_seconds / self.seconds,
        )
    }

    fn json(&self) -> serde_json::Value {
        let Case { queries, keys, heads, kv_heads, d, kv } = self.case;
        let (flops, bytes) = self.work();
        json!({
            "queries": queries, "keys": keys, "heads": heads, "kv_heads": kv_heads, "d": d,
            "kv": kv, "level": self.level, "threads": self.limits.threads, "seconds": self.seconds,
            "flops": flops / self.seconds, "operations": flops, "bytes": bytes,
            "share_of_limit": self.limits.floor(flops, bytes) / self.seconds,
            "peer": "matrixmultiply f32, both products, no softmax, heads on as many threads",
            "peer_seconds": self.peer_seconds,
        })
    }
}

/// Our attention on a device.
struct Attending {
    out: Tensor<f32, 4>,
    /// A run, and the seconds that it took.
    run: Box<dyn FnMut() -> f64 + Send>,
}

impl Attending {
    fn new(device: &Device, case: Case) -> Self {
        let q = random(device, [1, case.queries, case.heads, case.d]);
        let kv_shape = [1, case.keys, case.kv_heads, case.d];
        let (k, v) = (random(device, kv_shape), random(device, kv_shape));
        let out = Tensor::<f32, 4>::zeros(device, q.shape()).expect("memory");
        macro_rules! run {
            ($stored:expr) => {{
                let (k, v, out) = ($stored(&k), $stored(&v), out.clone());
                Box::new(move || {
                    poison(&out);
                    timed(|| q.attention(&k, &v).causal().run_into(&out).expect("sizes fit"))
                })
            }};
        }
        let run: Box<dyn FnMut() -> f64 + Send> = match case.kv {
            "bf16" => run!(|x: &Tensor<f32, 4>| x.cast::<bf16>().expect("a cast")),
            "fp8" => run!(|x: &Tensor<f32, 4>| x.cast::<F8E4M3>().expect("a cast")),
            "nvfp4" => run!(|x: &Tensor<f32, 4>| x.quantize::<Nvfp4>().expect("finite values")),
            _ => run!(|x: &Tensor<f32, 4>| x.clone()),
        };
        Attending { out, run }
    }
}

/// The peer's products of the same sizes.
struct Peer {
    case: Case,
    device: Device,
    /// Queries, keys and values.
    inputs: [Vec<f32>; 3],
    /// Of each thread memory for the scores and results of its heads.
    shares: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Peer {
    fn new(out: &Tensor<f32, 4>, case: Case) -> Self {
        let device = out.device().clone();
        let host = |shape| random(&device, shape).to_vec().expect("host");
        let kv_shape = [1, case.keys, case.kv_heads, case.d];
        let inputs = [host(out.shape()), host(kv_shape), host(kv_shape)];
        let memory = |_| (vec![0.0f32; case.queries * case.keys], vec![0.0f32; out.len()]);
        let each = Self::heads_each(&device, case);
        let shares = (0..case.heads).step_by(each).map(memory).collect();
        Peer { case, device, inputs, shares }
    }

    /// Heads of a thread.
    fn heads_each(device: &Device, case: Case) -> usize {
        case.heads.div_ceil(device.workers().threads())
    }

    /// The seconds of a run.
    fn run(&mut self) -> f64 {
        let Peer { case, device, inputs: [q, k, v], shares } = self;
        let (case, each) = (*case, Self::heads_each(device, *case));
        timed(|| {
            device.workers().chunks_mut(shares, 1, |share, memory| {
                let (scores, out) = &mut memory[0];
                for head in share * each..case.heads.min((share + 1) * each) {
                    let kv_head = head / (case.heads / case.kv_heads);
                    let (q, k) = (&q[head * case.d..], &k[kv_head * case.d..]);
                    let (v, out) = (&v[kv_head * case.d..], &mut out[head * case.d..]);
                    both_products(case, q, k, v, scores, out);
                }
            });
        })
    }
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
