//! Talks with a Llama-family model: `cargo xtask chat "Why is the sky blue?"`.
//!
//! The text goes to stdout as it is made, everything else to stderr. Exit code 0 when the answer
//! is whole or was interrupted with Ctrl-C, 1 after an error, which is one line on stderr.

mod cli;
#[path = "../common/mod.rs"]
mod common;
mod report;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use ferrocerium::{Float, Tensor, bf16};

use cli::{Activations, Cli};
use common::checkpoint::Checkpoint;
use common::cli::{exit, is_gpu, progress_bar, show};
use common::detokenizer::Detokenizer;
use common::llama::{Llama, Logits};
use common::sampling::Sampler;
use common::template::Message;
use common::tokenizer::TextTokenizer;
use common::weight_format::WeightFormat;
use report::Report;

fn main() -> ExitCode {
    exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        // The first one ends the answer after the current token; the second one ends the program.
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })?;

    let format = WeightFormat::parse(&cli.format, cli.quantizer.as_deref())?;
    let head = cli.head.as_deref().map(|name| WeightFormat::parse(name, None)).transpose()?;
    let sampler = Sampler::new(cli.sampling())?;
    let device = cli.device.open(cli.flags.builder().numerics(cli.products.numerics()))?;
    ensure!(!(cli.products.w4a8 && is_gpu(&device)), "--w4a8: kernels of GPUs do not do that");
    // The host reads files, and converts them with all its threads.
    let loading_device = if is_gpu(&device) { cli.flags.builder().cpu()? } else { device.clone() };
    let mut checkpoint = Checkpoint::open(&loading_device, &cli.model)?;
    if let Some(layers) = cli.layers {
        let all = checkpoint.config.layers;
        ensure!(layers <= all, "--layers {layers}: the model has {all}");
        checkpoint.config.layers = layers;
    }
    let tokenizer = TextTokenizer::of(checkpoint.weights())?;
    let prompt = prompt_tokens(cli, &tokenizer)?;
    ensure!(!prompt.is_empty(), "the prompt is empty; say something");
    let context = checkpoint.config.context;
    ensure!(
        prompt.len() < context,
        "the prompt has {} tokens, the model's context {context}; shorten the prompt",
        prompt.len()
    );
    let budget = cli.max_tokens.min(context - prompt.len());

    let loading = Instant::now();
    let bar = progress_bar(0)?;
    let plan = checkpoint.plan(&format)?;
    plan.check()?;
    checkpoint.check_context(&plan, &device, prompt.len() + budget)?;
    let mut model = Llama::load_by(&checkpoint, &plan, &device, show(&bar))?;
    if let Some(format) = &head {
        model.quantize_head(format)?;
    }
    model.lay_out(!cli.products.no_join)?;
    bar.finish_and_clear();
    ensure!(
        prompt.iter().all(|&token| (token as usize) < model.vocab()),
        "the tokenizer makes ids beyond the model's vocabulary of {}",
        model.vocab()
    );
    let report = Report::new(&model, &device, loading.elapsed());
    let mut answer =
        Answer { cli, tokenizer: &tokenizer, prompt: &prompt, budget, sampler, report };
    let usual = if model.is_on_gpu() { Activations::Bf16 } else { Activations::F32 };
    match cli.activations.unwrap_or(usual) {
        Activations::F32 => answer.generate::<f32>(&model, &stop),
        Activations::Bf16 => answer.generate::<bf16>(&model, &stop),
    }
}

/// An answer in the making.
struct Answer<'a> {
    cli: &'a Cli,
    tokenizer: &'a TextTokenizer,
    prompt: &'a [u32],
    /// The most tokens.
    budget: usize,
    sampler: Sampler,
    report: Report,
}

impl Answer<'_> {
    /// Makes and prints it, with activations of a type.
    fn generate<A: Float>(&mut self, model: &Llama, stop: &AtomicBool) -> Result<()> {
        let Answer { cli, tokenizer, prompt, budget, sampler, report } = self;
        let mut cache = model.cache_as::<A>(prompt.len() + *budget)?;
        let mut stdout = std::io::stdout().lock();
        let mut decoder = Detokenizer::new(tokenizer, prompt);
        let started = Instant::now();
        let picker = sampler.clone();
        // What crosses to the host: few logits, or all of them.
        let then = |logits: &Tensor<f32, 2>| Ok((logits.clone(), picker.likeliest(logits)?));
        let mut step = None;
        if !cli.no_graph {
            model.prepare(prompt, &cache, then)?;
            step = Some(model.record(&cache, then)?);
        }
        report.prepared(started.elapsed());
        let started = Instant::now();
        let logits = model.forward(prompt, &mut cache, Logits::Last)?;
        let mut token = sampler.next(&logits)?;
        report.prefilled(prompt.len(), started.elapsed());
        let started = Instant::now();
        while report.tokens.len() < *budget && !stop.load(Ordering::SeqCst) {
            if tokenizer.is_end(token) {
                break;
            }
            let piece = decoder.push(token)?;
            report.generated(token, &piece);
            if !cli.json {
                stdout.write_all(piece.as_bytes())?;
                stdout.flush()?;
            }
            if report.tokens.len() == *budget {
                break;
            }
            token = match &step {
                None => sampler.next(&model.forward(&[token], &mut cache, Logits::Last)?)?,
                Some(step) => match step.run(token, &mut cache)? {
                    (_, Some(likeliest)) => sampler.next_of(likeliest)?,
                    (logits, None) => sampler.sample(&logits.to_vec()?)?,
                },
            };
        }
        let rest = decoder.finish()?;
        report.text.push_str(&rest);
        report.decoded(started.elapsed());
        if cli.json {
            writeln!(stdout, "{}", report.to_json())?;
        } else {
            writeln!(stdout, "{rest}")?;
            eprintln!("{report}");
        }
        Ok(())
    }
}

/// The prompt as the model wants it: through its chat template, or raw.
fn prompt_tokens(cli: &Cli, tokenizer: &TextTokenizer) -> Result<Vec<u32>> {
    if cli.raw {
        return tokenizer.encode(&cli.prompt, true);
    }
    let template =
        tokenizer.chat_template()?.context("the model has no chat template; use --raw")?;
    let mut messages = Vec::new();
    messages.extend(cli.system.as_deref().map(|text| Message::new("system", text)));
    messages.push(Message::new("user", cli.prompt.as_str()));
    // The template writes the special tokens itself.
    tokenizer.encode(&template.render(&messages)?, false)
}
