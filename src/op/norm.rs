//! Normalisation of rows.

use std::fmt;

use super::check::{require_dims, require_output};
use super::operand::{Operand, Use};
use crate::error::{Error, Result};
use crate::format::Quantizer;

/// Which mean a row is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NormKind {
    /// `h / √(mean(h²) + eps)` (Zhang and Sennrich, 2019).
    Rms,
    /// `(h − mean(h)) / √(mean((h − mean(h))²) + eps)` (Ba, Kiros and Hinton, 2016).
    Layer,
}

/// `out = norm(h) · (weight_offset + weight) + bias` over the last dimension, `h = x + residual`.
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `x` | `[.., n]` | any float or block format |
/// | `residual` | as `x` | any float |
/// | `weight`, `bias` | `[n]` | any float |
/// | `sum` | as `x`: receives `h` | any float |
/// | `out` | as `x` | any float or block format |
///
/// Without `weight` the factor is 1, whatever `weight_offset` is. Where `sum` is given, the norm
/// is that of `h` as stored there, rounded once to its type: the fused operation equals an
/// addition followed by a norm. Sums are kept in f32 or wider, so with f32 sums elements above
/// √(f32::MAX) ≈ 1.8e19 overflow the mean of squares.
///
/// NaN and inf propagate as IEEE arithmetic has it: a NaN makes its row NaN; an infinity makes
/// its own element NaN and the others of its row 0 (RMS) or NaN (layer norm). A row of zeros with
/// `eps = 0` is NaN.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Which norm.
    pub kind: NormKind,
    /// What is normalised.
    pub x: Operand,
    /// Added to `x` first.
    pub residual: Option<Operand>,
    /// Factor of each column.
    pub weight: Option<Operand>,
    /// Added to each column.
    pub bias: Option<Operand>,
    /// Receives `x + residual`.
    pub sum: Option<Operand>,
    /// The result.
    pub out: Operand,
    /// Added to the mean under the root.
    pub eps: f32,
    /// Added to `weight`: 1 for models whose files hold `weight − 1` (Gemma), else 0.
    pub weight_offset: f32,
    /// How a block-scaled `out` is quantised; `None` for the format's default.
    pub quantizer: Option<Quantizer>,
}

impl Norm {
    /// `out = norm(x)`, without weight.
    pub fn new(kind: NormKind, x: impl Into<Operand>, out: impl Into<Operand>, eps: f32) -> Self {
        Norm {
            kind,
            x: x.into(),
            residual: None,
            weight: None,
            bias: None,
            sum: None,
            out: out.into(),
            eps,
            weight_offset: 0.0,
            quantizer: None,
        }
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        let mut uses = vec![Use::read("x", &self.x)];
        uses.extend(self.residual.iter().map(|o| Use::read("residual", o)));
        uses.extend(self.weight.iter().map(|o| Use::read("weight", o)));
        uses.extend(self.bias.iter().map(|o| Use::read("bias", o)));
        uses.extend(self.sum.iter().map(|o| Use::write("sum", o)));
        uses.push(Use::write("out", &self.out));
        uses
    }

    pub(super) fn validate(&self) -> Result<()> {
        const OP: &str = "norm";
        let dims = self.x.dims();
        let Some(&n) = dims.last() else {
            return Err(Error::shape(
                OP,
                "x",
                format!("x is {}: at least 1 dimension is expected", self.x),
            ));
        };
        self.x.require_float(OP, "x")?;
        for (arg, operand) in [("residual", &self.residual), ("sum", &self.sum)] {
            if let Some(operand) = operand {
                require_dims(OP, arg, operand, &dims)?;
                operand.require_dense_float(OP, arg)?;
            }
        }
        for (arg, operand) in [("weight", &self.weight), ("bias", &self.bias)] {
            if let Some(operand) = operand {
                require_dims(OP, arg, operand, &[n])?;
                operand.require_dense_float(OP, arg)?;
            }
        }
        require_dims(OP, "out", &self.out, &dims)?;
        require_output(OP, "out", &self.out, self.quantizer)?;
        if !(self.eps >= 0.0 && self.eps.is_finite()) {
            return Err(Error::value(
                OP,
                "eps",
                format!("{}: a finite number of at least 0 is expected", self.eps),
            ));
        }
        if !self.weight_offset.is_finite() {
            return Err(Error::value(
                OP,
                "weight_offset",
                format!("{}: a finite number is expected", self.weight_offset),
            ));
        }
        Ok(())
    }
}

impl fmt::Display for NormKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            NormKind::Rms => "rms",
            NormKind::Layer => "layer",
        })
    }
}
