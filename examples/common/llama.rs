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
use ferrocerium::device::Graph;
use ferrocerium::io::{LoadPlan, Progress};
use ferrocerium::op::RopeFrequencies;
use ferrocerium::tensor::GemmBuilder;
use ferrocerium::{AnyTensor, DType, Device, Float, Tensor, bf16, f16};

use crate::common::checkpoint::Checkpoint;
use crate::common::cli::is_gpu;
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
    /// Of embedding and head: one where the model has one table for both.
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

    /// Refuses more tokens than fit.
    fn require_room(&self, tokens: usize) -> Result<()> {
        let (len, capacity) = (self.len + tokens, self.capacity);
        ensure!(len <= capacity, "{len} tokens do not fit the context of {capacity}");
        Ok(())
    }

    /// Forgets all tokens; the memory is kept.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

/// Where tokens stand.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// After so many others.
    After(usize),
    /// One token, where memory says.
    Given(&'a Spot),
}

/// One token and where it stands, in memory that a recorded step reads.
pub(super) struct Spot {
    /// Token, position, and the number of tokens up to it.
    numbers: Tensor<u32, 1>,
    token: Tensor<u32, 1>,
    position: Tensor<u32, 1>,
    count: Tensor<u32, 1>,
}

impl Spot {
    /// In memory that the host writes and the device reads.
    fn new(device: &Device) -> Result<Self> {
        let numbers = Tensor::<u32, 1>::zeros(device, [3])?;
        let numbers = match device.memory_kind() {
            MemoryKind::Device => numbers.to_kind(MemoryKind::Pinned)?,
            _ => numbers,
        };
        let one = |i| numbers.slice(0, i..i + 1);
        Ok(Spot { token: one(0)?, position: one(1)?, count: one(2)?, numbers })
    }

    fn set(&self, token: u32, position: usize) -> Result<()> {
        let position = u32::try_from(position)?;
        let mut numbers = self.numbers.host_mut()?;
        (numbers[[0]], numbers[[1]], numbers[[2]]) = (token, position, position + 1);
        Ok(())
    }
}

/// The run of one token, recorded once: the same work for each, at another place.
pub struct Step<T> {
    graph: Graph,
    spot: Spot,
    made: T,
}

impl<T> Step<T> {
    /// Runs a token after those in the cache that the step was recorded with; what it makes.
    pub fn run<A: Float>(&self, token: u32, cache: &mut KvCache<A>) -> Result<&T> {
        cache.require_room(1)?;
        self.spot.set(token, cache.len)?;
        self.graph.replay()?;
        cache.len += 1;
        Ok(&self.made)
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

    /// Makes ready what running these tokens needs, and one more by a recorded step: on a GPU its
    /// kernels. `then` is what is done with logits.
    pub fn prepare<A: Float, T>(
        &self,
        tokens: &[u32],
        cache: &KvCache<A>,
        then: impl Fn(&Tensor<f32, 2>) -> Result<T>,
    ) -> Result<()> {
        let (layers, spot) = (self.layers_that_differ(), Spot::new(&self.device)?);
        let ids = Tensor::from_host(&self.device, [tokens.len()], tokens)?;
        self.device.prepare(|| {
            then(&self.run(&layers, &ids, cache, Place::After(0), Logits::Last)?)?;
            then(&self.run(&layers, &spot.token, cache, Place::Given(&spot), Logits::Last)?)
        })
    }

    /// Records the run of one token after those in a cache, and what is done with its logits: on a
    /// GPU it is one launch.
    pub fn record<A: Float, T>(
        &self,
        cache: &KvCache<A>,
        then: impl Fn(&Tensor<f32, 2>) -> Result<T>,
    ) -> Result<Step<T>> {
        let spot = Spot::new(&self.device)?;
        let layers: Vec<usize> = (0..self.layers.len()).collect();
        let (graph, made) = self.device.capture(|| {
            then(&self.run(&layers, &spot.token, cache, Place::Given(&spot), Logits::Last)?)
        })?;
        Ok(Step { graph, spot, made })
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
    fn run<A: Float>(
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
        Ok(x.rms_norm(&layer.attention_norm, self.config.norm_eps)?)
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
        let split = |linear: &Linear, heads: usize| -> Result<Tensor<A, 4>> {
            Ok(linear.forward::<A, A>(normed)?.reshape([1, n, heads, head_dim])?)
        };
        let norm = |x: Tensor<A, 4>, weight: &Option<Tensor<f32, 1>>| -> Result<_> {
            Ok(match weight {
                Some(weight) => x.rms_norm(weight, norm_eps)?,
                None => x,
            })
        };
        let (q, k) = (
            norm(split(&layer.q, heads)?, &layer.q_norm)?,
            norm(split(&layer.k, kv_heads)?, &layer.k_norm)?,
        );
        let frequencies = &self.frequencies;
        let mixed = match place {
            Place::After(past) => {
                let q = q.rope(frequencies, rope_style, past)?;
                // Keys and values are computed into their places.
                let place = |cache: &Tensor<A, 4>| cache.slice(1, past..past + n);
                k.rope_into(frequencies, rope_style, past, &place(k_cache)?)?;
                let v = place(v_cache)?.reshape([n, kv_heads * head_dim])?;
                layer.v.product(normed).run_into(&v)?;
                let (k, v) = (k_cache.slice(1, 0..past + n)?, v_cache.slice(1, 0..past + n)?);
                q.attention(&k, &v).causal().run::<A>()?
            }
            Place::Given(Spot { position, count, .. }) => {
                let q = q.rope_at(frequencies, rope_style, position)?;
                let k = k.rope_at(frequencies, rope_style, position)?;
                k_cache.scatter_from(1, position, &k)?;
                v_cache.scatter_from(1, position, &split(&layer.v, kv_heads)?)?;
                q.attention(k_cache, v_cache).kv_lens(count).causal().run::<A>()?
            }
        };
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
