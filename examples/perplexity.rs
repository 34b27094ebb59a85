//! How much a weight format costs: perplexity of a model on a text, per format.
//!
//! The text is cut into windows of `--context` tokens. Each window starts with the model's BOS
//! token where its tokenizer adds one, is run on its own, and its second half is scored:
//! perplexity is `exp` of the mean of `−ln p(token | what precedes it in the window)`.

#[path = "common/mod.rs"]
mod common;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;

use common::checkpoint::Checkpoint;
use common::cli::{DeviceArgs, exit, progress_bar, show};
use common::llama::{KvCache, Llama, Logits};
use common::tokenizer::TextTokenizer;
use common::weight_format::WeightFormat;

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
    /// Tokens in a window
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Windows from the start of the text (0: all)
    #[arg(long, default_value_t = 12)]
    windows: usize,
    /// Formats to compare, each with an optional quantiser: f32,bf16,nvfp4,nvfp4/four_over_six
    #[arg(long, value_delimiter = ',', default_value = "f32,bf16,nvfp4")]
    formats: Vec<String>,
    #[command(flatten)]
    device: DeviceArgs,
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
    perplexity: f64,
}

fn run(cli: &Cli) -> Result<()> {
    let formats = cli.formats.iter().map(|name| {
        let (format, quantizer) = match name.split_once('/') {
            Some((format, quantizer)) => (format, Some(quantizer)),
            None => (name.as_str(), None),
        };
        WeightFormat::parse(format, quantizer)
    });
    let formats: Vec<WeightFormat> = formats.collect::<Result<_>>()?;
    let device = cli.device.builder().cpu()?;
    let checkpoint = Checkpoint::open(&device, &cli.model)?;
    let (windows, bos) = windows(cli, &checkpoint)?;
    eprintln!(
        "{} windows of {} tokens, {}, the last {} of each scored",
        windows.len(),
        cli.context,
        if bos { "BOS first" } else { "without BOS, as the model has none" },
        cli.context - cli.context / 2,
    );

    let mut rows = Vec::new();
    if !cli.json {
        println!("{:<22} {:>12} {:>12}", "format", "bytes", "perplexity");
    }
    for format in formats {
        let bar = progress_bar(0)?;
        let model = Llama::load(&checkpoint, &format, show(&bar))?;
        bar.finish_and_clear();
        let mut cache = model.cache(cli.context)?;
        let (mut loss, mut count) = (0.0, 0usize);
        for window in &windows {
            let (sum, n) = window_loss(&model, &mut cache, window)?;
            loss += sum;
            count += n;
        }
        let row = Row {
            format: format.to_string(),
            bytes: model.weight_bytes(),
            perplexity: (loss / count as f64).exp(),
        };
        if !cli.json {
            println!("{:<22} {:>12} {:>12.4}", row.format, row.bytes, row.perplexity);
        }
        rows.push(row);
    }
    if cli.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|r| json!({"format": r.format, "bytes": r.bytes, "perplexity": r.perplexity}))
            .collect();
        println!("{}", serde_json::Value::from(rows));
    }
    Ok(())
}

/// The text in windows, each with the BOS token in front where the model wants one, and whether it
/// does.
fn windows(cli: &Cli, checkpoint: &Checkpoint) -> Result<(Vec<Vec<u32>>, bool)> {
    ensure!(cli.context >= 4, "--context {}: at least 4 tokens are needed", cli.context);
    ensure!(
        cli.context <= checkpoint.config.context,
        "--context {}: the model's context is {}",
        cli.context,
        checkpoint.config.context
    );
    let tokenizer = TextTokenizer::of(checkpoint.weights())?;
    let text = std::fs::read_to_string(&cli.text)
        .with_context(|| format!("{} can not be read as UTF-8 text", cli.text.display()))?;
    let tokens = tokenizer.encode(&text, false)?;
    let bos = tokenizer.begin();
    let step = cli.context - usize::from(bos.is_some());
    let with_bos = |chunk: &[u32]| bos.iter().chain(chunk).copied().collect::<Vec<u32>>();
    let mut windows: Vec<_> = tokens.chunks_exact(step).map(with_bos).collect();
    ensure!(
        !windows.is_empty(),
        "{} has {} tokens, less than one window of {}",
        cli.text.display(),
        tokens.len(),
        cli.context
    );
    if cli.windows > 0 {
        windows.truncate(cli.windows);
    }
    Ok((windows, bos.is_some()))
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
