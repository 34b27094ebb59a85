//! How fast each pair turns.

use std::sync::Arc;

use super::scaling::RopeScaling;
use crate::error::{Error, Result};

/// The angle in radians that each pair of elements turns by from one position to the next, and
/// the amplitude that rotated elements are multiplied by.
///
/// Cheap to clone.
///
/// ```
/// use ferrocerium::op::{RopeFrequencies, RopeScaling};
/// let plain = RopeFrequencies::new(10_000.0, 4, &RopeScaling::None)?;
/// assert_eq!(plain.per_pair(), [1.0, 0.01]);
/// let twice = RopeFrequencies::new(10_000.0, 4, &RopeScaling::Linear { factor: 2.0 })?;
/// assert_eq!(twice.per_pair(), [0.5, 0.005]);
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RopeFrequencies {
    per_pair: Arc<[f64]>,
    amplitude: f64,
}

impl RopeFrequencies {
    /// `theta^(−2i / rotary_dim)` for pair `i`, scaled.
    ///
    /// # Errors
    /// [`Error::Value`] for an odd `rotary_dim`, a `theta` that is not a finite number above 0, or
    /// parameters of the scaling that are out of range.
    pub fn new(theta: f64, rotary_dim: usize, scaling: &RopeScaling) -> Result<Self> {
        if !rotary_dim.is_multiple_of(2) {
            return Err(Error::value(
                "rope",
                "rotary_dim",
                format!("{rotary_dim} elements are not pairs; an even number is expected"),
            ));
        }
        super::scaling::require_positive("theta", theta)?;
        scaling.validate(theta, rotary_dim / 2)?;
        let theta = scaling.theta(theta, rotary_dim);
        let plain = |i: usize| theta.powf(-2.0 * i as f64 / rotary_dim as f64);
        let mut per_pair: Vec<f64> = (0..rotary_dim / 2).map(plain).collect();
        scaling.apply(theta, &mut per_pair);
        Self::from_parts(per_pair, scaling.amplitude())
    }

    /// Frequencies and an amplitude as they are.
    ///
    /// # Errors
    /// [`Error::Value`] when one is not finite.
    pub fn from_parts(per_pair: impl Into<Arc<[f64]>>, amplitude: f64) -> Result<Self> {
        let per_pair = per_pair.into();
        if let Some(i) = per_pair.iter().position(|f| !f.is_finite()) {
            return Err(Error::value(
                "rope",
                "frequencies",
                format!("that of pair {i} is {}; finite numbers are expected", per_pair[i]),
            ));
        }
        if !amplitude.is_finite() {
            return Err(Error::value(
                "rope",
                "amplitude",
                format!("{amplitude}: a finite number is expected"),
            ));
        }
        Ok(RopeFrequencies { per_pair, amplitude })
    }

    /// Radians per position for each pair.
    pub fn per_pair(&self) -> &[f64] {
        &self.per_pair
    }

    /// What rotated elements are multiplied by: Hugging Face's `attention_factor`.
    pub fn amplitude(&self) -> f64 {
        self.amplitude
    }

    /// How many elements of a head are rotated.
    pub fn rotary_dim(&self) -> usize {
        2 * self.per_pair.len()
    }
}
