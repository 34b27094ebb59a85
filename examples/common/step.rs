//! The run of one token, recorded once and replayed for each.

use anyhow::Result;
use ferrocerium::caps::MemoryKind;
use ferrocerium::device::Graph;
use ferrocerium::{Device, Float, Tensor};

use crate::common::kv_cache::KvCache;
use crate::common::layer::Layer;
use crate::common::llama::{Llama, Logits};

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
    pub(super) position: Tensor<u32, 1>,
    pub(super) count: Tensor<u32, 1>,
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

impl Llama {
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
}
