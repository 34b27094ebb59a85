//! The named rules that choose scales.

use std::fmt;
use std::str::FromStr;

use super::Format;
use crate::error::{Error, Result};
use crate::num::DType;

/// The rule that chooses the scales of a block format.
///
/// Whatever the rule, codes are the values divided by their scale, rounded to nearest, ties to
/// even, beyond the largest code saturated: `code = rn(x / (s·g))`, one rounding of the exact
/// quotient. In the formulas `amax` is the largest magnitude of the block, `max` the largest code
/// (6, 448 or 57344), `emax = floor(log2(max))`, and `rn` rounds to the scale's type.
///
/// | rule | NVFP4 | MXFP4, MXFP8 | FP8 with f32 scales |
/// |---|---|---|---|
/// | `Amax` | `s = rn(amax / 6 / g)` | `s = 2^ceil(log2(amax / max))` | `s = rn(amax / max)` |
/// | `Ocp` | – | `s = 2^(floor(log2(amax)) − emax)` | – |
/// | `OcpCeil` | – | `s = 2^(ceil(log2(amax)) − emax)` | – |
/// | `FourOverSix` | `amax` at 6 or at 4 | – | – |
/// | `Mse` | `amax` anywhere from 8 to 3 | `Ocp`'s, half and double of it | `amax` on each code of the top binade |
///
/// The last two keep the candidate of least squared block error, summed in f64 in order of the
/// values; on a tie, the first of: `Amax`'s (or `Ocp`'s), then the others as listed below. As that
/// first candidate is always among them, they never do worse than it on any block: `FourOverSix`
/// and `Mse` never worse than `Amax` for NVFP4 and FP8, `Mse` never worse than `FourOverSix`, and
/// `Mse` never worse than `Ocp`, `OcpCeil` and `Amax` for MX.
///
/// # The tensor scale of NVFP4
/// `g = rn(amax(tensor) / (6·448))`, for every rule, or the caller's own
/// ([`Quantizer::with_tensor_scale`]). The paper on four over six (arXiv 2512.02010) divides by
/// `6·256` instead, so that the tensor's largest block has room to map its amax to 4. That moves
/// every block scale to another rounding, after which about 30% of blocks have *more* error than
/// under `Amax`, while the mean squared error is the same to three digits (measured on normal,
/// Laplace and Student-t data). Keeping 448 makes `g` a function of the data alone and the bound
/// above hold block by block; the candidate of the few blocks above 2/3 of the tensor's amax
/// saturates at the largest scale, 448. For the paper's choice pass `amax / (6·256)`.
///
/// # Quantising decoded values again
/// gives the same values to the bit, with three exceptions. NVFP4 by `Mse` may have clipped the
/// tensor's amax, so the tensor scale has to be passed on. NVFP4 blocks whose scale code is 1 to 3
/// (amax below 1/65536 of the tensor's) can come out different. `Mse` on f32 scales may find
/// another scale that fits as well, and differ by f32 rounding. The proof is beside the test.
///
/// # Edges
/// - An all-zero tensor or block: `g = 1`; NVFP4 scale 0; MX scale code 0 (2^-127); f32 scale 1.
/// - Computed `g` and f32 scales are at least 2^-126: never subnormal, so that a device which
///   flushes subnormals computes the same, and never zero. Tensors with `amax < 2688·2^-126` just
///   use less of the range of their block scales.
/// - An NVFP4 block whose scale rounds to 0 (amax up to 1/458752 of the tensor's) becomes zero.
///   Codes keep the sign of the value even then.
/// - MX scales are clamped to [2^-127, 2^(127 − emax)]: above that, codes would stand for more
///   than an f32 holds. The lower end costs precision below 2^-125 or so; the upper end saturates
///   values beyond `max·2^(127 − emax)` (for instance 1.5·2^127 in MXFP4) also under the rules
///   that otherwise never saturate.
/// - With a caller's tensor scale, scales and codes are limited so that no stored value exceeds
///   `f32::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Quantizer {
    /// Puts the block's largest magnitude on the largest code, as closely as the scale's type
    /// allows. MX scales, powers of two, are rounded *up*: the smallest that saturates nothing
    /// (NVIDIA's recipe, `cvt.rp.satfinite.ue8m0x2`).
    Amax,
    /// The rule of OCP MX v1.0, section 6.3. The largest values of a block can saturate: those
    /// between `max` and `2^(emax + 1)` times the scale. MX formats only.
    Ocp,
    /// The OCP rule with the exponent of amax rounded up: nothing saturates, at the price of a
    /// scale twice that of [`Quantizer::Amax`] for some blocks. MX formats only.
    OcpCeil,
    /// Tries the block's amax at 6 and at 4, between which E2M1's step is widest, and keeps the
    /// smaller squared error. NVFP4 only.
    FourOverSix,
    /// Searches neighbouring scales for the least squared error. NVFP4: every scale code from the
    /// one that maps amax to 8 (clipping it to 6) to the one that maps it to 3; larger scales cannot
    /// help, since half of such a scale, where there is one, expresses all that it does. MX: the
    /// OCP scale, its half and its double. f32 scales: amax on each code of the top binade (448, 416, …,
    /// 256; 57344, …, 32768); scales twice as large repeat the same grid with less range.
    Mse,
}

