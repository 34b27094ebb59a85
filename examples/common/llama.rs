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

use anyhow::{Context, Result, bail, ensure};
use ferrocerium::caps::MemoryKind;
use ferrocerium::io::{LoadPlan, Progress};
use ferrocerium::op::RopeFrequencies;
use ferrocerium::{AnyTensor, DType, Device, Float, Tensor, bf16, f16};

use crate::common::checkpoint::Checkpoint;
use crate::common::cli::is_gpu;
use crate::common::config::Config;
use crate::common::kv_cache::{KvCache, LayerCache};
use crate::common::layer::{Layer, Linear};
use crate::common::rotation::Rotation;
use crate::common::step::{Place, Spot};
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
    /// Of what the layers' matrices multiply, where these are rotated.
    pub rotation: Option<Rotation>,
    /// Of embedding and head: one where the model has one table for both.
    table_bytes: usize,
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
                qkv: None,
                gate_up: None,
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
            rotation: config.rotation.map(|inputs| Rotation::new(&device, inputs)).transpose()?,
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

    /// Puts the head, which stays at 16 bits or more while loading, in a block format. Where the
    /// model has one table for both the embedding stays beside it, for its rows are looked up.
    pub fn quantize_head(&mut self, format: &WeightFormat) -> Result<()> {
        let &WeightFormat::Blocks(format, quantizer) = format else {
            bail!("the head becomes {format}: choose a block format that needs no text");
        };
        let head = self.head.weight_t.t()?;
        let quantized = head.quantize(format, quantizer)?;
        let tied = self.table_bytes == self.embedding.bytes();
        self.table_bytes += quantized.bytes();
        self.table_bytes -= if tied { 0 } else { head.bytes() };
        self.head.weight_t = quantized.t()?;
        Ok(())
    }

    /// Lays weights in block formats out for decoding: to `join` them matrices of the same inputs are
    /// multiplied as one where formats allow that, and on CPUs they lie in few large buffers. Results
    /// stay the same, but for what is no longer rounded to 16 bits on the way from a gate to what it
    /// is multiplied with. Meanwhile there are two copies of what goes into one buffer.
    pub fn lay_out(&mut self, join: bool) -> Result<()> {
        /// Bytes of a buffer, about: many large pages.
        const BUFFER: usize = 32 << 20;
        if self.is_on_gpu() {
            return if join { self.layers.iter_mut().try_for_each(Layer::join) } else { Ok(()) };
        }
        let each = self.linears().map(|linear| linear.weight_t.bytes()).sum::<usize>();
        let each = BUFFER.div_ceil((each / self.layers.len().max(1)).max(1));
        for layers in self.layers.chunks_mut(each) {
            if join {
                layers.iter_mut().try_for_each(Layer::join)?;
            }
            let weights = layers.iter_mut().flat_map(Layer::weights_mut);
            let mut weights: Vec<_> = weights.filter(|weight| weight.format().is_some()).collect();
            AnyTensor::into_one_buffer(&self.device, &mut weights, "layers")?;
        }
        if self.head.weight_t.format().is_some() {
            AnyTensor::into_one_buffer(&self.device, &mut [&mut self.head.weight_t], "head")?;
        }
        Ok(())
    }

    /// Bytes of the weights that decoding reads for each token: head and linear layers, for of the
    /// embedding that is a row.
    pub fn bytes_per_token(&self) -> usize {
        self.head.weight_t.bytes()
            + self.linears().map(|linear| linear.weight_t.bytes()).sum::<usize>()
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

    /// Whether a GPU runs it, real or emulated.
    pub fn is_on_gpu(&self) -> bool {
        is_gpu(&self.device)
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Size of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.embedding.shape()[0]
    }

    /// Runs `tokens` after those in the cache, and returns logits `[positions, vocab]`.
    pub fn forward<A: Float>(
        &self,
        tokens: &[u32],
        cache: &mut KvCache<A>,
        logits: Logits,
    ) -> Result<Tensor<f32, 2>> {
        ensure!(!tokens.is_empty(), "no tokens to run");
        cache.require_room(tokens.len())?;
        let layers: Vec<usize> = (0..self.layers.len()).collect();
        let ids = Tensor::from_host(&self.device, [tokens.len()], tokens)?;
        let place = Place::After(cache.len);
        let logits = self.run(&layers, &ids, cache, place, logits)?;
        cache.len += tokens.len();
        Ok(logits)
    }

    /// Runs tokens through some layers.
    pub(super) fn run<A: Float>(
        &self,
        layers: &[usize],
        ids: &Tensor<u32, 1>,
        cache: &KvCache<A>,
        place: Place<'_>,
        logits: Logits,
    ) -> Result<Tensor<f32, 2>> {
        let [n] = ids.shape();
        let mut x = self.embed::<A>(ids)?;
        for &i in layers {
            let layer = &self.layers[i];
            x = self.attention(layer, &cache.layers[i], place, &x)?;
            x = self.mlp(layer, &x)?;
        }
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
            _ => bail!("the embedding is {table}; f32, bf16 or f16 is expected"),
        })
    }

    fn attention<A: Float>(
        &self,
        layer: &Layer,
        kv: &LayerCache<A>,
        place: Place<'_>,
        x: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        let mixed = self.mix(layer, kv, place, &self.attention_input(layer, x)?)?;
        layer.o.forward_onto(&mixed, x)
    }

    /// What q, k and v are computed from.
    pub(super) fn attention_input<A: Float>(
        &self,
        layer: &Layer,
        x: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        self.rotated(x.rms_norm(&layer.attention_norm, self.config.norm_eps)?)
    }

    /// What attention mixes: the input of o.
    pub(super) fn mix<A: Float>(
        &self,
        layer: &Layer,
        (k_cache, v_cache): &LayerCache<A>,
        place: Place<'_>,
        normed: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        let Config { heads, kv_heads, head_dim, norm_eps, rope_style, .. } = self.config;
        let [n, _] = normed.shape();
        let by_head = |linear: &Linear, heads: usize| -> Result<Tensor<A, 4>> {
            Ok(linear.forward::<A, A>(normed)?.reshape([1, n, heads, head_dim])?)
        };
        let norm = |x: Tensor<A, 4>, weight: &Option<Tensor<f32, 1>>| -> Result<_> {
            Ok(match weight {
                Some(weight) => x.rms_norm(weight, norm_eps)?,
                None => x,
            })
        };
        let two = |both: &Tensor<A, 4>| -> Result<_> {
            Ok((both.slice(2, 0..heads)?, both.slice(2, heads..heads + kv_heads)?))
        };
        // Queries and keys in one tensor where they come so, and are not normed apart.
        let (together, q, k, v) = match &layer.qkv {
            Some(qkv) => {
                let all = by_head(qkv, heads + 2 * kv_heads)?;
                let together = all.slice(2, 0..heads + kv_heads)?;
                let (q, k) = two(&together)?;
                let v = all.slice(2, heads + kv_heads..heads + 2 * kv_heads)?;
                let normed = layer.q_norm.is_some() || layer.k_norm.is_some();
                ((!normed).then_some(together), q, k, Some(v))
            }
            None => (None, by_head(&layer.q, heads)?, by_head(&layer.k, kv_heads)?, None),
        };
        let (q, k) = (norm(q, &layer.q_norm)?, norm(k, &layer.k_norm)?);
        let frequencies = &self.frequencies;
        let mixed = match place {
            Place::After(past) => {
                let q = q.rope(frequencies, rope_style, past)?;
                // Keys and values are computed into their places.
                let place = |cache: &Tensor<A, 4>| cache.slice(1, past..past + n);
                k.rope_into(frequencies, rope_style, past, &place(k_cache)?)?;
                let v_place = place(v_cache)?;
                match v {
                    Some(v) => v_place.copy_from(&v)?,
                    None => {
                        let v_place = v_place.reshape([n, kv_heads * head_dim])?;
                        layer.v.product(normed).run_into(&v_place)?;
                    }
                }
                let (k, v) = (k_cache.slice(1, 0..past + n)?, v_cache.slice(1, 0..past + n)?);
                q.attention(&k, &v).causal().run::<A>()?
            }
            Place::Given(Spot { position, count, .. }) => {
                let rotated = |x: &Tensor<A, 4>| x.rope_at(frequencies, rope_style, position);
                let (q, k) = match together {
                    Some(both) => two(&rotated(&both)?)?,
                    None => (rotated(&q)?, rotated(&k)?),
                };
                k_cache.scatter_from(1, position, &k)?;
                let v = v.map_or_else(|| by_head(&layer.v, kv_heads), Ok)?;
                v_cache.scatter_from(1, position, &v)?;
                q.attention(k_cache, v_cache).kv_lens(count).causal().run::<A>()?
            }
        };
        let mixed = mixed.reshape([n, heads * head_dim])?;
        match &self.rotation {
            Some(rotation) if rotation.inputs().by_values => Ok(mixed),
            _ => self.rotated(mixed),
        }
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
        self.rotated(x.rms_norm(&layer.mlp_norm, self.config.norm_eps)?)
    }

    /// The input of down.
    pub(super) fn gated<A: Float>(
        &self,
        layer: &Layer,
        normed: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        self.rotated(layer.gated(normed)?)
    }

    /// What the matrices of a layer multiply.
    fn rotated<A: Float>(&self, x: Tensor<A, 2>) -> Result<Tensor<A, 2>> {
        match &self.rotation {
            Some(rotation) => rotation.of(&x),
            None => Ok(x),
        }
    }
}
