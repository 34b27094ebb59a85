//! A language model in prefill and decode:
//! `cargo bench --bench model -- MODEL [FORMAT…] [--json]`.
//!
//! Weights in each format, or those named, activations and cache in f32; medians of a few runs
//! after a warm-up. Prefill runs 512 tokens at once, decode 128 one by one, from an empty cache, as
//! `llama-bench` does. The limits are measured in the same run: decode can not be faster than
//! reading the weights once a token, prefill not faster than two operations for each weight and
//! token. The head stays at 16 bits or more unless `--head` names a block format. Products of
//! `FORMAT/int8` round activations to int8.
//!
//! What limits decode with NVFP4 weights (AVX-512 on Zen 4, one core at 3.6 GHz, rows of 576): a
//! core unpacks and multiplies 16 weights in 2.0 cycles where they are in its second-level cache,
//! which is what the three vector instructions of the loop (shift by lane, look-up in the scale's
//! row of products, multiply and add) take, and in 2.5 (pages of 2 MiB) to 2.7 (of 4 KiB) where
//! they come from memory: 12 to 13 GB/s, half of what it reads. The stored layout is read in order
//! of addresses already; another one would save no instruction, so none is made. A bf16 head streams
//! at 34 to 37 GB/s by itself, at some 23 within the model. Of a token's time on one thread three
//! quarters are these loops; attention takes 8%, choosing and checking operations and their memory
//! 8%, what is left are norms, rotations and epilogues.

#[path = "../examples/common/mod.rs"]
#[allow(unused, reason = "the examples use all of it")]
mod common;
#[path = "common/mod.rs"]
mod measure;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use common::checkpoint::Checkpoint;
use common::llama::{Llama, Logits};
use common::weight_format::WeightFormat;
use ferrocerium::Device;
use ferrocerium::registry::Numerics;
use measure::{Limits, Report, kind_of, middle};
use serde_json::json;

/// Tokens of a prompt, and those that are decoded.
const PREFILL: usize = 512;
const DECODED: usize = 128;

#[derive(Parser)]
struct Cli {
    /// GGUF file or folder; without one nothing is measured
    model: Option<PathBuf>,
    /// Types of the weights
    #[arg(default_values = [
        "f32", "bf16", "fp8", "mxfp8", "mxfp4", "mxfp4/int8", "nvfp4", "nvfp4/int8",
    ])]
    formats: Vec<String>,
    /// A block format for the head
    #[arg(long, value_name = "FORMAT")]
    head: Option<String>,
    /// Multiply q, k and v, and gate and up, each by itself, not as one matrix where formats allow
    #[arg(long)]
    no_join: bool,
    /// Threads (default: one per core)
    #[arg(long)]
    threads: Option<usize>,
    /// Runs that a median is taken of
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Said by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let Some(path) = &cli.model else {
        // `cargo bench` and `cargo test` run every bench, this one without a model.
        println!("no model: cargo bench --bench model -- MODEL");
        return Ok(());
    };
    let mut builder = Device::builder();
    if let Some(threads) = cli.threads {
        builder = builder.threads(threads);
    }
    let device = builder.cpu()?;
    let limits = Limits::measure(device.caps().units);
    let header = format!(
        "{:<10} {:>8} {:>14} {:>9} {:>14} {:>9}",
        "weights", "MB", "prefill tok/s", "of limit", "decode tok/s", "of limit"
    );
    let mut report = Report::as_json(cli.json, &device, &[&limits], &header);
    let head = cli.head.as_deref().map(|name| WeightFormat::parse(name, None)).transpose()?;
    for kind in &cli.formats {
        let (format, device) = kind_of(&device, kind);
        let checkpoint = Checkpoint::open(&device, path)?;
        let join = !cli.no_join;
        let row = Row::measure(&checkpoint, (format, head.as_ref()), join, cli.runs, &limits)
            .with_context(|| format!("measuring {kind}"))?;
        let mut json = row.json(device.request().numerics);
        json["joined"] = join.into();
        report.row(&row.line(kind), json);
    }
    report.finish();
    Ok(())
}

struct Row<'a> {
    format: &'a str,
    head: Option<&'a WeightFormat>,
    weight_bytes: usize,
    prefill: f64,
    prefill_limit: f64,
    decode: f64,
    decode_limit: f64,
}

impl<'a> Row<'a> {
    fn measure(
        checkpoint: &Checkpoint,
        (format, head): (&'a str, Option<&'a WeightFormat>),
        join: bool,
        runs: usize,
        limits: &Limits,
    ) -> Result<Self> {
        let weights = WeightFormat::parse(format, None)?;
        let mut model = Llama::load(checkpoint, &weights, |_| ControlFlow::Continue(()))?;
        if let Some(head) = head {
            model.quantize_head(head)?;
        }
        model.lay_out(join)?;
        let tokens: Vec<u32> = (0..PREFILL).map(|i| (i * 7919 % model.vocab()) as u32).collect();
        let mut cache = model.cache(PREFILL)?;
        let step = model.record(&cache, |logits| Ok(logits.clone()))?;
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        for run in 0..runs + 1 {
            cache.clear();
            let start = Instant::now();
            model.forward(&tokens, &mut cache, Logits::Last)?;
            let at_once = start.elapsed().as_secs_f64() / PREFILL as f64;
            cache.clear();
            let start = Instant::now();
            for token in &tokens[..DECODED] {
                step.run(*token, &mut cache)?;
            }
            let one_by_one = start.elapsed().as_secs_f64() / DECODED as f64;
            // The first run warms up.
            if run > 0 {
                prefill.push(at_once);
                decode.push(one_by_one);
            }
        }
        let (prefill, decode) = (1.0 / middle(prefill), 1.0 / middle(decode));
        let weight_bytes = model.bytes_per_token();
        let decode_limit = limits.bytes / weight_bytes as f64;
        let prefill_limit = limits.flops / (2.0 * model.linear_weights() as f64);
        Ok(Row { format, head, weight_bytes, prefill, prefill_limit, decode, decode_limit })
    }

    fn line(&self, kind: &str) -> String {
        format!(
            "{:<10} {:>8.1} {:>14.1} {:>8.0}% {:>14.1} {:>8.0}%",
            kind,
            self.weight_bytes as f64 / 1e6,
            self.prefill,
            100.0 * self.prefill / self.prefill_limit,
            self.decode,
            100.0 * self.decode / self.decode_limit,
        )
    }

    fn json(&self, numerics: Numerics) -> serde_json::Value {
        json!({
            "weights": self.format, "numerics": numerics.to_string(), "head": self.head.map(ToString::to_string),
            "weight_bytes": self.weight_bytes,
            "prefill_tok_s": self.prefill, "prefill_tokens": PREFILL,
            "prefill_share_of_limit": self.prefill / self.prefill_limit,
            "decode_tok_s": self.decode, "decode_tokens": DECODED,
            "decode_share_of_limit": self.decode / self.decode_limit,
        })
    }
}
