//! A Llama-family transformer: RMSNorm, rotary embedding, grouped-query attention, SwiGLU.
//!
//! ```text
//! x = embed(token)
//! each layer:  x += Wo · attention(rope(Wq·n), rope(Wk·n), Wv·n),   n = rmsnorm(x)
//!              x += Wdown · (silu(Wgate·n) ∘ Wup·n),                n = rmsnorm(x)
//! logits = Whead · rmsnorm(x)
//! ```
//!
//! Activations are f32, or of another type if the cache is; the linear layers' weights are of
//! whatever type they were loaded in.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use ferrocerium::io::{LoadPlan, Progress};
use ferrocerium::op::RopeFrequencies;
use ferrocerium::tensor::GemmBuilder;
use ferrocerium::{AnyTensor, DType, Device, Float, Tensor, bf16, f16};

use crate::common::checkpoint::Checkpoint;
use crate::common::config::Config;
use crate::common::weight_format::WeightFormat;

/// A model that is ready to run.
pub struct Llama {
    config: Config,
    device: Device,
    frequencies: RopeFrequencies,
    embedding: AnyTensor,
    layers: Vec<Layer>,
    norm: Tensor<f32, 1>,
    head: Linear,
    weight_bytes: usize,
}

struct Layer {
    attention_norm: Tensor<f32, 1>,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    q_norm: Option<Tensor<f32, 1>>,
    k_norm: Option<Tensor<f32, 1>>,
    mlp_norm: Tensor<f32, 1>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// `x · Wᵀ + bias`, W stored as `[out, in]`.
struct Linear {
    weight_t: AnyTensor,
    bias: Option<Tensor<f32, 1>>,
}

impl Linear {
    fn new(weight: &AnyTensor, bias: Option<Tensor<f32, 1>>) -> Result<Self> {
        Ok(Linear { weight_t: weight.t()?, bias })
    }

    fn product<A: Float>(&self, x: &Tensor<A, 2>) -> GemmBuilder<2> {
        let product = x.gemm(&self.weight_t);
        match &self.bias {
            Some(bias) => product.bias(bias),
            None => product,
        }
    }

    fn forward<A: Float, O: Float>(&self, x: &Tensor<A, 2>) -> Result<Tensor<O, 2>> {
        Ok(self.product(x).run()?)
    }

    /// `residual + x · Wᵀ`
    fn forward_onto<A: Float>(
        &self,
        x: &Tensor<A, 2>,
        residual: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        Ok(x.gemm(&self.weight_t).residual(residual).run()?)
    }
}

/// Keys and values of the tokens so far, per layer `[1, capacity, kv_heads, head_dim]`. Their type
/// is that of all activations.
pub struct KvCache<A: Float = f32> {
    layers: Vec<(Tensor<A, 4>, Tensor<A, 4>)>,
    len: usize,
    capacity: usize,
}

impl<A: Float> KvCache<A> {
    /// Tokens that are in.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Forgets all tokens; the memory is kept.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

/// The loaded weights, handed out one by one.
struct Parts {
    loaded: BTreeMap<String, AnyTensor>,
    matrix_bytes: usize,
}

impl Parts {
    fn take(&mut self, name: &str) -> Result<AnyTensor> {
        self.loaded.remove(name).with_context(|| format!("`{name}` was not loaded"))
    }

