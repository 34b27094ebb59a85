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
use ferrocerium::Device;

use cli::{Cli, DeviceName};
use common::checkpoint::Checkpoint;
use common::cli::{exit, progress_bar, show};
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
    let mut sampler = Sampler::new(cli.sampling())?;
    let device = open_device(cli)?;
    let checkpoint = Checkpoint::open(&device, &cli.model)?;
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
    checkpoint.check_context(&plan, prompt.len() + budget)?;
    let model = Llama::load_by(&checkpoint, &plan, show(&bar))?;
    bar.finish_and_clear();
    ensure!(
        prompt.iter().all(|&token| (token as usize) < model.vocab()),
        "the tokenizer makes ids beyond the model's vocabulary of {}",
        model.vocab()
    );
    let mut cache = model.cache(prompt.len() + budget)?;
    let mut report = Report::new(&model, &device, loading.elapsed());

    let mut stdout = std::io::stdout().lock();
    let mut decoder = Detokenizer::new(&tokenizer, &prompt);
    let started = Instant::now();
    let mut logits = model.forward(&prompt, &mut cache, Logits::Last)?;
    report.prefilled(prompt.len(), started.elapsed());
    let started = Instant::now();
    while report.tokens.len() < budget && !stop.load(Ordering::SeqCst) {
        let token = sampler.sample(logits.host()?.as_slice().context("logits are contiguous")?)?;
        if tokenizer.is_end(token) {
            break;
        }
        let piece = decoder.push(token)?;
        report.generated(token, &piece);
        if !cli.json {
            stdout.write_all(piece.as_bytes())?;
            stdout.flush()?;
        }
        if report.tokens.len() == budget {
            break;
        }
        logits = model.forward(&[token], &mut cache, Logits::Last)?;
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

fn open_device(cli: &Cli) -> Result<Device> {
    let builder = cli.flags.builder();
    Ok(match cli.device {
        DeviceName::Auto | DeviceName::Cpu => builder.cpu()?,
        DeviceName::Reference => builder.reference(),
    })
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
