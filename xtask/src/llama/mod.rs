//! `cargo xtask llama-bench`: the default model by this library and by llama.cpp, in turn.
//!
//! Each round runs every program once, what is compared side by side: machines change their speed
//! within minutes. Both read a prompt of 512 tokens at once, then, from an empty cache, generate
//! 128 one by one; all of it once before for warmth.

mod build;
mod report;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::program::{self, Runner};
use crate::{cargo, model};
use build::Llama;
use report::{Measured, Report};

/// What the command line says.
pub struct Options {
    /// Of these weights here only; of all where there is none.
    pub formats: Vec<String>,
    pub rounds: usize,
    pub threads: usize,
    /// Block format of the head beside weights of 4 bits; it stays at 16 bits where there is none.
    pub head: Option<String>,
    /// Whether matrices of the same inputs are multiplied as one here.
    pub join: bool,
    /// What runs each measurement.
    pub runner: Runner,
    pub json: bool,
}

/// How often each program runs unless the command line says it.
pub const ROUNDS: usize = 5;

/// The threads of both unless the command line says it.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Options {
    /// Everything, with a head such as llama.cpp's files have.
    pub fn all(runner: Runner) -> Self {
        let (threads, head) = (default_threads(), Some("nvfp4".to_owned()));
        Options {
            formats: Vec::new(),
            rounds: ROUNDS,
            threads,
            head,
            join: true,
            runner,
            json: true,
        }
    }
}

/// Weights here, and the types of llama.cpp that they are measured against.
const COMPARED: [(&str, &[&str]); 5] = [
    ("nvfp4", &["Q4_0", "Q4_1"]),
    ("mxfp4", &["MXFP4_MOE"]),
    ("fp8", &["Q8_0"]),
    ("bf16", &["BF16"]),
    ("f32", &["F32"]),
];

/// Measures and prints.
pub fn run(options: &Options) -> Result<ExitCode> {
    let report = measure(options)?;
    if options.json {
        println!("{:#}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Measures.
pub fn measure(options: &Options) -> Result<Report> {
    let known = |format: &String| COMPARED.iter().any(|(ours, _)| ours == format);
    if let Some(unknown) = options.formats.iter().find(|format| !known(format)) {
        let names: Vec<_> = COMPARED.iter().map(|(ours, _)| *ours).collect();
        bail!("weights in `{unknown}` are not compared; {} are", names.join(", "));
    }
    let wanted =
        |ours: &str| options.formats.is_empty() || options.formats.iter().any(|f| f == ours);
    let llama = Llama::build()?;
    let ours = cargo::bench("model")?;
    let mut report = Report::new(options.threads);
    for round in 0..options.rounds {
        for (format, theirs) in COMPARED.iter().filter(|(ours, _)| wanted(ours)) {
            eprintln!("round {} of {}: {format}", round + 1, options.rounds);
            for kind in *theirs {
                let file = llama.model(kind)?;
                let measured = measure_theirs(&llama.bench(), &file, options)
                    .with_context(|| format!("measuring llama.cpp's {kind}"))?;
                report.theirs(kind, format, measured);
            }
            // Products of 4-bit weights in both classes: llama.cpp's round activations to int8.
            let classes: &[bool] = if format.ends_with("fp4") { &[false, true] } else { &[false] };
            for &narrowed in classes {
                let (measured, limits) = measure_ours(&ours, format, narrowed, options)
                    .with_context(|| format!("measuring {format}"))?;
                report.ours(format, narrowed, measured);
                report.limits(limits);
            }
        }
    }
    Ok(report)
}

/// One run of our bench, and what it says of the machine.
fn measure_ours(
    bench: &Path,
    format: &str,
    narrowed: bool,
    options: &Options,
) -> Result<(Measured, Value)> {
    let mut command = options.runner.command(bench)?;
    let kind = if narrowed { format!("{format}/int8") } else { format.to_owned() };
    command.arg(model::fetch()?).args([&kind, "--json", "--runs", "1"]);
    command.args(["--threads", &options.threads.to_string()]);
    if let Some(head) = options.head.as_ref().filter(|_| format.ends_with("fp4")) {
        command.args(["--head", head]);
    }
    if !options.join {
        command.arg("--no-join");
    }
    let json = program::json(&mut command)?;
    let row = &json["rows"][0];
    let measured = Measured {
        weight_bytes: number(row, "weight_bytes")?,
        prefill: number(row, "prefill_tok_s")?,
        decode: number(row, "decode_tok_s")?,
    };
    Ok((measured, json["limits"][0].clone()))
}

/// One run of `llama-bench`.
fn measure_theirs(bench: &Path, file: &Path, options: &Options) -> Result<Measured> {
    let mut command = options.runner.command(bench)?;
    command.arg("-m").arg(file).args(["-p", "512", "-n", "128", "-r", "1", "-o", "json", "-t"]);
    let json = program::json(command.arg(options.threads.to_string()))?;
    let tests = json.as_array().context("it prints no list")?;
    let of = |what: &str| {
        let found = tests.iter().find(|test| test[what].as_u64().is_some_and(|n| n > 0));
        found.with_context(|| format!("it prints no test with {what}"))
    };
    let prompt = of("n_prompt")?;
    Ok(Measured {
        weight_bytes: number(prompt, "model_size")?,
        prefill: number(prompt, "avg_ts")?,
        decode: number(of("n_gen")?, "avg_ts")?,
    })
}

fn number(json: &Value, name: &str) -> Result<f64> {
    json[name].as_f64().with_context(|| format!("it prints no `{name}`"))
}
