//! `out = f(a, b)`, element by element.

use super::array::{Array, QuantizeWith, unravel};
use super::gemm::apply;
use crate::error::Result;
use crate::op::{Elementwise, Function};
use crate::registry::Launch;

pub(super) fn elementwise(op: &Elementwise, launch: &Launch<'_>) -> Result<()> {
    let a = Array::load(launch, &op.a)?;
    let b = Array::load_opt(launch, op.b.as_ref())?;
    let mut out = Array::zeros(&op.out.dims())?;
    for position in 0..out.data.len() {
        let index = unravel(position, &out.dims);
        let x = a.broadcast_get(&index);
        let y = b.as_ref().map_or(f64::NAN, |b| b.broadcast_get(&index));
        out.data[position] = evaluate(op.function, x, y);
    }
    out.store(launch, &op.out, QuantizeWith { quantizer: op.quantizer, tensor_scale: None })
}

/// `f(x)`, or `f(x, y)` for functions of two operands.
pub(crate) fn evaluate(function: Function, x: f64, y: f64) -> f64 {
    match function {
        Function::Neg => -x,
        Function::Abs => x.abs(),
        Function::Exp => x.exp(),
        Function::Ln => x.ln(),
        Function::Sqrt => x.sqrt(),
        Function::Rsqrt => 1.0 / x.sqrt(),
        Function::Recip => 1.0 / x,
        Function::Tanh => x.tanh(),
        Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Function::Activation(f) => apply(f, x),
        Function::Affine { scale, shift } => scale * x + shift,
        Function::Add => x + y,
        Function::Sub => x - y,
        Function::Mul => x * y,
        Function::Div => x / y,
        Function::Max => maximum(x, y),
        Function::Min => -maximum(-x, -y),
        Function::Gate(f) => apply(f.pointwise(), x) * y,
    }
}

/// The larger of two; NaN if either is NaN; +0 is larger than −0.
pub(super) fn maximum(x: f64, y: f64) -> f64 {
    if x.is_nan() || y.is_nan() {
        f64::NAN
    } else if x.total_cmp(&y).is_ge() {
        x
    } else {
        y
    }
}
