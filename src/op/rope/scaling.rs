//! Frequencies for contexts longer than a model was trained on.

use std::f64::consts::TAU;

use crate::error::{Error, Result};

/// How the plain frequencies `f = theta^(−2i / r)` of `r` rotated elements are changed.
///
/// Names in brackets are the `rope_type` in a Hugging Face `config.json`; fields are called there
/// as they are here, but for `original_context`, which is `original_max_position_embeddings`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all. (`default`)
    #[default]
    None,
    /// `f / factor`: positions are squeezed. (`linear`; Chen et al. 2023)
    Linear {
        /// How many times longer the context is.
        factor: f64,
    },
    /// `theta` becomes `theta · factor^(r / (r − 2))`: the slowest pair slows down by `factor`, the
    /// fastest not at all. (bloc97 2023; [`RopeScaling::dynamic_ntk`] is `dynamic`)
    Ntk {
        /// How many times longer the context is.
        factor: f64,
    },
    /// By wavelength `λ = 2π/f`, with `n = original_context / λ` turns in the original context:
    /// `f` where `n > high_freq_factor`, `f / factor` where `n < low_freq_factor`, and
    /// `(1 − s)·f/factor + s·f` between, `s = (n − low) / (high − low)`. (`llama3`; Llama 3.1)
    Llama3 {
        /// How many times longer the context is.
        factor: f64,
        /// Turns below which pairs slow down by `factor`.
        low_freq_factor: f64,
        /// Turns above which pairs keep their frequency.
        high_freq_factor: f64,
        /// Positions that the model was first trained on.
        original_context: usize,
    },
    /// `f / factor · t + f · (1 − t)` with a ramp `t = clamp((i − low) / (high − low), 0, 1)` over
    /// the pairs `i`; `low` and `high` are the pairs `r · ln(original_context / (2π·β)) / (2·ln
    /// theta)` that make `β = beta_fast` and `beta_slow` turns in the original context. (`yarn`;
    /// Peng et al. 2023)
    Yarn {
        /// How many times longer the context is.
        factor: f64,
        /// Positions that the model was first trained on.
        original_context: usize,
        /// Turns at which the ramp begins; usually 32.
        beta_fast: f64,
        /// Turns at which it ends; usually 1.
        beta_slow: f64,
        /// Whether the ramp begins and ends at whole pairs; usually true.
        truncate: bool,
        /// The amplitude; `None` for `0.1·ln(factor) + 1`.
        attention_factor: Option<f64>,
    },
    /// `f / factors[i]`. (`longrope`, with the short or the long list, as the context asks; Ding
    /// et al. 2024; also the `rope_freqs` of GGUF files)
    LongRope {
        /// One for each pair.
        factors: Vec<f64>,
        /// The amplitude: [`RopeScaling::long_rope_attention_factor`].
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// [`RopeScaling::Ntk`] for a sequence of `seq_len` positions, which may grow beyond the
    /// original context: its factor is `factor · seq_len / original_context − (factor − 1)`, 1 up
    /// to the original context.
    pub fn dynamic_ntk(factor: f64, original_context: usize, seq_len: usize) -> Self {
        let longer = seq_len.max(original_context) as f64 / original_context as f64;
        RopeScaling::Ntk { factor: factor * longer - (factor - 1.0) }
    }

    /// The amplitude of LongRoPE for a context `factor` times longer:
    /// `√(1 + ln(factor) / ln(original_context))`, and 1 for a factor of 1 or less.
    pub fn long_rope_attention_factor(factor: f64, original_context: usize) -> f64 {
        if factor <= 1.0 {
            return 1.0;
        }
        (1.0 + factor.ln() / (original_context as f64).ln()).sqrt()
    }

    /// What rotated elements are multiplied by.
    pub fn amplitude(&self) -> f64 {
        match self {
            RopeScaling::Yarn { attention_factor: Some(given), .. } => *given,
            RopeScaling::Yarn { factor, .. } if *factor > 1.0 => 0.1 * factor.ln() + 1.0,
            RopeScaling::LongRope { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }

    /// The base of the plain frequencies.
    pub(super) fn theta(&self, theta: f64, rotary_dim: usize) -> f64 {
        match self {
            RopeScaling::Ntk { factor } => {
                let r = rotary_dim as f64;
                theta * factor.powf(r / (r - 2.0))
            }
            _ => theta,
        }
    }

    /// Changes the plain frequencies of all pairs.
    pub(super) fn apply(&self, theta: f64, frequencies: &mut [f64]) {
        let pairs = frequencies.len() as f64;
        for (i, f) in frequencies.iter_mut().enumerate() {
            *f = match self {
                RopeScaling::None | RopeScaling::Ntk { .. } => *f,
                RopeScaling::Linear { factor } => *f / factor,
                RopeScaling::Llama3 {
                    factor,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_context,
                } => {
                    let turns = *original_context as f64 * *f / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - kept) * *f / factor + kept * *f
                }
                RopeScaling::Yarn {
                    factor,
                    original_context,
                    beta_fast,
                    beta_slow,
                    truncate,
                    ..
                } => {
                    let pair_of = |turns: f64| {
                        pairs * (*original_context as f64 / (turns * TAU)).ln() / theta.ln()
                    };
                    let (mut low, mut high) = (pair_of(*beta_fast), pair_of(*beta_slow));
                    if *truncate {
                        (low, high) = (low.floor(), high.ceil());
                    }
                    let (low, mut high) = (low.max(0.0), high.min(2.0 * pairs - 1.0));
                    if low == high {
                        // A step instead of a ramp, as in the original code.
                        high += 0.001;
                    }
                    let squeezed = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    *f / factor * squeezed + *f * (1.0 - squeezed)
                }
                RopeScaling::LongRope { factors, .. } => *f / factors[i],
            };
        }
    }

    pub(super) fn validate(&self, theta: f64, pairs: usize) -> Result<()> {
        match self {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } | RopeScaling::Ntk { factor } => {
                require_positive("factor", *factor)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                require_positive("factor", *factor)?;
                require_positive("low_freq_factor", *low_freq_factor)?;
                require_positive("high_freq_factor", *high_freq_factor)?;
                require_positive("original_context", *original_context as f64)?;
                if low_freq_factor < high_freq_factor {
                    return Ok(());
                }
                Err(Error::value(
                    "rope",
                    "low_freq_factor",
                    format!("{low_freq_factor} is not below high_freq_factor {high_freq_factor}"),
                ))
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
                require_positive("factor", *factor)?;
                require_positive("original_context", *original_context as f64)?;
                require_positive("beta_fast", *beta_fast)?;
                require_positive("beta_slow", *beta_slow)?;
                if theta > 1.0 {
                    return Ok(());
                }
                Err(Error::value(
                    "rope",
                    "theta",
                    format!("{theta}: YaRN's ramp needs a base above 1"),
                ))
            }
            RopeScaling::LongRope { factors, .. } => {
                if factors.len() != pairs {
                    return Err(Error::value(
                        "rope",
                        "factors",
                        format!("{} factors for {pairs} pairs; one each", factors.len()),
                    ));
                }
                factors.iter().try_for_each(|&f| require_positive("factors", f))
            }
        }
    }
}

/// Refuses what is not a finite number above 0.
pub(super) fn require_positive(arg: &'static str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(Error::value("rope", arg, format!("{value}: a finite number above 0 is expected")))
}
