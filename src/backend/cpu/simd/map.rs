//! Functions of lines of f32, element by element.

use super::math::{erf, exp, mul_add, sigmoid, tanh};
use super::per_level::per_level;
use crate::op::{Activation, Function};

per_level! {
    /// `x[i] = f(x[i])`, by a function of one operand.
    pub fn unary(function: Function, x: &mut [f32]) {
        match function {
            Function::Neg => each(x, |x| -x),
            Function::Abs => each(x, f32::abs),
            Function::Exp => each(x, exp::<FUSED>),
            Function::Ln => each(x, f32::ln),
            Function::Sqrt => each(x, f32::sqrt),
            Function::Rsqrt => each(x, |x| 1.0 / x.sqrt()),
            Function::Recip => each(x, |x| 1.0 / x),
            Function::Tanh => each(x, tanh::<FUSED>),
            Function::Sigmoid => each(x, sigmoid::<FUSED>),
            Function::Activation(f) => activate_each::<FUSED>(f, x),
            Function::Affine { scale, shift } => {
                let (scale, shift) = (scale as f32, shift as f32);
                each(x, |x| mul_add::<FUSED>(scale, x, shift));
            }
            // Validation lets no binary function come here.
            _ => x.fill(f32::NAN),
        }
    }

    /// `x[i] = f(x[i], y[i])`, by a function of two operands.
    pub fn binary(function: Function, x: &mut [f32], y: &[f32]) {
        match function {
            Function::Add => pairs(x, y, |x, y| x + y),
            Function::Sub => pairs(x, y, |x, y| x - y),
            Function::Mul => pairs(x, y, |x, y| x * y),
            Function::Div => pairs(x, y, |x, y| x / y),
            Function::Max => pairs(x, y, maximum),
            Function::Min => pairs(x, y, |x, y| -maximum(-x, -y)),
            Function::Gate(f) => {
                activate_each::<FUSED>(f.pointwise(), x);
                pairs(x, y, |x, y| x * y);
            }
            // Validation lets no unary function come here.
            _ => x.fill(f32::NAN),
        }
    }
}

#[inline(always)]
fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in x {
        *x = f(*x);
    }
}

#[inline(always)]
fn pairs(x: &mut [f32], y: &[f32], f: impl Fn(f32, f32) -> f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = f(*x, *y);
    }
}

#[inline(always)]
fn activate_each<const FUSED: bool>(f: Activation, x: &mut [f32]) {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    match f {
        Activation::Relu => each(x, |x| if x < 0.0 { 0.0 } else { x }),
        Activation::Silu => each(x, |x| x * sigmoid::<FUSED>(x)),
        Activation::Gelu => {
            each(x, |x| 0.5 * x * (1.0 + erf::<FUSED>(x * std::f32::consts::FRAC_1_SQRT_2)))
        }
        Activation::GeluTanh => each(x, |x| {
            let inner = SQRT_2_OVER_PI * mul_add::<FUSED>(0.044715 * x * x, x, x);
            0.5 * x * (1.0 + tanh::<FUSED>(inner))
        }),
        Activation::Identity | Activation::SwiGlu | Activation::GeGlu => {}
    }
}

/// The larger of two; NaN if either is NaN; +0 is larger than −0.
#[inline(always)]
pub(super) fn maximum(x: f32, y: f32) -> f32 {
    // Of equal numbers only zeros differ, in their sign.
    let equal = f32::from_bits(x.to_bits() & y.to_bits());
    let larger = if x > y { x } else { equal };
    let larger = if y > x { y } else { larger };
    if x.is_nan() | y.is_nan() { x + y } else { larger }
}
