//! Matrix products side by side with `matrixmultiply`: `cargo bench --bench gemm [-- --json]`.
//!
//! Both run on one thread in turn, A B A B; medians after a warm-up, on normal random values, with
//! outputs poisoned before each run. The limits are measured in the same run: multiply-adds of
//! registers only, and reading memory larger than any cache.

mod common;

use std::time::Instant;

use common::{Limits, RUNS, middle, random};

use ferrocerium::format::Nvfp4;
use ferrocerium::tensor::MatOperand;
use ferrocerium::{Device, Tensor, bf16};
use serde_json::json;

fn main() {
    let as_json = std::env::args().any(|arg| arg == "--json");
    let device = Device::builder().threads(1).cpu().expect("one thread is valid");
    let limits = Limits::measure();
    if !as_json {
        println!("{}", device.caps());
        println!("limits of one thread: {limits}\n");
        println!(
            "{:<22} {:<8} {:>10} {:>10} {:>9} {:>9} {:>9}",
            "m × n × k", "B", "ms", "GFLOP/s", "GB/s", "of limit", "vs peer"
        );
    }
    let mut rows = Vec::new();
    for (m, n, k) in [(256, 256, 256), (1024, 1024, 1024), (128, 4096, 4096), (1, 4096, 4096)] {
        for kind in ["f32", "bf16", "nvfp4"] {
            rows.push(Row::measure(&device, (m, n, k), kind, &limits));
            if !as_json {
                println!("{}", rows[rows.len() - 1].line());
            }
        }
    }
    if as_json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        let limits = json!({"flops": limits.flops, "bytes_per_s": limits.bytes});
        println!("{}", json!({"caps": device.caps().to_string(), "limits": limits, "rows": rows}));
    }
}

struct Row {
    sizes: (usize, usize, usize),
    kind: &'static str,
    seconds: f64,
    peer_seconds: f64,
    bytes: usize,
    floor: f64,
}

impl Row {
    fn measure(
        device: &Device,
        (m, n, k): (usize, usize, usize),
        kind: &'static str,
        limits: &Limits,
    ) -> Self {
        let a = random(device, [m, k]);
        let w = random(device, [n, k]);
        let (seconds, peer_seconds, weight_bytes) = match kind {
            "bf16" => {
                let w16 = w.cast::<bf16>().expect("a cast");
                let (ours, peer) = pair(&a, &w16.t(), &w);
                (ours, peer, w.len() * 2)
            }
            "nvfp4" => {
                let w4 = w.quantize::<Nvfp4>().expect("finite values");
                let (ours, peer) = pair(&a, &w4.t(), &w);
                (ours, peer, w4.bytes())
            }
            _ => {
                let (ours, peer) = pair(&a, &w.t(), &w);
                (ours, peer, w.len() * 4)
            }
        };
        let bytes = weight_bytes + (m * k + m * n) * 4;
        let floor = (2.0 * (m * n * k) as f64 / limits.flops).max(bytes as f64 / limits.bytes);
        Row { sizes: (m, n, k), kind, seconds, peer_seconds, bytes, floor }
    }

    fn flops(&self) -> f64 {
        let (m, n, k) = self.sizes;
        2.0 * (m * n * k) as f64 / self.seconds
    }

    fn line(&self) -> String {
        let (m, n, k) = self.sizes;
        format!(
            "{:<22} {:<8} {:>10.3} {:>10.1} {:>9.2} {:>8.0}% {:>8.2}×",
            format!("{m} × {n} × {k}"),
            self.kind,
            self.seconds * 1e3,
            self.flops() / 1e9,
            self.bytes as f64 / self.seconds / 1e9,
            100.0 * self.floor / self.seconds,
            self.peer_seconds / self.seconds,
        )
    }

    fn json(&self) -> serde_json::Value {
        let (m, n, k) = self.sizes;
        json!({
            "m": m, "n": n, "k": k, "b": self.kind, "seconds": self.seconds,
            "flops": self.flops(), "bytes": self.bytes, "share_of_limit": self.floor / self.seconds,
            "peer": "matrixmultiply f32", "peer_seconds": self.peer_seconds,
        })
    }
}

/// Our product with `b`, and the peer's f32 product with `w` transposed, in turn.
fn pair(a: &Tensor<f32, 2>, b: &impl MatOperand<2>, w: &Tensor<f32, 2>) -> (f64, f64) {
    let ([m, k], [n, _]) = (a.shape(), w.shape());
    let out = Tensor::<f32, 2>::zeros(a.device(), [m, n]).expect("memory");
    let (a_host, w_host) = (a.to_vec().expect("host"), w.to_vec().expect("host"));
    let mut peer_out = vec![f32::NAN; m * n];
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for run in 0..RUNS + 1 {
        out.host_mut().expect("no guards").for_each_mut(|_, x| *x = f32::NAN);
        let start = Instant::now();
        a.gemm(b).run_into(&out).expect("sizes fit");
        let mine = start.elapsed().as_secs_f64();
        peer_out.fill(f32::NAN);
        let start = Instant::now();
        // SAFETY: the slices have m·k, n·k and m·n elements, and the strides stay inside.
        unsafe {
            matrixmultiply::sgemm(
                m,
                k,
                n,
                1.0,
                a_host.as_ptr(),
                k as isize,
                1,
                w_host.as_ptr(),
                1,
                k as isize,
                0.0,
                peer_out.as_mut_ptr(),
                n as isize,
                1,
            );
        }
        let theirs = start.elapsed().as_secs_f64();
        // The first run warms up.
        if run > 0 {
            ours.push(mine);
            peers.push(theirs);
        }
    }
    assert!(!out.to_vec().expect("host").iter().any(|x| x.is_nan()), "an output was not written");
    (middle(ours), middle(peers))
}
