//! The weights of a model as the model knows them: a block-scaled one is one, in however many
//! tensors its parts lie.

use std::collections::HashSet;

use crate::error::Result;
use crate::io::Weights;
use crate::io::entry::Entry;
#[cfg(feature = "safetensors")]
use crate::io::safetensors::ScaledParts;
#[cfg(feature = "safetensors")]
use crate::num::DType;

/// A weight of a model that is to be loaded.
#[derive(Clone, Debug)]
pub struct Weight<'a> {
    pub(super) name: &'a str,
    pub(super) shape: Vec<usize>,
    pub(super) source: Source<'a>,
}

/// Where its values are.
#[derive(Clone, Debug)]
pub(super) enum Source<'a> {
    Entry(&'a Entry),
    #[cfg(feature = "safetensors")]
    Scaled(ScaledParts<'a>),
}

/// Parts of the names of matrices that no linear layer multiplies by, or that decide more than
/// their size says: embeddings, heads, norms, routers.
const NOT_LINEAR: [&str; 6] = ["embed", "embd", "lm_head", "norm", "router", "gate_inp"];

impl<'a> Weight<'a> {
    /// Its name: that of the tensor, or what the names of its parts begin with.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Sizes in values, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How its values are stored: an element type, ggml's blocks, a block format.
    pub fn stored(&self) -> String {
        match &self.source {
            Source::Entry(entry) => entry.stored.to_string(),
            #[cfg(feature = "safetensors")]
            Source::Scaled(parts) => parts.format.to_string(),
        }
    }

    /// Whether it looks like the matrix of a linear layer, which can be quantised: two sizes or
    /// more, and a name that is not one of an embedding, head, norm or router.
    pub fn is_linear(&self) -> bool {
        let head_or_router = self.name == "output.weight" || self.name.ends_with("mlp.gate.weight");
        self.shape.len() >= 2
            && self.shape[self.shape.len() - 2..].iter().all(|&size| size > 1)
            && !head_or_router
            && !NOT_LINEAR.iter().any(|part| self.name.contains(part))
    }

    /// Whether it is stored as codes and scales apart.
    pub(super) fn is_scaled(&self) -> bool {
        !matches!(self.source, Source::Entry(_))
    }

    /// Whether it has scales that may have to be widened.
    pub(super) fn has_f32_scales(&self) -> bool {
        match &self.source {
            Source::Entry(_) => false,
            #[cfg(feature = "safetensors")]
            Source::Scaled(parts) => parts.format.spec().scale == DType::F32,
        }
    }

    /// The tensors of the files that it is made of, the one with elements or codes first.
    pub(super) fn entries(&self, weights: &'a Weights) -> Vec<&'a Entry> {
        match &self.source {
            #[cfg(feature = "gguf")]
            Source::Entry(entry) => {
                let scale = weights.outer_scale(entry).ok().flatten().map(|(scale, _)| scale);
                [Some(*entry), scale].into_iter().flatten().collect()
            }
            #[cfg(not(feature = "gguf"))]
            Source::Entry(entry) => vec![*entry],
            #[cfg(feature = "safetensors")]
            Source::Scaled(parts) => {
                let scale = parts.tensor_scale.map(|scale| scale.tensor());
                let tensors = [Some(parts.codes), Some(parts.scales), scale];
                tensors.into_iter().flatten().filter_map(|t| weights.entry(&t.name)).collect()
            }
        }
    }

    /// The tensor with its elements, blocks or codes.
    pub(super) fn main(&self, weights: &'a Weights) -> Result<&'a Entry> {
        self.entries(weights).first().copied().map_or_else(|| weights.find("load", self.name), Ok)
    }

    /// The weight of that name, which [`all`] has found.
    pub(super) fn find(weights: &'a Weights, name: &'a str) -> Result<Self> {
        #[cfg(feature = "safetensors")]
        if let Ok(Some(parts)) = weights.parts(name) {
            let shape = parts.shape.clone();
            return Ok(Weight { name, shape, source: Source::Scaled(parts) });
        }
        let entry = weights.find("load", name)?;
        Ok(Weight { name, shape: entry.shape.clone(), source: Source::Entry(entry) })
    }
}

/// Every weight, in the order of the files.
pub(super) fn all(weights: &Weights) -> Result<Vec<Weight<'_>>> {
    let mut names = Vec::new();
    // Codes of scaled weights by the names that they stand for. Those that are not understood
    // are tensors like others.
    #[cfg(feature = "safetensors")]
    let scaled: std::collections::HashMap<&str, &str> = weights
        .safetensors()
        .into_iter()
        .flat_map(|model| model.scaled_names())
        .filter_map(|name| Some((weights.parts(name).ok()??.codes.name.as_str(), name)))
        .collect();
    let mut parts: HashSet<&str> = HashSet::new();
    for entry in weights.entries() {
        let name = entry.name.as_str();
        #[cfg(feature = "safetensors")]
        let name = scaled.get(name).copied().unwrap_or(name);
        let weight = Weight::find(weights, name)?;
        parts.extend(weight.entries(weights).iter().skip(1).map(|part| part.name.as_str()));
        names.push((entry.name.as_str(), weight));
    }
    names.retain(|(entry, _)| !parts.contains(entry));
    Ok(names.into_iter().map(|(_, weight)| weight).collect())
}
