//! Quantising a model for the inputs that its layers have on a text.
//!
//! Layer by layer: the text runs through what is quantised so far, and what each matrix then gets
//! as input decides how its errors are fed back (GPTQ). In memory are the model, its layers that
//! are not done yet as the file has them, a Hessian, and the text's hidden states.

use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use ferrocerium::format::{Format, HessianFactor, Quantizer};
use ferrocerium::io::Progress;
use ferrocerium::{AnyTensor, DType, Tensor};

use crate::common::checkpoint::Checkpoint;
use crate::common::layer::{Layer, Linear};
use crate::common::llama::Llama;
use crate::common::rotation::{RotatedInputs, Rotation};
use crate::common::step::Place;
use crate::common::weight_format::WeightFormat;

/// As in the paper: 1% of the mean diagonal.
const DAMPING: f32 = 0.01;

/// Inputs that are rotated together at most, in formats whose scales are those of longer blocks.
const LARGEST_BLOCK: usize = 128;

impl Llama {
    /// As [`Llama::load`]; linear layers of a [`WeightFormat::Gptq`] are quantised for the inputs
    /// that they have on `windows`. `next` is called before each layer of those.
    pub fn load_calibrated(
        checkpoint: &Checkpoint,
        format: &WeightFormat,
        windows: &[Vec<u32>],
        progress: impl FnMut(&Progress<'_>) -> ControlFlow<()>,
        mut next: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let mut model = Self::load(checkpoint, format, progress)?;
        let WeightFormat::Gptq { format, rule, rotated } = *format else { return Ok(model) };
        ensure!(!windows.is_empty(), "{format}/gptq: no text to calibrate with");
        if rotated {
            ensure!(model.rotation.is_none(), "the model's inputs are rotated already: use gptq");
            let widths = model.layers.iter().flat_map(Layer::linears);
            let widths = widths.map(|(_, linear)| linear.weight_t.shape()[0]);
            let block = Rotation::block_for(widths, format.spec().block_k.min(LARGEST_BLOCK));
            // Whole blocks of each head, and nothing added that is not rotated.
            let by_values = model.config.head_dim.is_multiple_of(block)
                && model.layers.iter().all(|layer| !layer.v.has_bias());
            let inputs = RotatedInputs { block, by_values };
            model.rotation = Some(Rotation::new(&model.device, inputs)?);
        }
        let embed = |window: &Vec<u32>| {
            model.embed(&Tensor::from_host(&model.device, [window.len()], window)?)
        };
        let states = windows.iter().map(embed).collect::<Result<_>>()?;
        let mut text = Text { states, format, rule, rotated };
        let mut layers = std::mem::take(&mut model.layers);
        for (i, layer) in layers.iter_mut().enumerate() {
            next(i)?;
            text.layer(&model, layer).with_context(|| format!("calibrating layer {i}"))?;
        }
        model.layers = layers;
        Ok(model)
    }

    /// The layers' matrices `[out, in]`, by the names of their parts.
    pub fn matrices(&self) -> Result<Vec<(String, AnyTensor)>> {
        let layers = self.layers.iter().enumerate();
        let all = layers.flat_map(|(i, layer)| layer.linears().map(|linear| (i, linear)));
        all.map(|(i, (part, linear))| {
            Ok((format!("layer.{i}.{part}.weight"), linear.weight_t.t()?))
        })
        .collect()
    }
}

/// A text on its way through the model: the hidden states of its windows.
struct Text {
    states: Vec<Tensor<f32, 2>>,
    format: Format,
    rule: Quantizer,
    /// Whether weights are as they were before the model's inputs were rotated.
    rotated: bool,
}

impl Text {
    /// Quantises a layer's matrices, and runs the text through them.
    fn layer(&mut self, model: &Llama, layer: &mut Layer) -> Result<()> {
        let normed = self.map(|x| model.attention_input(layer, x))?;
        let qkv = [("q", &mut layer.q), ("k", &mut layer.k), ("v", &mut layer.v)];
        self.quantize(model, qkv, &normed)?;
        let longest = self.states.iter().map(|x| x.shape()[0]).max().unwrap_or(0);
        let cache = model.layer_cache(0, longest)?;
        let mix = |normed: &Tensor<f32, 2>| model.mix(layer, &cache, Place::After(0), normed);
        let mixed = normed.iter().map(mix).collect::<Result<Vec<_>>>()?;
        self.quantize(model, [("o", &mut layer.o)], &mixed)?;
        self.add(&layer.o, &mixed)?;

        let normed = self.map(|x| model.mlp_input(layer, x))?;
        let gate_up = [("gate", &mut layer.gate), ("up", &mut layer.up)];
        self.quantize(model, gate_up, &normed)?;
        let gated = normed.iter().map(|x| model.gated(layer, x)).collect::<Result<Vec<_>>>()?;
        self.quantize(model, [("down", &mut layer.down)], &gated)?;
        self.add(&layer.down, &gated)
    }

    fn map(
        &self,
        f: impl Fn(&Tensor<f32, 2>) -> Result<Tensor<f32, 2>>,
    ) -> Result<Vec<Tensor<f32, 2>>> {
        self.states.iter().map(f).collect()
    }

    /// Adds what a matrix makes of its inputs to the hidden states.
    fn add(&mut self, linear: &Linear, inputs: &[Tensor<f32, 2>]) -> Result<()> {
        for (state, input) in self.states.iter_mut().zip(inputs) {
            *state = linear.forward_onto(input, state)?;
        }
        Ok(())
    }

    /// Quantises matrices that have the same inputs.
    fn quantize<const N: usize>(
        &self,
        model: &Llama,
        linears: [(&str, &mut Linear); N],
        inputs: &[Tensor<f32, 2>],
    ) -> Result<()> {
        let k = inputs[0].shape()[1];
        let mut hessian = Tensor::zeros(inputs[0].device(), [k, k])?;
        for x in inputs {
            hessian = x.t().gemm(x).residual(&hessian).run()?;
        }
        let factor = HessianFactor::new(k, &hessian.to_vec()?, DAMPING)?;
        for (part, linear) in linears {
            let mut weight = linear.weight_t.t()?;
            if let Some(rotation) = model.rotation.as_ref().filter(|_| self.rotated) {
                let exact = weight.cast(DType::F32)?.tensor::<f32, 2>()?;
                weight = rotation.weight(&exact, part == "v")?.into();
            }
            linear.weight_t = weight.quantize_gptq(self.format, self.rule, &factor)?.t()?;
        }
        Ok(())
    }
}
