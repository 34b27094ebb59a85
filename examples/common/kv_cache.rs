//! Keys and values of the tokens so far.

use anyhow::{Result, ensure};
use ferrocerium::{Float, Tensor};

use crate::common::llama::Llama;

/// Keys and values of a layer.
pub(super) type LayerCache<A> = (Tensor<A, 4>, Tensor<A, 4>);

/// Keys and values of the tokens so far, per layer `[1, capacity, kv_heads, head_dim]`. Their type
/// is that of all activations.
pub struct KvCache<A: Float = f32> {
    pub(super) layers: Vec<LayerCache<A>>,
    pub(super) len: usize,
    capacity: usize,
}

impl<A: Float> KvCache<A> {
    /// Tokens that are in.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Refuses more tokens than fit.
    pub(super) fn require_room(&self, tokens: usize) -> Result<()> {
        let (len, capacity) = (self.len + tokens, self.capacity);
        ensure!(len <= capacity, "{len} tokens do not fit the context of {capacity}");
        Ok(())
    }

    /// Forgets all tokens; the memory is kept.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Llama {
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
}
