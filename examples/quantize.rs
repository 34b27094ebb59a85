//! Converts a model to another format, and says what each weight loses by it:
//! `cargo run --release --example quantize -- MODEL OUT.safetensors --format nvfp4`.
//!
//! With `--quantizer gptq --calibrate TEXT`, the weights of Llama-family models are quantised for
//! the inputs that they have on a text. `rotated_gptq` rotates inputs and weights in blocks before,
//! which config.json then says, as compressed-tensors does.
//!
//! One weight is in memory at a time, and keeps its name; with gptq the model is, before the first
//! is written. When the program is ended in any way, the same command goes on where it was (after
//! calibrating again); under the name of the output there is never half a file. The table goes to
//! stdout, whole also after a resumption, progress to stderr.

#[path = "common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use ferrocerium::format::{Dequantizer, Format, WHOLE};
use ferrocerium::io::safetensors::{Contents, Naming, Writer};
use ferrocerium::io::{Held, Loader, Target, Weight};
use ferrocerium::op::Operand;
use ferrocerium::{AnyTensor, DType, Device};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use common::checkpoint::Checkpoint;
use common::cli::{DeviceArgs, exit, progress_bar};
use common::llama::Llama;
use common::quantization_config::quantization_config;
use common::rotation::Rotation;
use common::transform_config::transform_config;
use common::weight_format::WeightFormat;
use common::windows::calibration;

#[derive(Parser)]
struct Cli {
    /// A GGUF file, a safetensors file, or a folder with safetensors files
    model: PathBuf,
    /// The `.safetensors` file to write; or a folder for it, which then gets the tokenizer and the
    /// configuration of the model's folder, too, with how the weights are quantised
    output: PathBuf,
    /// What linear layers become
    #[arg(long, default_value = "nvfp4", value_parser = WeightFormat::NAMES)]
    format: String,
    /// How scales are chosen; gptq: with error feedback for the inputs that layers have on a text;
    /// rotated_gptq: with these rotated in blocks before, and whenever the model runs
    #[arg(long)]
    quantizer: Option<String>,
    /// Plain texts that gptq quantises for
    #[arg(long, value_delimiter = ',')]
    calibrate: Vec<PathBuf>,
    /// Tokens in a window of those texts
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Whose names the parts of a weight get
    #[arg(long, value_enum, default_value_t = Names::Modelopt)]
    naming: Names,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Names {
    Modelopt,
    CompressedTensors,
}

fn main() -> ExitCode {
    exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::SeqCst))?;
    let device = cli.device.builder().cpu()?;
    let format = WeightFormat::parse_calibrated(&cli.format, cli.quantizer.as_deref())?;
    let naming = match cli.naming {
        Names::Modelopt => Naming::ModelOpt,
        Names::CompressedTensors => Naming::CompressedTensors,
    };
    let folder = cli.output.extension().is_none_or(|extension| extension != "safetensors");
    let rotated = matches!(format, WeightFormat::Gptq { rotated: true, .. });
    ensure!(
        !rotated || folder && cli.model.is_dir() && naming == Naming::CompressedTensors,
        "--quantizer rotated_gptq: config.json has to say so, in the words of --naming \
         compressed-tensors: name folders for the model and the output"
    );
    let transforms = transforms_beside(&cli.model)?;
    ensure!(
        transforms.is_none() || folder && cli.model.is_dir(),
        "the model's config.json has a `transform_config`, without which its weights are wrong, and a \
         file has no configuration beside it: name folders for the model and the output"
    );
    let loader = Loader::open(&device, &cli.model)?.in_place(false).drop_behind(true);
    let fits = |shape: &[usize], format: Format| {
        let k = format.spec().block_k;
        k == WHOLE || shape.last().is_some_and(|n| n.is_multiple_of(k))
    };
    // Files hold whole blocks: rows of another length stay elements.
    let target = |weight: &Weight<'_>| match format.target(weight) {
        Target::Blocks(format, _) if !fits(weight.shape(), format) => Target::Elements(DType::BF16),
        target => target,
    };
    let plan = loader.plan(target)?;
    let mut contents = Contents::new();
    contents.metadata("format", "pt");
    for step in plan.steps() {
        match step.held {
            Held::Elements(dtype) => contents.elements(&step.name, dtype, &step.shape)?,
            Held::Blocks(format) => contents.scaled(&step.name, format, &step.shape, naming)?,
        }
    }
    let file_bytes = contents.data_len();
    let output = match folder {
        true => cli.output.join("model.safetensors"),
        false => cli.output.clone(),
    };
    if folder {
        fs::create_dir_all(&cli.output).with_context(|| cli.output.display().to_string())?;
    }
    let is_output = |file: &Path| file.canonicalize().ok() == output.canonicalize().ok();
    ensure!(
        !output.exists() || !plan.steps().iter().any(|step| is_output(&step.file)),
        "{} is a file of the model; name another output",
        output.display()
    );
    let mut writer = Writer::resume(&output, contents, &source_key(cli, &format)?)?;
    let mut table = Table::open(&output)?;

    let bar = progress_bar(plan.steps().iter().map(|step| step.file_bytes).sum())?;
    println!("{:<48} {:>20} {:>12} {:>10} {:>10}", "weight", "shape", "held", "MiB", "error");
    let mut rotation = None;
    let mut convert = || -> Result<()> {
        let mut calibrated = HashMap::new();
        if let WeightFormat::Gptq { .. } = format {
            let model = calibrate(cli, &device, &format, &stop, &bar)?;
            (calibrated, rotation) = (model.matrices, model.rotation.filter(|_| rotated));
        }
        let mut blocks = plan.steps().iter().filter(|step| matches!(step.held, Held::Blocks(_)));
        ensure!(
            !rotated
                || blocks.clone().count() == calibrated.len()
                    && blocks.all(|step| calibrated.contains_key(&step.name)),
            "rotated_gptq takes models whose layers' matrices are held in {format}, all and alone"
        );
        let mut before = 0;
        for step in plan.steps() {
            if writer.is_done(&step.name) {
                bar.suspend(|| println!("{}", table.row(&step.name)));
            } else {
                let done = calibrated.remove(&step.name);
                let only = |weight: &Weight<'_>| {
                    if weight.name() == step.name { target(weight) } else { Target::Skip }
                };
                let load = || {
                    let mut loaded = loader.plan(only)?.load(|progress| {
                        bar.set_position(before + progress.bytes_done);
                        go_on(&stop)
                    })?;
                    loaded.take(&step.name).context("a step loads its weight")
                };
                let tensor = match (done, step.held) {
                    (Some(tensor), Held::Blocks(_)) => tensor,
                    _ => load()?,
                };
                let error = match step.held {
                    Held::Blocks(_) => {
                        format!(
                            "{:.2}%",
                            100.0
                                * relative_error(&loader, &step.name, &tensor, rotation.as_ref())?
                        )
                    }
                    Held::Elements(_) => String::new(),
                };
                let (shape, held) = (format!("{:?}", step.shape), step.held.to_string());
                let mib = step.bytes as f64 / (1 << 20) as f64;
                let row =
                    format!("{:<48} {shape:>20} {held:>12} {mib:>10.2} {error:>10}", step.name);
                // Before the weight: what is written has its row.
                table.add(&step.name, &row)?;
                writer.write(&step.name, &tensor)?;
                bar.suspend(|| println!("{row}"));
            }
            before += step.file_bytes;
            bar.set_position(before);
        }
        Ok(())
    };
    if let Err(error) = convert() {
        // What is done need not be done again.
        writer.sync()?;
        ensure!(!stop.load(Ordering::SeqCst), "stopped; the same command goes on from here");
        return Err(error);
    }
    bar.finish_and_clear();
    if folder && cli.model.is_dir() {
        let quantization = quantization_config(plan.steps(), naming);
        let rotation = rotation.map(|rotation| transform_config(rotation.inputs()));
        copy_beside(&cli.model, &cli.output, quantization, rotation.or(transforms))?;
    }
    writer.finish()?;
    table.remove()?;
    println!("{}: {:.1} MiB", output.display(), file_bytes as f64 / (1 << 20) as f64);
    Ok(())
}