    fn matrix(&mut self, name: &str, shape: Option<[usize; 2]>) -> Result<AnyTensor> {
        let tensor = self.take(name)?;
        ensure!(
            tensor.dtype().is_none_or(DType::is_float) && tensor.shape().len() == 2,
            "`{name}` is {tensor}: weights are matrices of floats or of a block format"
        );
        if let Some(shape) = shape {
            ensure!(
                tensor.shape() == shape,
                "`{name}` is {tensor}: {shape:?} follows from the model's configuration"
            );
        }
        self.matrix_bytes += tensor.bytes();
        Ok(tensor)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Tensor<f32, 1>> {
        let tensor = self.take(name)?.tensor::<f32, 1>().with_context(|| format!("`{name}`"))?;
        ensure!(tensor.len() == len, "`{name}` has {} elements, not {len}", tensor.len());
        Ok(tensor)
    }

    fn vector_opt(&mut self, name: &str, len: usize) -> Result<Option<Tensor<f32, 1>>> {
        self.loaded.contains_key(name).then(|| self.vector(name, len)).transpose()
    }
}

/// Which positions' logits are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// Only the last position's.
    Last,
    /// Those of the last `n` positions.
    LastN(usize),
}

impl Llama {
    /// Loads every weight, with linear layers in `format`.
    pub fn load(
        checkpoint: &Checkpoint,
        format: &WeightFormat,
        progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Self> {
        Self::load_by(checkpoint, &checkpoint.plan(format)?, progress)
    }

    /// Loads every weight as a plan of the checkpoint says.
    pub fn load_by(
        checkpoint: &Checkpoint,
        plan: &LoadPlan,
        progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Self> {
        let config = checkpoint.config.clone();
        let mut parts = Parts { loaded: checkpoint.load(plan, progress)?, matrix_bytes: 0 };
        let hidden = config.hidden;
        let (q_width, kv_width) =
            (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut layers = Vec::new();
        for i in 0..config.layers {
            let name = |part: &str| format!("layer.{i}.{part}");
            let mut linear = |part: &str, shape: Option<[usize; 2]>| -> Result<Linear> {
                let weight = parts.matrix(&name(&format!("{part}.weight")), shape)?;
                let bias = parts.vector_opt(&name(&format!("{part}.bias")), weight.shape()[0])?;
                Linear::new(&weight, bias)
            };
            layers.push(Layer {
                q: linear("q", Some([q_width, hidden]))?,
                k: linear("k", Some([kv_width, hidden]))?,
                v: linear("v", Some([kv_width, hidden]))?,
                o: linear("o", Some([hidden, q_width]))?,
                gate: linear("gate", None)?,
                up: linear("up", None)?,
                down: linear("down", None)?,
                attention_norm: parts.vector(&name("attention_norm.weight"), hidden)?,
                mlp_norm: parts.vector(&name("mlp_norm.weight"), hidden)?,
                q_norm: parts.vector_opt(&name("q_norm.weight"), config.head_dim)?,
                k_norm: parts.vector_opt(&name("k_norm.weight"), config.head_dim)?,
            });
        }
        let embedding = parts.matrix("embedding.weight", None)?;
        ensure!(
            embedding.shape()[1] == hidden,
            "the embedding is {embedding}, not [vocabulary, {hidden}]"
        );
        let head = match checkpoint.has("head.weight") {
            true => parts.matrix("head.weight", None)?,
            false => embedding.clone(),
        };
        Ok(Llama {
            norm: parts.vector("norm.weight", hidden)?,
            head: Linear::new(&head, None)?,
            device: checkpoint.weights().device().clone(),
            frequencies: RopeFrequencies::new(
                config.rope_theta,
                config.head_dim,
                &config.rope_scaling,
            )?,
            config,
            embedding,
            layers,
            weight_bytes: parts.matrix_bytes,
        })
    }

    /// Bytes of embedding, head and linear layers.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Weights of the layers' matrices: each takes a multiply-add for each token.
    pub fn linear_weights(&self) -> usize {
        let layers = self.layers.iter();
        let matrices = layers.flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down]);
        matrices.map(|linear| linear.weight_t.shape().iter().product::<usize>()).sum()
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Size of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.embedding.shape()[0]
    }

    /// An empty cache for up to `capacity` tokens.
    pub fn cache(&self, capacity: usize) -> Result<KvCache> {
        self.cache_as(capacity)
    }

    /// The same for activations of another type.
    pub fn cache_as<A: Float>(&self, capacity: usize) -> Result<KvCache<A>> {
        let shape = [1, capacity, self.config.kv_heads, self.config.head_dim];
        let layer = |i: usize| -> Result<_> {
            let zeros = |part| {
                Tensor::zeros_labelled(&self.device, shape, format!("{part} cache, layer {i}"))
            };
            Ok((zeros("k")?, zeros("v")?))
        };
        let layers = (0..self.config.layers).map(layer).collect::<Result<_>>()?;
        Ok(KvCache { layers, len: 0, capacity })
    }

    /// Runs `tokens` after those in the cache, and returns logits `[positions, vocab]`.
    pub fn forward<A: Float>(
        &self,
        tokens: &[u32],
        cache: &mut KvCache<A>,
        logits: Logits,
    ) -> Result<Tensor<f32, 2>> {
        self.device.workers().enter(|| self.forward_here(tokens, cache, logits))
    }

    fn forward_here<A: Float>(
        &self,
        tokens: &[u32],
        cache: &mut KvCache<A>,
        logits: Logits,
    ) -> Result<Tensor<f32, 2>> {
        let n = tokens.len();
        ensure!(n > 0, "no tokens to run");
        ensure!(
            cache.len + n <= cache.capacity,
            "{} tokens do not fit the context of {}",
            cache.len + n,
            cache.capacity
        );
        let ids = Tensor::from_host(&self.device, [n], tokens)?;
        let mut x = self.embed::<A>(&ids)?;
        for (layer, kv) in self.layers.iter().zip(&cache.layers) {
            x = self.attention(layer, kv, cache.len, &x)?;
            x = self.mlp(layer, &x)?;
        }
        cache.len += n;
        let wanted = match logits {
            Logits::Last => 1,
            Logits::LastN(wanted) => wanted.min(n),
        };
        let last = x.slice(0, n - wanted..n)?;
        self.head.forward(&last.rms_norm(&self.norm, self.config.norm_eps)?)
    }

    fn embed<A: Float>(&self, ids: &Tensor<u32, 1>) -> Result<Tensor<A, 2>> {
        let table = &self.embedding;
        Ok(match table.dtype() {
            Some(DType::F32) => table.tensor::<f32, 2>()?.embed_as(ids)?,
            Some(DType::BF16) => table.tensor::<bf16, 2>()?.embed_as(ids)?,
            Some(DType::F16) => table.tensor::<f16, 2>()?.embed_as(ids)?,
            _ => anyhow::bail!("the embedding is {table}; f32, bf16 or f16 is expected"),
        })
    }

    fn attention<A: Float>(
        &self,
        layer: &Layer,
        (k_cache, v_cache): &(Tensor<A, 4>, Tensor<A, 4>),
        past: usize,
        x: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        let Config { heads, kv_heads, head_dim, norm_eps, rope_style, .. } = self.config;
        let [n, _] = x.shape();
        let normed = x.rms_norm(&layer.attention_norm, norm_eps)?;
        let split = |linear: &Linear, heads: usize| -> Result<Tensor<A, 4>> {
            Ok(linear.forward::<A, A>(&normed)?.reshape([1, n, heads, head_dim])?)
        };
        let norm = |x: Tensor<A, 4>, weight: &Option<Tensor<f32, 1>>| -> Result<_> {
            Ok(match weight {
                Some(weight) => x.rms_norm(weight, norm_eps)?,
                None => x,
            })
        };
        let q = norm(split(&layer.q, heads)?, &layer.q_norm)?;
        let q = q.rope(&self.frequencies, rope_style, past)?;
        let k = norm(split(&layer.k, kv_heads)?, &layer.k_norm)?;
        // Keys and values are computed into their places.
        let place = |cache: &Tensor<A, 4>| cache.slice(1, past..past + n);
        k.rope_into(&self.frequencies, rope_style, past, &place(k_cache)?)?;
        layer.v.product(&normed).run_into(&place(v_cache)?.reshape([n, kv_heads * head_dim])?)?;
        let (k, v) = (k_cache.slice(1, 0..past + n)?, v_cache.slice(1, 0..past + n)?);
        let mixed = q.attention(&k, &v).causal().run::<A>()?;
        layer.o.forward_onto(&mixed.reshape([n, heads * head_dim])?, x)
    }

    fn mlp<A: Float>(&self, layer: &Layer, x: &Tensor<A, 2>) -> Result<Tensor<A, 2>> {
        let normed = x.rms_norm(&layer.mlp_norm, self.config.norm_eps)?;
        let (gate, up) = (layer.gate.forward::<A, A>(&normed)?, layer.up.forward(&normed)?);
        let gated = gate.silu_mul::<2>(&up)?;
        layer.down.forward_onto(&gated, x)
    }
}
