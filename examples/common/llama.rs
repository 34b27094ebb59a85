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
use ferrocerium::caps::MemoryKind;
use ferrocerium::io::{LoadPlan, Progress};
use ferrocerium::op::RopeFrequencies;
use ferrocerium::tensor::GemmBuilder;
use ferrocerium::{AnyTensor, DType, Device, Float, Tensor, bf16, f16};

use crate::common::checkpoint::Checkpoint;
use crate::common::config::Config;
use crate::common::weight_format::WeightFormat;

/// A model that is ready to run.
pub struct Llama {
    pub(super) config: Config,
    pub(super) device: Device,
    frequencies: RopeFrequencies,
    embedding: AnyTensor,
    pub(super) layers: Vec<Layer>,
    norm: Tensor<f32, 1>,
    head: Linear,
    /// Of embedding and head.
    table_bytes: usize,
}

pub(super) struct Layer {
    attention_norm: Tensor<f32, 1>,
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) o: Linear,
    q_norm: Option<Tensor<f32, 1>>,
    k_norm: Option<Tensor<f32, 1>>,
    mlp_norm: Tensor<f32, 1>,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl Layer {
    /// The matrices, by the names of their parts.
    pub(super) fn linears(&self) -> [(&'static str, &Linear); 7] {
        [
            ("q", &self.q),
            ("k", &self.k),
            ("v", &self.v),
            ("o", &self.o),
            ("gate", &self.gate),
            ("up", &self.up),
            ("down", &self.down),
        ]
    }
}

/// `x · Wᵀ + bias`, W stored as `[out, in]`.
pub(super) struct Linear {
    pub(super) weight_t: AnyTensor,
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
    pub(super) fn forward_onto<A: Float>(
        &self,
        x: &Tensor<A, 2>,
        residual: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        Ok(x.gemm(&self.weight_t).residual(residual).run()?)
    }
}

/// Keys and values of a layer.
pub(super) type LayerCache<A> = (Tensor<A, 4>, Tensor<A, 4>);

/// Keys and values of the tokens so far, per layer `[1, capacity, kv_heads, head_dim]`. Their type
/// is that of all activations.
pub struct KvCache<A: Float = f32> {
    layers: Vec<LayerCache<A>>,
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
    device: Device,
}

impl Parts {
    /// A weight, for the device: where it has memory of its own, moved there.
    fn take(&mut self, name: &str) -> Result<AnyTensor> {
        let loaded =
            self.loaded.remove(name).with_context(|| format!("`{name}` was not loaded"))?;
        if self.device.memory_kind() == MemoryKind::Device {
            return loaded.to_device(&self.device).with_context(|| format!("`{name}`"));
        }
        Ok(loaded.on(&self.device))
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
        Self::load_by(
            checkpoint,
            &checkpoint.plan(format)?,
            checkpoint.weights().device(),
            progress,
        )
    }

    /// Loads every weight as a plan of the checkpoint says, for a device that may be another one
    /// than that which loads.
    pub fn load_by(
        checkpoint: &Checkpoint,
        plan: &LoadPlan,
        device: &Device,
        progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Self> {
        let config = checkpoint.config.clone();
        let device = device.clone();
        let mut parts = Parts { loaded: checkpoint.load(plan, progress)?, device: device.clone() };
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
            true => Some(parts.matrix("head.weight", None)?),
            false => None,
        };
        Ok(Llama {
            table_bytes: embedding.bytes() + head.as_ref().map_or(0, AnyTensor::bytes),
            norm: parts.vector("norm.weight", hidden)?,
            head: Linear::new(head.as_ref().unwrap_or(&embedding), None)?,
            device,
            frequencies: RopeFrequencies::new(
                config.rope_theta,
                config.head_dim,
                &config.rope_scaling,
            )?,
            config,
            embedding,
            layers,
        })
    }

    /// Bytes of embedding, head and linear layers.
    pub fn weight_bytes(&self) -> usize {
        self.table_bytes + self.linears().map(|linear| linear.weight_t.bytes()).sum::<usize>()
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(Layer::linears).map(|(_, linear)| linear)
    }

    /// Weights of the layers' matrices: each takes a multiply-add for each token.
    pub fn linear_weights(&self) -> usize {
        self.linears().map(|linear| linear.weight_t.shape().iter().product::<usize>()).sum()
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
        let layers = (0..self.config.layers).map(|i| self.layer_cache(i, capacity));
        Ok(KvCache { layers: layers.collect::<Result<_>>()?, len: 0, capacity })
    }

    pub(super) fn layer_cache<A: Float>(
        &self,
        layer: usize,
        capacity: usize,
    ) -> Result<LayerCache<A>> {
        let shape = [1, capacity, self.config.kv_heads, self.config.head_dim];
        let zeros = |part| {
            Tensor::zeros_labelled(&self.device, shape, format!("{part} cache, layer {layer}"))
        };
        Ok((zeros("k")?, zeros("v")?))
    }

    /// Makes ready what running these tokens, and one more after them, needs: on a GPU its kernels.
    /// `then` runs what is done with logits.
    pub fn prepare<A: Float>(
        &self,
        tokens: &[u32],
        cache: &mut KvCache<A>,
        then: impl FnOnce(&Tensor<f32, 2>) -> Result<()>,
    ) -> Result<()> {
        let len = cache.len;
        let layers = self.layers_that_differ();
        let prepared = self.device.prepare(|| {
            let mut logits = self.forward_layers(&layers, tokens, cache, Logits::Last)?;
            if cache.len < cache.capacity {
                logits = self.forward_layers(&layers, &tokens[..1], cache, Logits::Last)?;
            }
            then(&logits)
        });
        cache.len = len;
        prepared
    }

    /// The first layer of each kind of weights.
    fn layers_that_differ(&self) -> Vec<usize> {
        let kind =
            |layer: &Layer| layer.linears().map(|(_, x)| (x.weight_t.dtype(), x.weight_t.format()));
        let kinds: Vec<_> = self.layers.iter().map(kind).collect();
        (0..kinds.len()).filter(|&i| !kinds[..i].contains(&kinds[i])).collect()
    }

    /// Runs `tokens` after those in the cache, and returns logits `[positions, vocab]`.
    pub fn forward<A: Float>(
        &self,
        tokens: &[u32],
        cache: &mut KvCache<A>,
        logits: Logits,
    ) -> Result<Tensor<f32, 2>> {
        let layers: Vec<usize> = (0..self.layers.len()).collect();
        self.device.workers().enter(|| self.forward_layers(&layers, tokens, cache, logits))
    }

    fn forward_layers<A: Float>(
        &self,
        layers: &[usize],
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
        for &i in layers {
            let layer = &self.layers[i];
            x = self.attention(layer, &cache.layers[i], cache.len, &x)?;
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

    pub(super) fn embed<A: Float>(&self, ids: &Tensor<u32, 1>) -> Result<Tensor<A, 2>> {
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
        kv: &LayerCache<A>,
        past: usize,
        x: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        let mixed = self.mix(layer, kv, past, &self.attention_input(layer, x)?)?;
        layer.o.forward_onto(&mixed, x)
    }

    /// What q, k and v are computed from.
    pub(super) fn attention_input<A: Float>(
        &self,
        layer: &Layer,
        x: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        Ok(x.rms_norm(&layer.attention_norm, self.config.norm_eps)?)
    }

    /// What attention mixes: the input of o.
    pub(super) fn mix<A: Float>(
        &self,
        layer: &Layer,
        (k_cache, v_cache): &LayerCache<A>,
        past: usize,
        normed: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        let Config { heads, kv_heads, head_dim, norm_eps, rope_style, .. } = self.config;
        let [n, _] = normed.shape();
        let split = |linear: &Linear, heads: usize| -> Result<Tensor<A, 4>> {
            Ok(linear.forward::<A, A>(normed)?.reshape([1, n, heads, head_dim])?)
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
        layer.v.product(normed).run_into(&place(v_cache)?.reshape([n, kv_heads * head_dim])?)?;
        let (k, v) = (k_cache.slice(1, 0..past + n)?, v_cache.slice(1, 0..past + n)?);
        let mixed = q.attention(&k, &v).causal().run::<A>()?;
        Ok(mixed.reshape([n, heads * head_dim])?)
    }

    fn mlp<A: Float>(&self, layer: &Layer, x: &Tensor<A, 2>) -> Result<Tensor<A, 2>> {
        let gated = self.gated(layer, &self.mlp_input(layer, x)?)?;
        layer.down.forward_onto(&gated, x)
    }

    /// What gate and up are computed from.
    pub(super) fn mlp_input<A: Float>(
        &self,
        layer: &Layer,
        x: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        Ok(x.rms_norm(&layer.mlp_norm, self.config.norm_eps)?)
    }

    /// The input of down.
    pub(super) fn gated<A: Float>(
        &self,
        layer: &Layer,
        normed: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        let (gate, up) = (layer.gate.forward::<A, A>(normed)?, layer.up.forward(normed)?);
        Ok(gate.silu_mul::<2>(&up)?)
    }
}