fn go_on(stop: &AtomicBool) -> ControlFlow<()> {
    match stop.load(Ordering::SeqCst) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// A model that was quantised for texts.
struct Calibrated {
    /// The layers' matrices, by their names in the file.
    matrices: HashMap<String, AnyTensor>,
    rotation: Option<Rotation>,
}

fn calibrate(
    cli: &Cli,
    device: &Device,
    format: &WeightFormat,
    stop: &AtomicBool,
    bar: &ProgressBar,
) -> Result<Calibrated> {
    let checkpoint = Checkpoint::open(device, &cli.model)?;
    let text = calibration(&checkpoint, &[*format], &cli.calibrate, cli.context)?;
    let next = |layer| {
        bar.set_message(format!("calibrating layer {layer}"));
        ensure!(go_on(stop).is_continue(), "stopped");
        Ok(())
    };
    let model = Llama::load_calibrated(&checkpoint, format, &text, |_| go_on(stop), next)?;
    bar.set_message("");
    let matrices = model.matrices()?.into_iter();
    let matrices = matrices.map(|(part, tensor)| Ok((checkpoint.file_name(&part)?, tensor)));
    Ok(Calibrated { matrices: matrices.collect::<Result<_>>()?, rotation: model.rotation })
}

/// The rows of the table so far, in a hidden file beside the output until that is whole.
struct Table {
    path: PathBuf,
    file: fs::File,
    rows: HashMap<String, String>,
}

impl Table {
    fn open(output: &Path) -> Result<Self> {
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let path = output.with_file_name(format!(".{name}.table"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        // The last line may have been cut off; of several for a weight the last counts.
        let rows = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let file = fs::File::options().create(true).append(true).open(&path);
        let mut file = file.with_context(|| path.display().to_string())?;
        if !text.is_empty() {
            writeln!(file)?;
        }
        Ok(Table { path, file, rows })
    }

    fn row<'a>(&'a self, name: &'a str) -> &'a str {
        self.rows.get(name).map_or(name, String::as_str)
    }

    fn add(&mut self, name: &str, row: &str) -> Result<()> {
        let context = || self.path.display().to_string();
        writeln!(self.file, "{}", serde_json::json!([name, row])).with_context(context)
    }

    fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| self.path.display().to_string())
    }
}

/// Files of a model's folder that are the same for every format of its weights.
const COMPANIONS: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// What the configuration in a model's folder says that inputs are transformed by, if it does.
fn transforms_beside(model: &Path) -> Result<Option<Value>> {
    let folder = if model.is_dir() { Some(model) } else { model.parent() };
    let file = folder.unwrap_or(model).join("config.json");
    if !file.is_file() {
        return Ok(None);
    }
    let transforms = &read_json(&file)?["quantization_config"]["transform_config"];
    let groups = transforms["config_groups"].as_object().is_some_and(|groups| !groups.is_empty());
    Ok(groups.then(|| transforms.clone()))
}

fn read_json(file: &Path) -> Result<Value> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))
}

