//! Functions of one or two operands, element by element.

use std::fmt;

use super::Activation;
use super::check::{broadcast_dims, require_dims, require_output};
use super::dims::Dims;
use super::operand::{Operand, Use};
use crate::error::{Error, Result};
use crate::format::Quantizer;

/// What an [`Elementwise`] operation computes of `x` (from `a`) and `y` (from `b`).
///
/// All follow IEEE arithmetic at NaN, infinities and zeros, as the formula is written.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Function {
    /// `−x`
    Neg,
    /// `|x|`
    Abs,
    /// `e^x`
    Exp,
    /// `ln x`: −inf of 0, NaN below.
    Ln,
    /// `√x`: NaN below 0.
    Sqrt,
    /// `1 / √x`: inf of 0, NaN below.
    Rsqrt,
    /// `1 / x`
    Recip,
    /// `tanh x`
    Tanh,
    /// `1 / (1 + e^−x)`
    Sigmoid,
    /// `f(x)`, for an activation that is not gated.
    Activation(Activation),
    /// `scale · x + shift`. Kernels that compute in f32 round both numbers to f32.
    Affine {
        /// The factor.
        scale: f64,
        /// What is added.
        shift: f64,
    },
    /// `x + y`
    Add,
    /// `x − y`
    Sub,
    /// `x · y`
    Mul,
    /// `x / y`
    Div,
    /// The larger; NaN if either is NaN; +0 is larger than −0 (IEEE 754-2019 `maximum`).
    Max,
    /// The smaller; NaN if either is NaN; −0 is smaller than +0 (IEEE 754-2019 `minimum`).
    Min,
    /// `f(x) · y` with the activation of the gate half of [`Activation::SwiGlu`] or
    /// [`Activation::GeGlu`], gate and value in two operands.
    Gate(Activation),
}

impl Function {
    /// Whether it takes `b`.
    pub const fn is_binary(self) -> bool {
        match self {
            Function::Neg
            | Function::Abs
            | Function::Exp
            | Function::Ln
            | Function::Sqrt
            | Function::Rsqrt
            | Function::Recip
            | Function::Tanh
            | Function::Sigmoid
            | Function::Activation(_)
            | Function::Affine { .. } => false,
            Function::Add
            | Function::Sub
            | Function::Mul
            | Function::Div
            | Function::Max
            | Function::Min
            | Function::Gate(_) => true,
        }
    }
}

/// `out = f(a)` or `out = f(a, b)`, element by element, rounded once to `out`'s type.
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `a`, `b` | equal, or 1 or missing where shared (aligned at the last dimension) | any float or block format |
/// | `out` | the sizes that `a` and `b` broadcast to | any float or block format |
///
/// Computed in f32 or wider: in f64 where an operand is f64.
#[derive(Clone, Debug)]
pub struct Elementwise {
    /// What is computed.
    pub function: Function,
    /// First operand.
    pub a: Operand,
    /// Second operand, for functions that take two.
    pub b: Option<Operand>,
    /// The result.
    pub out: Operand,
    /// How a block-scaled `out` is quantised; `None` for the format's default.
    pub quantizer: Option<Quantizer>,
}

impl Elementwise {
    /// `out = f(a)`.
    pub fn unary(function: Function, a: impl Into<Operand>, out: impl Into<Operand>) -> Self {
        Elementwise { function, a: a.into(), b: None, out: out.into(), quantizer: None }
    }

    /// `out = f(a, b)`.
    pub fn binary(
        function: Function,
        a: impl Into<Operand>,
        b: impl Into<Operand>,
        out: impl Into<Operand>,
    ) -> Self {
        let (a, b, out) = (a.into(), Some(b.into()), out.into());
        Elementwise { function, a, b, out, quantizer: None }
    }

    /// Sizes of the output for operands of these sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] when they do not broadcast.
    pub fn output_dims(a: &Operand, b: Option<&Operand>) -> Result<Dims> {
        let Some(b) = b else { return Ok(a.dims()) };
        let dims = broadcast_dims(&a.dims(), &b.dims()).ok_or_else(|| {
            Error::shape(
                "elementwise",
                "a, b",
                format!("a is {a}, b is {b}: sizes must be equal, or 1 where shared"),
            )
        })?;
        Dims::new(&dims)
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        let mut uses = vec![Use::read("a", &self.a)];
        uses.extend(self.b.iter().map(|b| Use::read("b", b)));
        uses.push(Use::write("out", &self.out));
        uses
    }

    pub(super) fn validate(&self) -> Result<()> {
        const OP: &str = "elementwise";
        if self.function.is_binary() != self.b.is_some() {
            let (takes, given) = if self.b.is_some() { ("one", "two") } else { ("two", "one") };
            return Err(Error::value(
                OP,
                "b",
                format!("{} takes {takes} operand(s), not {given}", self.function),
            ));
        }
        match self.function {
            Function::Activation(f) if f.is_gated() => {
                return Err(Error::value(
                    OP,
                    "function",
                    format!("{f} takes two operands here; use Function::Gate({f:?})"),
                ));
            }
            Function::Affine { scale, shift } if scale.is_nan() || shift.is_nan() => {
                return Err(Error::value(
                    OP,
                    "function",
                    format!("scale {scale}, shift {shift}: numbers are expected"),
                ));
            }
            _ => {}
        }
        self.a.require_float(OP, "a")?;
        if let Some(b) = &self.b {
            b.require_float(OP, "b")?;
        }
        require_dims(OP, "out", &self.out, &Self::output_dims(&self.a, self.b.as_ref())?)?;
        require_output(OP, "out", &self.out, self.quantizer)
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Function::Neg => "neg",
            Function::Abs => "abs",
            Function::Exp => "exp",
            Function::Ln => "ln",
            Function::Sqrt => "sqrt",
            Function::Rsqrt => "rsqrt",
            Function::Recip => "recip",
            Function::Tanh => "tanh",
            Function::Sigmoid => "sigmoid",
            Function::Activation(activation) => return activation.fmt(f),
            Function::Affine { scale, shift } => return write!(f, "{scale}·x + {shift}"),
            Function::Add => "add",
            Function::Sub => "sub",
            Function::Mul => "mul",
            Function::Div => "div",
            Function::Max => "max",
            Function::Min => "min",
            Function::Gate(activation) => return write!(f, "{}·y", activation.pointwise()),
        };
        f.pad(name)
    }
}
