//! A language model in prefill and decode:
//! `cargo bench --bench model -- MODEL [FORMAT…] [--json]`.
//!
//! Weights in each format, or those named, activations and cache in f32, all cores; medians of a few runs after a
//! warm-up. Prefill runs 512 tokens at once, decode one at a time behind 128. The limits are
//! measured in the same run: decode can not be faster than reading the weights once a token,
//! prefill not faster than two operations for each weight and token.

#[path = "../examples/common/mod.rs"]
#[allow(unused, reason = "the examples use all of it")]
mod common;
#[path = "common/mod.rs"]
mod limits;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use common::checkpoint::Checkpoint;
use common::llama::{Llama, Logits};
use common::weight_format::WeightFormat;
use ferrocerium::Device;
use limits::{Limits, middle};
use serde_json::json;

/// Tokens of a prompt, and of the context that decoding starts behind.
const PREFILL: usize = 512;
const CONTEXT: usize = 128;

/// Tokens that are decoded in a run, and runs.
const DECODED: usize = 32;
const RUNS: usize = 5;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let as_json = arguments.iter().any(|arg| arg == "--json");
    let mut names = arguments.iter().map(String::as_str).filter(|name| !name.starts_with("--"));
    let Some(path) = names.next() else {
        // `cargo bench` and `cargo test` run every bench, this one without a model.
        println!("no model: cargo bench --bench model -- MODEL");
        return Ok(());
    };
    let mut formats: Vec<&str> = names.collect();
    if formats.is_empty() {
        formats = vec!["f32", "bf16", "fp8", "mxfp8", "mxfp4", "nvfp4"];
    }
    let device = Device::cpu();
    let threads = device.caps().units;
    let limits = Limits::measure_on(threads);
    if !as_json {
        println!("{}", device.caps());
        println!("limits of {threads} threads: {limits}\n");
        println!(
            "{:<8} {:>8} {:>14} {:>9} {:>14} {:>9}",
            "weights", "MB", "prefill tok/s", "of limit", "decode tok/s", "of limit"
        );
    }
    let checkpoint = Checkpoint::open(&device, Path::new(path))?;
    let mut rows = Vec::new();
    for format in formats {
        let row = Row::measure(&checkpoint, format, &limits)
            .with_context(|| format!("measuring {format}"))?;
        if !as_json {
            println!("{}", row.line());
        }
        rows.push(row.json());
    }
    if as_json {
        let limits =
            json!({"threads": threads, "flops": limits.flops, "bytes_per_s": limits.bytes});
        println!("{}", json!({"caps": device.caps().to_string(), "limits": limits, "rows": rows}));
    }
    Ok(())
}

struct Row<'a> {
    format: &'a str,
    weight_bytes: usize,
    prefill: f64,
    prefill_limit: f64,
    decode: f64,
    decode_limit: f64,
}

impl<'a> Row<'a> {
    fn measure(checkpoint: &Checkpoint, format: &'a str, limits: &Limits) -> Result<Self> {
        let weights = WeightFormat::parse(format, None)?;
        let model = Llama::load(checkpoint, &weights, |_| ControlFlow::Continue(()))?;
        let tokens: Vec<u32> = (0..PREFILL).map(|i| (i * 7919 % model.vocab()) as u32).collect();
        let mut cache = model.cache(PREFILL.max(CONTEXT + DECODED))?;
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        for run in 0..RUNS + 1 {
            cache.clear();
            let start = Instant::now();
            model.forward(&tokens, &mut cache, Logits::Last)?;
            let at_once = start.elapsed().as_secs_f64() / PREFILL as f64;
            cache.clear();
            model.forward(&tokens[..CONTEXT], &mut cache, Logits::Last)?;
            let start = Instant::now();
            for token in &tokens[..DECODED] {
                model.forward(&[*token], &mut cache, Logits::Last)?;
            }
            let one_by_one = start.elapsed().as_secs_f64() / DECODED as f64;
            // The first run warms up.
            if run > 0 {
                prefill.push(at_once);
                decode.push(one_by_one);
            }
        }
        let (prefill, decode) = (1.0 / middle(prefill), 1.0 / middle(decode));
        let weight_bytes = model.weight_bytes();
        let decode_limit = limits.bytes / weight_bytes as f64;
        let prefill_limit = limits.flops / (2.0 * model.linear_weights() as f64);
        Ok(Row { format, weight_bytes, prefill, prefill_limit, decode, decode_limit })
    }

    fn line(&self) -> String {
        format!(
            "{:<8} {:>8.1} {:>14.1} {:>8.0}% {:>14.1} {:>8.0}%",
            self.format,
            self.weight_bytes as f64 / 1e6,
            self.prefill,
            100.0 * self.prefill / self.prefill_limit,
            self.decode,
            100.0 * self.decode / self.decode_limit,
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "weights": self.format, "weight_bytes": self.weight_bytes,
            "prefill_tok_s": self.prefill, "prefill_tokens": PREFILL,
            "prefill_share_of_limit": self.prefill / self.prefill_limit,
            "decode_tok_s": self.decode, "decode_context": CONTEXT,
            "decode_share_of_limit": self.decode / self.decode_limit,
        })
    }
}
