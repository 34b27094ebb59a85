//! Matrix product with a fused epilogue.

use super::Activation;
use super::check::{broadcast_dims, require_broadcast, require_dims};
use super::dims::Dims;
use super::operand::{Operand, Use};
use crate::error::{Error, Result};
use crate::format::Quantizer;

/// `D = residual + f(alpha · A·B ∘ column_scale + beta · C + bias)`, rounded once to D's type.
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `a` | `[.., m, k]` | any float or block format (blocks along k) |
/// | `b` | `[.., k, n]`, or `[.., k, 2n]` when gated | any float or block format (blocks along k) |
/// | `c`, `residual` | `[.., m, n]` (`c`: as wide as `b`) | any float |
/// | `column_scale` | `[n]` (as wide as `b`) | any float |
/// | `bias` | `[n]` (as wide as `b`) | any float |
/// | `d` | `[.., m, n]` | any float or block format |
///
/// Leading (batch) sizes of `a`, `b` and `c` are those of `d`, or 1 where they are shared. `f` is
/// the [`Activation`]; a gated one multiplies the activated first half of the columns by the
/// second half. Column j of the product is multiplied by element j of `column_scale`, so that
/// matrices with a scale each can be one: see
/// [`ScaledTensor::concat_outer`](crate::ScaledTensor::concat_outer). With `beta == 0`, `c` is not
/// read. A block-scaled `b` is stored as `[.., n, k]`
/// and passed transposed, for its blocks run along k.
///
/// Products are exact or rounded once to the accumulator, which is f32 or wider (f64 in the
/// reference). NaN and inf propagate as IEEE arithmetic has it; where k is 0 the product is 0.
#[derive(Clone, Debug)]
pub struct Gemm {
    /// Left matrix.
    pub a: Operand,
    /// Right matrix.
    pub b: Operand,
    /// Added to the product, times `beta`.
    pub c: Option<Operand>,
    /// The result.
    pub d: Operand,
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of `c`.
    pub beta: f32,
    /// What is fused behind the product.
    pub epilogue: Epilogue,
}

/// What a GEMM does to the product before it is stored.
#[derive(Clone, Debug, Default)]
pub struct Epilogue {
    /// Factor of each column of the product.
    pub column_scale: Option<Operand>,
    /// Added to every row.
    pub bias: Option<Operand>,
    /// Applied to each element (or pair of halves).
    pub activation: Activation,
    /// Added after the activation.
    pub residual: Option<Operand>,
    /// How a block-scaled `d` is quantised; `None` for the format's default.
    pub quantizer: Option<Quantizer>,
}

/// Sizes of a validated [`Gemm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmSizes {
    /// Product of the batch sizes of `d`.
    pub batch: usize,
    /// Rows of `a` and `d`.
    pub m: usize,
    /// Columns of `b`: `n`, or `2n` when gated.
    pub n: usize,
    /// Columns of `a`, rows of `b`.
    pub k: usize,
}

impl GemmSizes {
    /// Multiply-adds of the product: `batch · m · n · k`.
    pub fn products(&self) -> f64 {
        self.batch as f64 * self.m as f64 * self.n as f64 * self.k as f64
    }
}

impl Gemm {
    /// `D = A·B`.
    pub fn new(a: impl Into<Operand>, b: impl Into<Operand>, d: impl Into<Operand>) -> Self {
        Gemm {
            a: a.into(),
            b: b.into(),
            c: None,
            d: d.into(),
            alpha: 1.0,
            beta: 0.0,
            epilogue: Epilogue::default(),
        }
    }

