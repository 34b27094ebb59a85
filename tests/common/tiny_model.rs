//! Small Llama-family models, as GGUF files and as Hugging Face folders: those of
//! tests/golden/generate_tiny_llama.py.
#![allow(dead_code)]

use serde_json::json;

use crate::folder::Folder;
use crate::gguf_file::GgufFile;
use crate::ops::numbers;
use crate::safetensors_file;
use crate::vocabulary::{byte_pairs, tokenizer_json};

const LAYERS: usize = 2;
const HIDDEN: usize = 24;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const FFN: usize = 20;
const VOCAB: usize = 266;
pub const CONTEXT: usize = 64;
const EPS: f32 = 1e-5;
/// ggml's code for f32.
const F32: u32 = 0;

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";

/// What sets the models apart.
#[derive(Clone, Copy, Debug)]
pub struct TinyModel {
    /// In GGUF's spelling.
    pub arch: &'static str,
    class: &'static str,
    head_dim: usize,
    bias: bool,
    norms: bool,
    tied: bool,
    /// Llama 3's scaling of positions.
    scaled: bool,
}

pub const LLAMA: TinyModel = TinyModel {
    arch: "llama",
    class: "LlamaForCausalLM",
    head_dim: 6,
    bias: false,
    norms: false,
    tied: true,
    scaled: true,
};

pub const QWEN2: TinyModel = TinyModel {
    arch: "qwen2",
    class: "Qwen2ForCausalLM",
    bias: true,
    tied: false,
    scaled: false,
    ..LLAMA
};

pub const QWEN3: TinyModel = TinyModel {
    arch: "qwen3",
    class: "Qwen3ForCausalLM",
    head_dim: 8,
    bias: false,
    norms: true,
    ..QWEN2
};