/// Copies them. The configuration says how the weights are quantised, and no more how those were
/// that they are made from, and what inputs are transformed by.
fn copy_beside(
    from: &Path,
    to: &Path,
    quantization: Option<Value>,
    transforms: Option<Value>,
) -> Result<()> {
    for name in COMPANIONS.iter().filter(|name| from.join(name).is_file()) {
        let (source, target) = (from.join(name), to.join(name));
        if *name != "config.json" {
            fs::copy(&source, &target).with_context(|| target.display().to_string())?;
            continue;
        }
        let mut config: serde_json::Map<String, Value> =
            serde_json::from_value(read_json(&source)?)
                .with_context(|| source.display().to_string())?;
        config.remove("quantization_config");
        let mut quantization = quantization.clone();
        if let Some(transforms) = transforms.clone() {
            let unquantised = || json!({"quant_method": "compressed-tensors"});
            quantization.get_or_insert_with(unquantised)["transform_config"] = transforms;
        }
        config.extend(quantization.map(|value| ("quantization_config".to_owned(), value)));
        let text = serde_json::to_string_pretty(&config)?;
        fs::write(&target, text).with_context(|| target.display().to_string())?;
    }
    Ok(())
}

/// What the output depends on beside its contents: another source or rule begins anew.
fn source_key(cli: &Cli, format: &WeightFormat) -> Result<String> {
    let model = cli.model.canonicalize().with_context(|| cli.model.display().to_string())?;
    let modified = model.metadata()?.modified()?;
    let mut key = format!("{} {modified:?} {format}", model.display());
    if let WeightFormat::Gptq { .. } = format {
        key.push_str(&format!(" {}", cli.context));
        for text in &cli.calibrate {
            let text = text.canonicalize().with_context(|| text.display().to_string())?;
            key.push_str(&format!(" {} {:?}", text.display(), text.metadata()?.modified()?));
        }
    }
    Ok(key)
}

/// `‖q − w‖ / ‖w‖` over all values of a weight, rotated where its codes are, in f64.
fn relative_error(
    loader: &Loader,
    name: &str,
    quantized: &AnyTensor,
    rotation: Option<&Rotation>,
) -> Result<f64> {
    let only = |weight: &Weight<'_>| match weight.name() == name {
        true => Target::Elements(DType::F32),
        false => Target::Skip,
    };
    let loaded = loader.plan(only)?.load(|_| ControlFlow::Continue(()))?;
    let mut exact = loaded.any(name)?.clone();
    if let Some(rotation) = rotation {
        let is_v = name.ends_with(".v_proj.weight");
        exact = rotation.weight(&exact.tensor::<f32, 2>()?, is_v)?.into();
    }
    let exact = exact.operand().regions().next().context("a tensor has data")?;
    let exact_guard = exact.buffer().read()?;
    let exact: &[f32] = bytemuck::cast_slice(&exact_guard[exact.range()]);
    let Operand::Scaled(scaled) = quantized.operand() else { return Ok(0.0) };
    let (layout, data) = (scaled.layout()?, scaled.data.as_ref().context("a tensor has data")?);
    let (codes, scales) = (data.codes.buffer().read()?, data.scales.buffer().read()?);
    let g = match &data.tensor_scale {
        Some(scale) => bytemuck::pod_read_unaligned(&scale.buffer().read()?[scale.range()]),
        None => 1.0,
    };
    let (codes, scales) = (&codes[data.codes.range()], &scales[data.scales.range()]);
    let values = Dequantizer::new(&layout, codes, scales, g)?;
    let (mut error, mut size, mut back) = (0.0, 0.0, vec![0.0f32; layout.k()]);
    for (i, row) in exact.chunks(layout.k().max(1)).enumerate() {
        values.row(i / layout.rows(), i % layout.rows(), 0, &mut back)?;
        for (&w, &q) in row.iter().zip(&back) {
            error += (f64::from(q) - f64::from(w)).powi(2);
            size += f64::from(w).powi(2);
        }
    }
    Ok(if size == 0.0 { 0.0 } else { (error / size).sqrt() })
}
