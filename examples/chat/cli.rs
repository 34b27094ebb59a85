//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::common::cli::{DeviceArgs, DeviceName, ProductArgs};
use crate::common::sampling::Sampling;

/// Talk with a Llama-family model (GGUF file or safetensors folder).
#[derive(Debug, Parser)]
#[command(name = "chat")]
pub struct Cli {
    /// GGUF file, or folder with config.json, tokenizer.json and safetensors
    #[arg(long)]
    pub model: PathBuf,
    /// What to say
    #[arg(long)]
    pub prompt: String,
    /// A system message in front of the prompt
    #[arg(long, conflicts_with = "raw")]
    pub system: Option<String>,
    /// Continue the prompt as it stands, without the chat template
    #[arg(long)]
    pub raw: bool,
    /// Longest answer in tokens
    #[arg(long, default_value_t = 512)]
    pub max_tokens: usize,
    /// 0 picks the likeliest token; higher is more varied
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true)]
    pub temperature: f32,
    /// Sample among the K likeliest tokens (0: all)
    #[arg(long, default_value_t = 40)]
    pub top_k: usize,
    /// Sample among the likeliest tokens that make up this share of probability
    #[arg(long, default_value_t = 0.95, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Where the random choice starts: the same seed gives the same answer (default: the time)
    #[arg(long)]
    pub seed: Option<u64>,
    /// Type of the weights: keep, f32, bf16, fp8, fp8row, fp8group128, fp8block128, mxfp8, mxfp4,
    /// nvfp4
    #[arg(long, default_value = "keep")]
    pub format: String,
    /// How block formats choose scales: amax, ocp, ocp_ceil, four_over_six, mse
    #[arg(long)]
    pub quantizer: Option<String>,
    /// A block format for the head too, which otherwise stays at 16 bits or more
    #[arg(long, value_name = "FORMAT")]
    pub head: Option<String>,
    /// Use only the first N layers: nonsense, but soon, for trying a device
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Where to run: auto, cpu, reference (plain loops in f64), cuda:NUMBER, emulated:ARCH (a GPU's
    /// kernels on the CPU, as emulated:sm_121a; slow), emulated:ARCH:discrete (with memory of its
    /// own), compiled:ARCH (its kernels compiled and not run: the answer is none)
    #[arg(long, default_value = "auto")]
    pub device: DeviceName,
    /// Type of what flows between layers (default: f32, on GPUs bf16, which they multiply)
    #[arg(long, value_enum)]
    pub activations: Option<Activations>,
    /// Choose and launch the operations of each token one by one instead of as one recorded graph
    #[arg(long)]
    pub no_graph: bool,
    #[command(flatten)]
    pub flags: DeviceArgs,
    #[command(flatten)]
    pub products: ProductArgs,
    /// Print one JSON object at the end instead of text as it comes
    #[arg(long)]
    pub json: bool,
}

/// Type of what flows between layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Activations {
    F32,
    Bf16,
}

impl Cli {
    /// How tokens are chosen.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            seed: self.seed.unwrap_or_else(fresh_seed),
        }
    }
}

fn fresh_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |time| time.as_nanos() as u64)
}