impl Quantizer {
    /// Every quantiser.
    pub const ALL: [Quantizer; 5] = [
        Quantizer::Amax,
        Quantizer::Ocp,
        Quantizer::OcpCeil,
        Quantizer::FourOverSix,
        Quantizer::Mse,
    ];

    /// The rule a format's own definition names: [`Quantizer::Ocp`] for MX formats, else
    /// [`Quantizer::Amax`].
    pub const fn default_for(format: Format) -> Self {
        match format.spec().scale {
            DType::E8M0 => Quantizer::Ocp,
            _ => Quantizer::Amax,
        }
    }

    /// Whether the rule is defined for the format.
    pub const fn supports(self, format: Format) -> bool {
        match self {
            Quantizer::Amax | Quantizer::Mse => true,
            Quantizer::Ocp | Quantizer::OcpCeil => matches!(format.spec().scale, DType::E8M0),
            Quantizer::FourOverSix => matches!(format, Format::Nvfp4),
        }
    }

    /// `Err` naming the rules that work when this one is not defined for the format.
    pub(super) fn check(self, op: &'static str, format: Format) -> Result<()> {
        if self.supports(format) {
            return Ok(());
        }
        let works: Vec<_> =
            Self::ALL.into_iter().filter(|q| q.supports(format)).map(Self::name).collect();
        Err(Error::value(
            op,
            "quantizer",
            format!("{self} is not defined for {format}; use one of {}", works.join(", ")),
        ))
    }

    /// The name, as printed and parsed: `"amax"`, `"four_over_six"`, …
    pub const fn name(self) -> &'static str {
        match self {
            Quantizer::Amax => "amax",
            Quantizer::Ocp => "ocp",
            Quantizer::OcpCeil => "ocp_ceil",
            Quantizer::FourOverSix => "four_over_six",
            Quantizer::Mse => "mse",
        }
    }

    /// This rule with a tensor scale of the caller's.
    pub const fn with_tensor_scale(self, tensor_scale: f32) -> QuantizeOptions {
        QuantizeOptions { quantizer: self, tensor_scale: Some(tensor_scale) }
    }
}

impl fmt::Display for Quantizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Quantizer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|q| q.name() == text).ok_or_else(|| Error::Parse {
            what: "quantizer",
            text: text.to_owned(),
            expected: Self::ALL.map(Quantizer::name).join(", "),
        })
    }
}

/// How to quantise: a rule, and what it may not choose freely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantizeOptions {
    /// The rule that chooses the scales.
    pub quantizer: Quantizer,
    /// A fixed tensor scale instead of one computed from the data: finite and positive. For
    /// formats with a tensor scale (NVFP4), and those whose only scale spans the tensor (FP8 per
    /// tensor), where it is that scale. Values it cannot reach saturate. Needed to append to a
    /// cache, or to match a checkpoint's scale.
    pub tensor_scale: Option<f32>,
}

impl From<Quantizer> for QuantizeOptions {
    fn from(quantizer: Quantizer) -> Self {
        Self { quantizer, tensor_scale: None }
    }
}
