//! What a Llama-family model is, from its file's metadata.

use anyhow::{Context, Result, bail, ensure};
use ferrocerium::io::gguf::Metadata;
use ferrocerium::op::{RopeScaling, RopeStyle};
use serde_json::Value;

use crate::common::rotation::RotatedInputs;
use crate::common::transform_config;

/// Architectures that this model code computes: RMSNorm, rotary embedding, grouped-query
/// attention, SwiGLU; with biases on q, k, v (Qwen2) or norms on q and k (Qwen3) where the file
/// has them.
const ARCHITECTURES: [(&str, &str); 4] = [
    ("llama", "LlamaForCausalLM"),
    ("mistral", "MistralForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
];

/// Sizes and constants of a model.
#[derive(Clone, Debug)]
pub struct Config {
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: Option<usize>,
    pub context: usize,
    pub norm_eps: f32,
    pub rope_theta: f64,
    pub rope_style: RopeStyle,
    pub rope_scaling: RopeScaling,
    /// Where what the layers' matrices multiply is rotated.
    pub rotation: Option<RotatedInputs>,
}

impl Config {
    /// From GGUF metadata. Llama files store q and k for rotary pairs `(2i, 2i + 1)`, the others
    /// for pairs `(i, i + d/2)`.
    pub fn from_gguf(meta: &Metadata) -> Result<Self> {
        let arch = meta.str("general.architecture")?.context("the file names no architecture")?;
        check_architecture(arch, ARCHITECTURES.map(|(gguf, _)| gguf))?;
        let key = |name: &str| format!("{arch}.{name}");
        let opt = |name: &str| -> Result<Option<usize>> {
            Ok(meta.u64(&key(name))?.map(usize::try_from).transpose()?)
        };
        let size = |name: &str| -> Result<usize> {
            opt(name)?.with_context(|| format!("the file's metadata has no `{}`", key(name)))
        };
        let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
        ensure!(heads > 0, "`{}` is 0", key("attention.head_count"));
        let scaling = meta.str(&key("rope.scaling.type"))?;
        if let Some(kind) = scaling.filter(|kind| !matches!(*kind, "none" | "linear")) {
            bail!("rope scaling `{kind}` is not read from GGUF files; use the safetensors folder");
        }
        let factor = meta.f64(&key("rope.scaling.factor"))?;
        Config {
            layers: size("block_count")?,
            hidden,
            heads,
            kv_heads: opt("attention.head_count_kv")?.unwrap_or(heads),
            head_dim: opt("attention.key_length")?.unwrap_or(hidden / heads),
            vocab: opt("vocab_size")?,
            context: size("context_length")?,
            norm_eps: meta
                .f64(&key("attention.layer_norm_rms_epsilon"))?
                .with_context(|| format!("no `{}`", key("attention.layer_norm_rms_epsilon")))?
                as f32,
            rope_theta: meta.f64(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            rope_style: match arch {
                "llama" | "mistral" => RopeStyle::Interleaved,
                _ => RopeStyle::HalfSplit,
            },
            rope_scaling: match (scaling, factor) {
                (Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
                _ => RopeScaling::None,
            },
            rotation: None,
        }
        .checked()
    }

    /// From the `config.json` of a Hugging Face folder.
    pub fn from_json(json: &Value) -> Result<Self> {
        let arch =
            json["architectures"][0].as_str().context("config.json names no architecture")?;
        check_architecture(arch, ARCHITECTURES.map(|(_, hf)| hf))?;
        let opt = |name: &str| json[name].as_u64().map(|n| n as usize);
        let size = |name: &str| opt(name).with_context(|| format!("config.json has no `{name}`"));
        let (hidden, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        ensure!(heads > 0, "`num_attention_heads` is 0");
        let activation = json["hidden_act"].as_str().unwrap_or("silu");
        ensure!(activation == "silu", "activation `{activation}` is not silu");
        // Newer folders have in one object what others have beside each other.
        let together = &json["rope_parameters"];
        let rope = if together.is_object() { together } else { &json["rope_scaling"] };
        let turned = rope["partial_rotary_factor"].as_f64().unwrap_or(1.0);
        let turned = json["partial_rotary_factor"].as_f64().unwrap_or(turned);
        ensure!(
            turned == 1.0,
            "rotary embedding of a part of each head ({turned}) is not computed"
        );
        // Attention is to all tokens before, which is the same up to the length of a window.
        let windowed = json["use_sliding_window"].as_bool().unwrap_or(arch.starts_with("Mistral"));
        let window = opt("sliding_window").filter(|_| windowed).unwrap_or(usize::MAX);
        Config {
            layers: size("num_hidden_layers")?,
            hidden,
            heads,
            kv_heads: opt("num_key_value_heads").unwrap_or(heads),
            head_dim: opt("head_dim").unwrap_or(hidden / heads),
            vocab: opt("vocab_size"),
            context: size("max_position_embeddings")?.min(window),
            norm_eps: json["rms_norm_eps"].as_f64().context("config.json has no `rms_norm_eps`")?
                as f32,
            rope_theta: (rope["rope_theta"].as_f64().or(json["rope_theta"].as_f64()))
                .unwrap_or(10_000.0),
            rope_style: RopeStyle::HalfSplit,
            rope_scaling: rope_scaling(rope)?,
            rotation: transform_config::rotated_inputs(&json["quantization_config"])?,
        }
        .checked()
    }

    /// Bytes that the keys and values of a token take.
    pub fn cache_bytes_per_token(&self) -> u64 {
        let floats = 2 * self.layers as u64 * self.kv_heads as u64 * self.head_dim as u64;
        floats * size_of::<f32>() as u64
    }

    fn checked(self) -> Result<Self> {
        let sizes = [self.layers, self.hidden, self.heads, self.kv_heads, self.head_dim];
        ensure!(sizes.iter().all(|&n| n > 0), "a size is 0 in the model's configuration: {self:?}");
        ensure!(
            self.heads.is_multiple_of(self.kv_heads),
            "{} heads are not a multiple of {} key/value heads",
            self.heads,
            self.kv_heads
        );
        ensure!(self.head_dim.is_multiple_of(2), "head size {} is odd", self.head_dim);
        Ok(self)
    }
}

fn check_architecture<const N: usize>(found: &str, known: [&str; N]) -> Result<()> {
    ensure!(
        known.contains(&found),
        "architecture `{found}` is not one of {}; this program runs Llama-family models",
        known.join(", ")
    );
    Ok(())
}

fn rope_scaling(json: &Value) -> Result<RopeScaling> {
    let number =
        |name: &str| json[name].as_f64().with_context(|| format!("`rope_scaling` has no `{name}`"));
    let original_context = || {
        let name = "original_max_position_embeddings";
        json[name].as_u64().map(|n| n as usize).with_context(|| format!("no `{name}`"))
    };
    let kind = json["rope_type"].as_str().or(json["type"].as_str());
    match kind {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: number("factor")? }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_context: original_context()?,
        }),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor: number("factor")?,
            original_context: original_context()?,
            beta_fast: json["beta_fast"].as_f64().unwrap_or(32.0),
            beta_slow: json["beta_slow"].as_f64().unwrap_or(1.0),
            truncate: json["truncate"].as_bool().unwrap_or(true),
            attention_factor: json["attention_factor"].as_f64(),
        }),
        Some(other) => bail!("rope scaling `{other}` is none of linear, llama3, yarn"),
    }
}
