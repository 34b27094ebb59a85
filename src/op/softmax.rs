//! Softmax of rows.

use super::check::require_dims;
use super::operand::{Operand, Use};
use crate::error::{Error, Result};

/// `out = e^(z − max z) / Σ e^(z − max z)` over the last dimension, `z = scale · x`; with `log`,
/// `out = z − max z − ln Σ e^(z − max z)`.
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `x` | `[.., n]` | any float or block format |
/// | `out` | as `x` | any float |
///
/// Sums are kept in f32 or wider. A row of which every `z` is −inf has no distribution: its result
/// is 0 everywhere (−inf with `log`), as attention has it for a query that sees no key. A NaN, or
/// a `z` of +inf, makes its row NaN.
#[derive(Clone, Debug)]
pub struct Softmax {
    /// The logits.
    pub x: Operand,
    /// The result.
    pub out: Operand,
    /// Multiplies the logits.
    pub scale: f32,
    /// Whether the logarithm of the softmax is computed.
    pub log: bool,
}

impl Softmax {
    /// `out = softmax(x)`.
    pub fn new(x: impl Into<Operand>, out: impl Into<Operand>) -> Self {
        Softmax { x: x.into(), out: out.into(), scale: 1.0, log: false }
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        vec![Use::read("x", &self.x), Use::write("out", &self.out)]
    }

    pub(super) fn validate(&self) -> Result<()> {
        const OP: &str = "softmax";
        let dims = self.x.dims();
        if dims.is_empty() {
            return Err(Error::shape(
                OP,
                "x",
                format!("x is {}: at least 1 dimension is expected", self.x),
            ));
        }
        self.x.require_float(OP, "x")?;
        require_dims(OP, "out", &self.out, &dims)?;
        self.out.require_dense_float(OP, "out")?;
        if !self.scale.is_finite() {
            return Err(Error::value(
                OP,
                "scale",
                format!("{}: a finite number is expected", self.scale),
            ));
        }
        Ok(())
    }
}