/// A weight: its name in Hugging Face folders and in GGUF files, its shape and its values.
pub struct Weight {
    pub name: String,
    pub in_gguf: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl TinyModel {
    /// The weights, in the order of the script.
    pub fn weights(&self) -> Vec<Weight> {
        let (q, kv) = (HEADS * self.head_dim, KV_HEADS * self.head_dim);
        let mut list = Vec::new();
        let mut add = |name: String, in_gguf: String, shape: &[usize]| {
            let len = shape.iter().product();
            let quarter = numbers(len, list.len() as u64).into_iter().map(|x| x / 4.0);
            let values: Vec<f32> = match name.ends_with("norm.weight") {
                true => quarter.map(|x| 1.0 + x).collect(),
                false => quarter.collect(),
            };
            list.push(Weight { name, in_gguf, shape: shape.to_vec(), values });
        };
        add("model.embed_tokens.weight".into(), "token_embd.weight".into(), &[VOCAB, HIDDEN]);
        for i in 0..LAYERS {
            let mut layer = |name: &str, in_gguf: &str, shape: &[usize]| {
                add(format!("model.layers.{i}.{name}"), format!("blk.{i}.{in_gguf}"), shape);
            };
            layer("input_layernorm.weight", "attn_norm.weight", &[HIDDEN]);
            for (part, width) in [("q", q), ("k", kv), ("v", kv)] {
                let (name, in_gguf) = (format!("self_attn.{part}_proj"), format!("attn_{part}"));
                layer(&format!("{name}.weight"), &format!("{in_gguf}.weight"), &[width, HIDDEN]);
                if self.bias {
                    layer(&format!("{name}.bias"), &format!("{in_gguf}.bias"), &[width]);
                }
            }
            if self.norms {
                layer("self_attn.q_norm.weight", "attn_q_norm.weight", &[self.head_dim]);
                layer("self_attn.k_norm.weight", "attn_k_norm.weight", &[self.head_dim]);
            }
            layer("self_attn.o_proj.weight", "attn_output.weight", &[HIDDEN, q]);
            layer("post_attention_layernorm.weight", "ffn_norm.weight", &[HIDDEN]);
            layer("mlp.gate_proj.weight", "ffn_gate.weight", &[FFN, HIDDEN]);
            layer("mlp.up_proj.weight", "ffn_up.weight", &[FFN, HIDDEN]);
            layer("mlp.down_proj.weight", "ffn_down.weight", &[HIDDEN, FFN]);
        }
        add("model.norm.weight".into(), "output_norm.weight".into(), &[HIDDEN]);
        if !self.tied {
            add("lm_head.weight".into(), "output.weight".into(), &[VOCAB, HIDDEN]);
        }
        list
    }

    /// The metadata of a GGUF file, with the vocabulary.
    pub fn metadata(&self) -> GgufFile {
        let key = |name: &str| format!("{}.{name}", self.arch);
        byte_pairs("gpt-2")
            .str("general.architecture", self.arch)
            .u32(&key("block_count"), LAYERS as u32)
            .u32(&key("embedding_length"), HIDDEN as u32)
            .u32(&key("attention.head_count"), HEADS as u32)
            .u32(&key("attention.head_count_kv"), KV_HEADS as u32)
            .u32(&key("attention.key_length"), self.head_dim as u32)
            .u32(&key("context_length"), CONTEXT as u32)
            .f32(&key("attention.layer_norm_rms_epsilon"), EPS)
            .bool("tokenizer.ggml.add_bos_token", false)
            .str("tokenizer.chat_template", TEMPLATE)
    }

    /// The GGUF file. `rope_factors` divide the frequencies of its pairs.
    pub fn gguf(&self, rope_factors: &[f32]) -> GgufFile {
        let mut file = self.metadata();
        for weight in self.weights() {
            let values = self.in_gguf_order(&weight);
            let dims: Vec<u64> = weight.shape.iter().rev().map(|&d| d as u64).collect();
            file = file.tensor(&weight.in_gguf, &dims, F32, bytemuck::cast_slice(&values));
        }
        if self.scaled {
            let (dims, data) = ([rope_factors.len() as u64], bytemuck::cast_slice(rope_factors));
            file = file.tensor("rope_freqs.weight", &dims, F32, data);
        }
        file
    }

    /// Llama's GGUF files have the two elements of a rotated pair side by side.
    fn in_gguf_order(&self, weight: &Weight) -> Vec<f32> {
        let rotated = ["attn_q.weight", "attn_k.weight"];
        if self.arch != "llama" || !rotated.iter().any(|name| weight.in_gguf.ends_with(name)) {
            return weight.values.clone();
        }
        let row = |r: usize| {
            let (head, at) = (r / self.head_dim, r % self.head_dim);
            let from = head * self.head_dim + at % 2 * (self.head_dim / 2) + at / 2;
            &weight.values[from * HIDDEN..][..HIDDEN]
        };
        (0..weight.shape[0]).flat_map(row).copied().collect()
    }

    /// `config.json`
    pub fn config(&self) -> serde_json::Value {
        let mut config = json!({
            "architectures": [self.class],
            "num_hidden_layers": LAYERS,
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": self.head_dim,
            "vocab_size": VOCAB,
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": EPS,
            "rope_theta": 10000.0,
        });
        if self.scaled {
            config["rope_scaling"] = json!({
                "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
            });
        }
        config
    }

    /// The safetensors file, with another tensor of that many bytes before the weights.
    pub fn safetensors(&self, before: usize) -> Vec<u8> {
        let (weights, other) = (self.weights(), vec![0; before]);
        let shape = [before];
        let other = ("another", "U8", &shape[..], &other[..]);
        let f32s = |w: &'_ Weight| -> Vec<u8> { bytemuck::cast_slice(&w.values).to_vec() };
        let bytes: Vec<Vec<u8>> = weights.iter().map(f32s).collect();
        let ours = weights.iter().zip(&bytes).map(|(w, b)| (&*w.name, "F32", &*w.shape, &**b));
        let tensors: Vec<safetensors_file::Tensor<'_>> =
            (before > 0).then_some(other).into_iter().chain(ours).collect();
        safetensors_file::file(&tensors)
    }

    /// Fills a folder as the Hugging Face hub has them.
    pub fn write_folder(&self, folder: &Folder) {
        folder.write("model.safetensors", self.safetensors(0));
        folder.write("config.json", self.config().to_string());
        folder.write("tokenizer.json", tokenizer_json());
        folder.write("tokenizer_config.json", json!({"chat_template": TEMPLATE}).to_string());
    }
}
