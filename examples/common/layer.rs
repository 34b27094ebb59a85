//! The weights of a layer, and products with them.

use anyhow::Result;
use ferrocerium::format::{BlockFormat, Format, Fp8Group128, Fp8PerRow, Mxfp4, Mxfp8, Nvfp4};
use ferrocerium::op::Activation;
use ferrocerium::tensor::GemmBuilder;
use ferrocerium::{AnyTensor, Float, ScaledTensor, Tensor};

pub(super) struct Layer {
    pub(super) attention_norm: Tensor<f32, 1>,
    pub(super) q: Linear,
    pub(super) k: Linear,
    pub(super) v: Linear,
    pub(super) o: Linear,
    pub(super) q_norm: Option<Tensor<f32, 1>>,
    pub(super) k_norm: Option<Tensor<f32, 1>>,
    pub(super) mlp_norm: Tensor<f32, 1>,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
    /// The rows of q, k and v in one matrix, where they were joined.
    pub(super) qkv: Option<Linear>,
    /// Those of gate and up.
    pub(super) gate_up: Option<Linear>,
}

impl Layer {
    /// Puts matrices of the same inputs into one where their formats allow that: an operation for
    /// each of them takes a CPU about as long as a small one's products, and small ones do not fill a
    /// GPU. Each by itself is rows of that matrix then. Products stay the same.
    pub(super) fn join(&mut self) -> Result<()> {
        self.qkv = join([&mut self.q, &mut self.k, &mut self.v])?;
        self.gate_up = join([&mut self.gate, &mut self.up])?;
        Ok(())
    }

    /// All matrices, also joined ones.
    pub(super) fn weights_mut(&mut self) -> impl Iterator<Item = &mut AnyTensor> {
        let Layer { q, k, v, o, gate, up, down, qkv, gate_up, .. } = self;
        let joined = qkv.iter_mut().chain(gate_up);
        [q, k, v, o, gate, up, down].into_iter().chain(joined).map(|linear| &mut linear.weight_t)
    }

    /// `silu(Wgate·n) ∘ Wup·n`
    pub(super) fn gated<A: Float>(&self, normed: &Tensor<A, 2>) -> Result<Tensor<A, 2>> {
        if let Some(gate_up) = &self.gate_up {
            return Ok(gate_up.product(normed).activation(Activation::SwiGlu).run()?);
        }
        let (gate, up) = (self.gate.forward::<A, A>(normed)?, self.up.forward(normed)?);
        Ok(gate.silu_mul::<2>(&up)?)
    }

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

/// `x · Wᵀ ∘ scale + bias`, W stored as `[out, in]`.
pub(super) struct Linear {
    pub(super) weight_t: AnyTensor,
    /// The tensor scale that each row of W came with, where it was joined.
    scale: Option<Tensor<f32, 1>>,
    bias: Option<Tensor<f32, 1>>,
}

impl Linear {
    pub(super) fn new(weight: &AnyTensor, bias: Option<Tensor<f32, 1>>) -> Result<Self> {
        Ok(Linear { weight_t: weight.t()?, scale: None, bias })
    }

    pub(super) fn has_bias(&self) -> bool {
        self.bias.is_some()
    }

    pub(super) fn product<A: Float>(&self, x: &Tensor<A, 2>) -> GemmBuilder<2> {
        let mut product = x.gemm(&self.weight_t);
        if let Some(scale) = &self.scale {
            product = product.column_scale(scale);
        }
        match &self.bias {
            Some(bias) => product.bias(bias),
            None => product,
        }
    }

    pub(super) fn forward<A: Float, O: Float>(&self, x: &Tensor<A, 2>) -> Result<Tensor<O, 2>> {
        Ok(self.product(x).run()?)
    }

    /// `residual + x · Wᵀ`
    pub(super) fn forward_onto<A: Float>(
        &self,
        x: &Tensor<A, 2>,
        residual: &Tensor<A, 2>,
    ) -> Result<Tensor<A, 2>> {
        Ok(self.product(x).residual(residual).run()?)
    }
}

/// The matrices as one, of whose rows they become parts; `None` where they stay apart.
fn join<const N: usize>(linears: [&mut Linear; N]) -> Result<Option<Linear>> {
    match linears[0].weight_t.format() {
        Some(Format::Nvfp4) => join_as::<Nvfp4, N>(linears),
        Some(Format::Mxfp4) => join_as::<Mxfp4, N>(linears),
        Some(Format::Mxfp8E4M3) => join_as::<Mxfp8, N>(linears),
        Some(Format::Fp8Row) => join_as::<Fp8PerRow, N>(linears),
        Some(Format::Fp8Group128) => join_as::<Fp8Group128, N>(linears),
        _ => Ok(None),
    }
}

fn join_as<F: BlockFormat, const N: usize>(linears: [&mut Linear; N]) -> Result<Option<Linear>> {
    let biases: Vec<_> = linears.iter().filter_map(|linear| linear.bias.as_ref()).collect();
    let bias = match biases.len() {
        0 => None,
        all if all == N => Some(Tensor::concat(0, &biases)?),
        _ => return Ok(None),
    };
    if linears.iter().any(|linear| linear.weight_t.format() != Some(F::FORMAT)) {
        return Ok(None);
    }
    let weights = linears.iter().map(|linear| Ok(linear.weight_t.t()?.scaled::<F, 2>()?));
    let weights = weights.collect::<Result<Vec<_>>>()?;
    let (all, scale) = ScaledTensor::concat_outer(&weights.iter().collect::<Vec<_>>())?;
    let mut first = 0;
    for (linear, weight) in linears.into_iter().zip(&weights) {
        let rows = first..first + weight.shape()[0];
        first = rows.end;
        linear.scale = scale.as_ref().map(|scale| scale.slice(0, rows.clone())).transpose()?;
        linear.weight_t = AnyTensor::from(all.slice_outer(rows)?).t()?;
    }
    Ok(Some(Linear { weight_t: AnyTensor::from(all).t()?, scale, bias }))
}
