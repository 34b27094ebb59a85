//! What loading reports, and what comes of it.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Bytes, Error, Result};
use crate::format::BlockFormat;
use crate::num::Element;
use crate::tensor::{AnyTensor, ScaledTensor, Tensor};

/// How far loading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The weight in hand.
    pub name: &'a str,
    /// Weights that are done.
    pub weights_done: usize,
    /// All weights.
    pub weights: usize,
    /// Bytes of the files that are dealt with.
    pub bytes_done: u64,
    /// All of them.
    pub bytes: u64,
}

impl fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, all) = (Bytes(self.bytes_done), Bytes(self.bytes));
        write!(f, "{} of {} weights, {done} of {all}", self.weights_done, self.weights)
    }
}

/// The weights of a model in memory, by name.
#[derive(Clone, Debug)]
pub struct LoadedWeights {
    pub(super) tensors: BTreeMap<String, AnyTensor>,
}

impl LoadedWeights {
    /// The weight of that name, of whatever type.
    ///
    /// # Errors
    /// [`Error::Value`] when none of that name was loaded.
    pub fn any(&self, name: &str) -> Result<&AnyTensor> {
        self.tensors.get(name).ok_or_else(|| {
            let n = self.tensors.len();
            Error::value("any", "name", format!("{name:?} is not among the {n} loaded weights"))
        })
    }

    /// The weight of that name as elements of `E`.
    ///
    /// # Errors
    /// As [`any`](Self::any) and [`AnyTensor::tensor`].
    pub fn tensor<E: Element, const R: usize>(&self, name: &str) -> Result<Tensor<E, R>> {
        self.any(name)?.tensor()
    }

    /// The weight of that name in format `F`.
    ///
    /// # Errors
    /// As [`any`](Self::any) and [`AnyTensor::scaled`].
    pub fn scaled<F: BlockFormat, const R: usize>(&self, name: &str) -> Result<ScaledTensor<F, R>> {
        self.any(name)?.scaled()
    }

    /// Takes the weight of that name out.
    pub fn take(&mut self, name: &str) -> Option<AnyTensor> {
        self.tensors.remove(name)
    }

    /// Every weight, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &AnyTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
}
