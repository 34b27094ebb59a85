//! How much a weight format costs: perplexity of a model on a text, per format.
//!
//! The text is cut into windows of `--context` tokens. Each window starts with the model's BOS
//! token where its tokenizer adds one, is run on its own, and its second half is scored:
//! perplexity is `exp` of the mean of `−ln p(token | what precedes it in the window)`. Calibration
//! texts are cut the same way.

#[path = "common/mod.rs"]
mod common;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::json;

use common::checkpoint::Checkpoint;
use common::cli::{DeviceArgs, ProductArgs, exit, progress_bar, show};
use common::kv_cache::KvCache;
use common::llama::{Llama, Logits};
use common::weight_format::WeightFormat;
use common::windows::{calibration, windows};

/// Perplexity of a model on a text, per weight format.
#[derive(Debug, Parser)]
#[command(name = "perplexity")]
struct Cli {
    /// GGUF file or safetensors folder
    #[arg(long)]
    model: PathBuf,
    /// Plain text to predict
    #[arg(long)]
    text: PathBuf,
    /// Plain texts that `gptq` quantises for: others than the one to predict
    #[arg(long, value_delimiter = ',')]
    calibrate: Vec<PathBuf>,
    /// Tokens in a window
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Windows from the start of the text (0: all)
    #[arg(long, default_value_t = 12)]
    windows: usize,
    /// Formats to compare, each with an optional quantiser: f32,bf16,nvfp4/four_over_six,nvfp4/gptq
    #[arg(long, value_delimiter = ',', default_value = "f32,bf16,nvfp4")]
    formats: Vec<String>,
    /// A block format for the head too, which otherwise stays at 16 bits or more
    #[arg(long, value_name = "FORMAT")]
    head: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    products: ProductArgs,
    /// Print a JSON array instead of a table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    exit(run(&Cli::parse()))
}

/// One row of the table.
struct Row {
    format: String,
    bytes: usize,
    /// What loading, and quantising, took.
    seconds: f64,
    perplexity: f64,
}

fn run(cli: &Cli) -> Result<()> {
    let formats = cli.formats.iter().map(|name| {
        let (format, quantizer) = match name.split_once('/') {
            Some((format, quantizer)) => (format, Some(quantizer)),
            None => (name.as_str(), None),
        };
        WeightFormat::parse_calibrated(format, quantizer)
    });
    let formats: Vec<WeightFormat> = formats.collect::<Result<_>>()?;
    let head = cli.head.as_deref().map(|name| WeightFormat::parse(name, None)).transpose()?;
    if let Some(file) = cli.calibrate.iter().find(|&file| *file == cli.text) {
        bail!("--calibrate {}: that is the text to predict", file.display());
    }
    let device = cli.device.builder().numerics(cli.products.numerics()).cpu()?;
    let checkpoint = Checkpoint::open(&device, &cli.model)?;
    let (mut text, bos) = windows(&checkpoint, &cli.text, cli.context)?;
    if cli.windows > 0 {
        text.truncate(cli.windows);
    }
    let calibration = calibration(&checkpoint, &formats, &cli.calibrate, cli.context)?;
    eprintln!(
        "{} windows of {} tokens, {}, the last {} of each scored",
        text.len(),
        cli.context,
        if bos { "BOS first" } else { "without BOS, as the model has none" },
        cli.context - cli.context / 2,
    );

    let mut rows = Vec::new();
    if !cli.json {
        println!("{:<22} {:>12} {:>8} {:>12}", "format", "bytes", "seconds", "perplexity");
    }
    for format in formats {
        let (bar, start) = (progress_bar(0)?, Instant::now());
        let mut model =
            Llama::load_calibrated(&checkpoint, &format, &calibration, show(&bar), |layer| {
                bar.set_message(format!("calibrating layer {layer}"));
                Ok(())
            })?;
        if let Some(head) = &head {
            model.quantize_head(head)?;
        }
        model.lay_out(!cli.products.no_join)?;
        bar.finish_and_clear();
        let seconds = start.elapsed().as_secs_f64();
        let mut cache = model.cache(cli.context)?;
        let (mut loss, mut count) = (0.0, 0usize);
        for window in &text {
            let (sum, n) = window_loss(&model, &mut cache, window)?;
            loss += sum;
            count += n;
        }
        let row = Row {
            format: format.to_string(),
            bytes: model.weight_bytes(),
            seconds,
            perplexity: (loss / count as f64).exp(),
        };
        if !cli.json {
            println!(
                "{:<22} {:>12} {:>8.1} {:>12.4}",
                row.format, row.bytes, row.seconds, row.perplexity
            );
        }
        rows.push(row);
    }
    if cli.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|r| {
                json!({
                    "format": r.format, "bytes": r.bytes, "seconds": r.seconds,
                    "perplexity": r.perplexity,
                })
            })
            .collect();
        println!("{}", serde_json::Value::from(rows));
    }
    Ok(())
}

/// The sum of `−ln p` over the second half of a window, and the number of its terms.
fn window_loss(model: &Llama, cache: &mut KvCache, window: &[u32]) -> Result<(f64, usize)> {
    cache.clear();
    let scored = &window[window.len() / 2..];
    // The last token predicts nothing; the one before the scored half predicts its first.
    let logits = model.forward(&window[..window.len() - 1], cache, Logits::LastN(scored.len()))?;
    let host = logits.host()?;
    let rows = host.as_slice().context("logits are contiguous")?.chunks_exact(model.vocab());
    let loss = |(row, &token): (&[f32], &u32)| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        sum.ln() - f64::from(row[token as usize] - max)
    };
    Ok((rows.zip(scored).map(loss).sum(), scored.len()))
}
