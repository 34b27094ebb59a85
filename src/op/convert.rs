//! Copies, casts, quantisation and dequantisation: the same values in another type or place.

use super::check::require_dims;
use super::operand::{Operand, Use};
use crate::error::{Error, Result};
use crate::format::{Format, Quantizer, WHOLE};

/// `dst = src`, value by value, in the type and layout of `dst`.
///
/// | `src` | `dst` | called |
/// |---|---|---|
/// | elements | the same elements | copy (any strides to any strides) |
/// | elements | other elements | cast: exact, or rounded to nearest even once |
/// | elements | block format | quantise: scales chosen by `quantizer` |
/// | block format | elements | dequantise: `code · scale · g`, rounded once |
/// | block format | block format | requantise: dequantised to f32, then quantised |
///
/// Both have the same sizes. Casting to a type without infinities saturates; casting a float to
/// an integer truncates toward zero and saturates, NaN giving 0. Quantising takes values rounded
/// to f32, and refuses NaN and inf.
#[derive(Clone, Debug)]
pub struct Convert {
    /// What is read.
    pub src: Operand,
    /// What is written.
    pub dst: Operand,
    /// How a block-scaled `dst` is quantised; `None` for the format's default.
    pub quantizer: Option<Quantizer>,
    /// A tensor scale to use instead of the one that the values call for (formats that
    /// have one, or whose only scale spans the tensor).
    pub tensor_scale: Option<f32>,
}

impl Convert {
    /// `dst = src`, with the default quantiser where one is needed.
    pub fn new(src: impl Into<Operand>, dst: impl Into<Operand>) -> Self {
        Convert { src: src.into(), dst: dst.into(), quantizer: None, tensor_scale: None }
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        vec![Use::read("src", &self.src), Use::write("dst", &self.dst)]
    }

    pub(super) fn validate(&self) -> Result<()> {
        const OP: &str = "convert";
        require_dims(OP, "dst", &self.dst, &self.src.dims())?;
        let packed = |o: &Operand| o.dtype().is_some_and(|d| !d.is_float() && !d.is_int());
        let same = self.src.dtype() == self.dst.dtype();
        for (arg, operand) in [("src", &self.src), ("dst", &self.dst)] {
            if packed(operand) && !same {
                return Err(Error::dtype(
                    OP,
                    arg,
                    format!(
                        "{arg} is {operand}: scales and packed codes are only copied; \
                         to get at values, wrap codes and scales in a block format"
                    ),
                ));
            }
        }
        let scaled = match &self.dst {
            Operand::Dense(_) if self.quantizer.is_some() || self.tensor_scale.is_some() => {
                return Err(Error::value(
                    OP,
                    "quantizer",
                    format!("dst is {}: only block formats are quantised", self.dst),
                ));
            }
            Operand::Dense(_) => return Ok(()),
            Operand::Scaled(scaled) => scaled,
        };
        if scaled.transposed {
            return Err(Error::layout(
                OP,
                "dst",
                format!("dst is {}: quantise into the stored order, then transpose", self.dst),
            ));
        }
        if self.src.dtype().is_some_and(|d| !d.is_float()) {
            return Err(Error::dtype(
                OP,
                "src",
                format!("src is {}: floats are quantised; cast it first", self.src),
            ));
        }
        if let Some(quantizer) = self.quantizer
            && !quantizer.supports(scaled.format)
        {
            return Err(Error::value(
                OP,
                "quantizer",
                format!(
                    "{quantizer} does not make {}; its default is {}",
                    scaled.format,
                    Quantizer::default_for(scaled.format)
                ),
            ));
        }
        match self.tensor_scale {
            Some(g) if !has_whole_scale(scaled.format) => Err(Error::value(
                OP,
                "tensor_scale",
                format!("{g}: {} has no scale for the whole tensor", scaled.format),
            )),
            Some(g) if !(g.is_finite() && g > 0.0) => Err(Error::value(
                OP,
                "tensor_scale",
                format!("{g}: a finite number above 0 is expected"),
            )),
            _ => Ok(()),
        }
    }
}

fn has_whole_scale(format: Format) -> bool {
    let spec = format.spec();
    spec.tensor_scale || spec.block_rows == WHOLE
}
