//! Matrix products by this library and by other crates, in turn:
//! `cargo run --release [-- --json]` in this folder.
//!
//! The same f32, bf16 or f16 operands, `[m, k]` times the transpose of `[n, k]`, and results of
//! their type, on all cores each; medians after a warm-up, on normal random values, with outputs
//! poisoned before each run where the crate writes into memory of the caller's. The limits are
//! measured in the same run.

#[path = "../../common/mod.rs"]
mod common;
mod products;

use common::{Limits, Report, in_turn_all};
use ferrocerium::{Device, bf16, f16};
use products::{Element, Operands};
use serde_json::json;

const SIZES: [[usize; 3]; 5] =
    [[256, 256, 256], [1024, 1024, 1024], [2048, 2048, 2048], [128, 4096, 4096], [1, 4096, 4096]];

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS", "MATMUL_NUM_THREADS"] {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var(name, threads.to_string()) };
    }
    let device = Device::builder().threads(threads).cpu().expect("at least one thread");
    let limits = Limits::measure(threads);
    let header = format!(
        "{:<22} {:<5} {:<15} {:>10} {:>9} {:>9} {:>13}",
        "m × n × k", "type", "crate", "ms", "GFLOP/s", "of limit", "ours is faster"
    );
    let mut report = Report::new(&device, &[&limits], &header);
    for sizes in SIZES {
        measure::<f32>(&device, sizes, &limits, &mut report);
        measure::<bf16>(&device, sizes, &limits, &mut report);
        measure::<f16>(&device, sizes, &limits, &mut report);
    }
    report.finish();
}

fn measure<E: Element>(device: &Device, sizes: [usize; 3], limits: &Limits, report: &mut Report) {
    let [m, n, k] = sizes;
    let operands = Operands::<E>::random(device, sizes);
    let mut products = operands.products();
    let times = {
        let mut runs: Vec<_> =
            products.iter_mut().map(|(_, run)| &mut **run as &mut dyn FnMut() -> f64).collect();
        in_turn_all(&mut runs)
    };
    let operations = 2.0 * (m * n * k) as f64;
    let bytes = ((m * k + n * k + m * n) * size_of::<E>()) as f64;
    for ((name, _), &seconds) in products.iter().zip(&times) {
        let share = limits.floor(operations, bytes) / seconds;
        // Ours is the first.
        let ratio = seconds / times[0];
        let line = format!(
            "{:<22} {:<5} {name:<15} {:>10.3} {:>9.1} {:>8.0}% {:>12.2}×",
            format!("{m} × {n} × {k}"),
            E::NAME,
            seconds * 1e3,
            operations / seconds / 1e9,
            100.0 * share,
            ratio,
        );
        let json = json!({
            "m": m, "n": n, "k": k, "type": E::NAME, "crate": name, "threads": limits.threads,
            "seconds": seconds, "flops": operations / seconds, "operations": operations,
            "bytes": bytes, "share_of_limit": share, "ours_is_faster": ratio,
        });
        report.row(&line, json);
    }
}
