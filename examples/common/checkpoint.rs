//! A model file or folder, under names that do not depend on its kind.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ferrocerium::io::{LoadPlan, Loader, Progress, Target, Weight, Weights};
use ferrocerium::op::RopeScaling;
use ferrocerium::{AnyTensor, Device};

use crate::common::config::Config;
use crate::common::weight_format::WeightFormat;

const MIB: f64 = (1 << 20) as f64;

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

    /// What loading the model's parts would do, with its linear layers in that format. What else
    /// the file holds is left where it is.
    pub fn plan(&self, format: &WeightFormat) -> Result<LoadPlan> {
        let parts = self.parts()?;
        let target = |weight: &Weight<'_>| match parts.get(weight.name()) {
            Some(part) => format.target_of_part(weight, part),
            None => Target::Skip,
        };
        Ok(Loader::of(self.weights.clone()).plan(target)?)
    }

    /// Loads what the plan says, under the names of this module.
    pub fn load(
        &self,
        plan: &LoadPlan,
        progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<BTreeMap<String, AnyTensor>> {
        let mut loaded = plan.load(progress)?;
        let parts = self.parts()?.into_iter();
        Ok(parts.filter_map(|(file, part)| Some((part, loaded.take(&file)?))).collect())
    }

    /// That keys and values of so many tokens fit on a device beside the weights of a plan.
    pub fn check_context(&self, plan: &LoadPlan, device: &Device, tokens: usize) -> Result<()> {
        let each = self.config.cache_bytes_per_token();
        let left = device.memory().available().saturating_sub(plan.bytes());
        let fits = left / each.max(1);
        ensure!(
            tokens as u64 <= fits,
            "keys and values of {tokens} tokens take {:.1} MiB, and {:.1} MiB are left beside the \
             weights: {fits} tokens would fit, or a smaller --format",
            (each * tokens as u64) as f64 / MIB,
            left as f64 / MIB,
        );
        Ok(())
    }

    /// The model's parts that the file has, by their names there. Those that it must have are
    /// there.
    fn parts(&self) -> Result<BTreeMap<String, String>> {
        let mut parts = BTreeMap::new();
        let mut add = |name: String, needed: bool| -> Result<()> {
            let file = self.file_name(&name)?;
            let there = self.weights.contains(&file);
            ensure!(
                there || !needed,
                "{} has no `{file}`, which its architecture calls for; it has {} tensors",
                self.weights.path().display(),
                self.weights.entries().len()
            );
            parts.extend(there.then_some((file, name)));
            Ok(())
        };
        for i in 0..self.config.layers {
            for (part, ..) in LAYER_PARTS {
                let optional = matches!(part, "q_norm" | "k_norm");
                add(format!("layer.{i}.{part}.weight"), !optional)?;
                add(format!("layer.{i}.{part}.bias"), false)?;
            }
        }
        add("embedding.weight".to_owned(), true)?;
        add("norm.weight".to_owned(), true)?;
        add("head.weight".to_owned(), false)?;
        Ok(parts)
    }

    /// The file's name of a part.
    pub fn file_name(&self, name: &str) -> Result<String> {
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
