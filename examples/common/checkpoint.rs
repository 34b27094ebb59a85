//! A model file or folder, under names that do not depend on its kind.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ferrocerium::format::{Format, Mxfp4, Nvfp4};
use ferrocerium::io::{Stored, Weights};
use ferrocerium::op::RopeScaling;
use ferrocerium::{AnyTensor, Device, Error};

use crate::common::config::Config;

/// Names of the parts of a layer: here, in GGUF files, in Hugging Face folders.
const LAYER_PARTS: [(&str, &str, &str); 11] = [
    ("attention_norm", "attn_norm", "input_layernorm"),
    ("q", "attn_q", "self_attn.q_proj"),
    ("k", "attn_k", "self_attn.k_proj"),
    ("v", "attn_v", "self_attn.v_proj"),
    ("o", "attn_output", "self_attn.o_proj"),
    ("q_norm", "attn_q_norm", "self_attn.q_norm"),
    ("k_norm", "attn_k_norm", "self_attn.k_norm"),
    ("mlp_norm", "ffn_norm", "post_attention_layernorm"),
    ("gate", "ffn_gate", "mlp.gate_proj"),
    ("up", "ffn_up", "mlp.up_proj"),
    ("down", "ffn_down", "mlp.down_proj"),
];

const ROPE_FACTORS: &str = "rope_freqs.weight";

/// An open model file or folder.
pub struct Checkpoint {
    /// Sizes and constants.
    pub config: Config,
    weights: Weights,
}

impl Checkpoint {
    /// Opens a GGUF file, or a folder with `config.json` and safetensors.
    pub fn open(device: &Device, path: &Path) -> Result<Self> {
        let weights = Weights::open(device, path)?;
        let config = match weights.gguf() {
            Some(gguf) => Config::from_gguf(gguf.metadata()),
            None => {
                let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
                let file = folder.join("config.json");
                let text = std::fs::read_to_string(&file)
                    .with_context(|| format!("{} is needed beside the weights", file.display()))?;
                let json = serde_json::from_str(&text)
                    .with_context(|| format!("{} is not JSON", file.display()))?;
                Config::from_json(&json)
            }
        };
        let mut config = config.with_context(|| path.display().to_string())?;
        // GGUF files bring the scaling of newer Llamas as a tensor, one factor for each pair.
        if weights.gguf().is_some() && weights.contains(ROPE_FACTORS) {
            let factors = weights.decode::<f64, 1>(ROPE_FACTORS)?.to_vec()?;
            config.rope_scaling = RopeScaling::LongRope { factors, attention_factor: 1.0 };
        }
        Ok(Checkpoint { config, weights })
    }

    /// The file's tensors and metadata.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Whether the file has that part.
    pub fn has(&self, name: &str) -> bool {
        self.file_name(name).is_ok_and(|name| self.weights.contains(&name))
    }

    /// A part as it is stored; ggml's quantised blocks are decoded to f32.
    pub fn tensor(&self, name: &str) -> Result<AnyTensor> {
        let name = &self.file_name(name)?;
        let weights = &self.weights;
        let parts = weights.safetensors().map(|s| s.scaled_parts(name)).transpose()?.flatten();
        match parts.map(|parts| parts.format) {
            Some(Format::Nvfp4) => return Ok(weights.scaled::<Nvfp4, 2>(name)?.into()),
            Some(Format::Mxfp4) => return Ok(weights.scaled::<Mxfp4, 2>(name)?.into()),
            _ => {}
        }
        if let Some(Stored::Elements(_)) = weights.entry(name).map(|entry| entry.stored) {
            match weights.any(name) {
                // Misaligned in the file: it is decoded like blocks.
                Err(Error::Layout { .. }) => {}
                any => return Ok(any?),
            }
        }
        Ok(match weights.shape(name)?.len() {
            1 => weights.decode::<f32, 1>(name)?.into(),
            2 => weights.decode::<f32, 2>(name)?.into(),
            n => bail!("`{name}` has {n} dimensions; 1 or 2 are expected"),
        })
    }

    fn file_name(&self, name: &str) -> Result<String> {
        let gguf = self.weights.gguf().is_some();
        let pick = |in_gguf: &str, in_folder: &str| -> String {
            if gguf { in_gguf.to_owned() } else { in_folder.to_owned() }
        };
        let unknown = || format!("no such part: {name}");
        if let Some(rest) = name.strip_prefix("layer.") {
            let (index, rest) = rest.split_once('.').with_context(unknown)?;
            let (part, kind) = rest.rsplit_once('.').with_context(unknown)?;
            let (_, in_gguf, in_folder) =
                LAYER_PARTS.iter().find(|(here, ..)| *here == part).with_context(unknown)?;
            return Ok(pick(
                &format!("blk.{index}.{in_gguf}.{kind}"),
                &format!("model.layers.{index}.{in_folder}.{kind}"),
            ));
        }
        Ok(match name {
            "embedding.weight" => pick("token_embd.weight", "model.embed_tokens.weight"),
            "norm.weight" => pick("output_norm.weight", "model.norm.weight"),
            "head.weight" => pick("output.weight", "lm_head.weight"),
            _ => bail!(unknown()),
        })
    }
}