    /// Sizes of the output for operands of these sizes: `[.., m, n]` with the batch sizes of `a`
    /// and `b` broadcast against each other.
    pub fn output_dims(a: &Operand, b: &Operand, activation: Activation) -> Result<Dims> {
        let (ad, bd) = (a.dims(), b.dims());
        let (am, ak, bk, bn) = match (&ad[..], &bd[..]) {
            (&[.., m, k], &[.., k2, n]) => (m, k, k2, n),
            _ => {
                return Err(Error::shape(
                    "matmul",
                    "a, b",
                    format!("a is {a}, b is {b}: both need at least 2 dimensions"),
                ));
            }
        };
        if ak != bk {
            let hint = if ak == bn { "; transpose b?" } else { "" };
            return Err(Error::shape(
                "matmul",
                "a, b",
                format!("a is {a}, b is {b}: inner sizes {ak} and {bk} differ{hint}"),
            ));
        }
        let n = if activation.is_gated() {
            if bn % 2 != 0 {
                return Err(Error::shape(
                    "matmul",
                    "b",
                    format!("b is {b}: a gated activation needs an even number of columns"),
                ));
            }
            bn / 2
        } else {
            bn
        };
        let batch = broadcast_dims(ad.leading(2), bd.leading(2)).ok_or_else(|| {
            Error::shape(
                "matmul",
                "a, b",
                format!("a is {a}, b is {b}: batch sizes must be equal, or 1 where shared"),
            )
        })?;
        Dims::new(&[&batch[..], &[am, n]].concat())
    }

    /// The sizes; call after [`Gemm::validate`].
    pub fn sizes(&self) -> Result<GemmSizes> {
        let (a, b, d) = (self.a.dims(), self.b.dims(), self.d.dims());
        match (&a[..], &b[..]) {
            (&[.., m, k], &[.., n]) => {
                Ok(GemmSizes { batch: Dims::new(d.leading(2))?.numel()?, m, n, k })
            }
            _ => Err(Error::shape("matmul", "a, b", "both need at least 2 dimensions")),
        }
    }

    /// Checks every operand against the others.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "matmul";
        let expected = Self::output_dims(&self.a, &self.b, self.epilogue.activation)?;
        let d = self.d.dims();
        if d != expected {
            return Err(Error::shape(
                OP,
                "d",
                format!("d is {}: a {} times b {} gives {expected}", self.d, self.a, self.b),
            ));
        }
        for (arg, operand) in [("a", &self.a), ("b", &self.b), ("d", &self.d)] {
            operand.require_float(OP, arg)?;
        }
        if let Operand::Scaled(a) = &self.a
            && a.transposed
        {
            return Err(blocks_along_k("a", &self.a, "[.., m, k]"));
        }
        if let Operand::Scaled(b) = &self.b
            && !b.transposed
        {
            return Err(blocks_along_k("b", &self.b, "[.., n, k] and pass its transpose"));
        }
        if let Operand::Scaled(scaled) = &self.d
            && scaled.transposed
        {
            return Err(Error::layout(OP, "d", "a block-scaled output can not be transposed"));
        }
        let n = self.sizes()?.n;
        if let Some(c) = &self.c {
            c.require_float(OP, "c")?;
            let mut wide = expected;
            if let Some(last) = wide.last_mut() {
                *last = n;
            }
            require_broadcast(OP, "c", c, &wide)?;
        }
        if let Some(scale) = &self.epilogue.column_scale {
            scale.require_dense_float(OP, "column_scale")?;
            require_dims(OP, "column_scale", scale, &[n])?;
        }
        if let Some(bias) = &self.epilogue.bias {
            bias.require_dense_float(OP, "bias")?;
            require_dims(OP, "bias", bias, &[n])?;
        }
        if let Some(residual) = &self.epilogue.residual {
            residual.require_dense_float(OP, "residual")?;
            require_dims(OP, "residual", residual, &expected)?;
        }
        for (arg, value) in [("alpha", self.alpha), ("beta", self.beta)] {
            if value.is_nan() {
                return Err(Error::value(OP, arg, "NaN; a number is expected"));
            }
        }
        Ok(())
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        let mut uses = vec![Use::read("a", &self.a), Use::read("b", &self.b)];
        uses.extend(self.c.iter().map(|c| Use::read("c", c)));
        uses.extend(self.epilogue.operands());
        uses.push(Use::write("d", &self.d));
        uses
    }
}

impl Epilogue {
    pub(super) fn operands(&self) -> impl Iterator<Item = Use<'_>> {
        let scale = self.column_scale.iter().map(|o| Use::read("column_scale", o));
        let bias = self.bias.iter().map(|o| Use::read("bias", o));
        scale.chain(bias).chain(self.residual.iter().map(|o| Use::read("residual", o)))
    }
}

fn blocks_along_k(arg: &'static str, operand: &Operand, stored: &str) -> Error {
    Error::layout(
        "matmul",
        arg,
        format!("{arg} is {operand}: its block scales must run along k; store it as {stored}"),
    )
}
