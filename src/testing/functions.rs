//! Errors of functions evaluated in floating point.
//!
//! Elementary functions (`e^x`, `ln`, `tanh`, `erf`, `sin`, `cos`, `1/√x`) are held to 2 ulp, `4u`
//! relative: what CUDA states for its f32 functions at full range (CUDA C++ Programming Guide,
//! mathematical functions, maximum ulp errors) and what libraries on CPUs keep too. Sums,
//! products, quotients and roots round once, `u`. What is built of them follows from the formula.

use super::bounds::{TINY_F32, U_F32};
use crate::backend::reference::evaluate;
use crate::op::{Activation, Function};

/// Relative error of an elementary function in units of `u`: 2 ulp.
pub(super) const ELEMENTARY: f64 = 4.0;

/// The type that a computation is carried out in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Precision {
    /// Unit roundoff.
    pub u: f64,
    /// The smallest value above 0.
    pub tiny: f64,
    /// The smallest normal value.
    pub min_normal: f64,
}

impl Precision {
    pub(super) const F32: Precision =
        Precision { u: U_F32, tiny: TINY_F32, min_normal: f32::MIN_POSITIVE as f64 };

    /// The reference, too, computes in f64: its own error counts as much as the kernel's.
    pub(super) const F64: Precision =
        Precision { u: f64::EPSILON, tiny: f64::MIN_POSITIVE, min_normal: f64::MIN_POSITIVE };
}

/// A value and how far it may be off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Approx {
    pub value: f64,
    pub error: f64,
}

impl Approx {
    pub(super) fn exact(value: f64) -> Self {
        Approx { value, error: 0.0 }
    }

    fn ends(self) -> [f64; 2] {
        [self.value - self.error, self.value + self.error]
    }
}

/// How far `f(x, y)` may be off: what the errors of its arguments move it by, and the error of
/// evaluating it. An infinity or NaN is exact, but where an infinity may meet a zero: NaN.
pub(super) fn function_error(f: Function, x: Approx, y: Approx, p: Precision) -> f64 {
    let exact = evaluate(f, x.value, y.value);
    if let Function::Gate(gate) = f
        && y.value.is_infinite()
    {
        let gate = Function::Activation(gate.pointwise());
        let error = function_error(gate, x, Approx::exact(f64::NAN), p);
        // A gate that may round to 0 makes of an infinity what it likes.
        return if evaluate(gate, x.value, 0.0).abs() <= error { f64::NAN } else { 0.0 };
    }
    if !exact.is_finite() {
        return 0.0;
    }
    // Between its ends, and where it turns, a function is monotone.
    let mut inherited = 0.0f64;
    if x.error > 0.0 || y.error > 0.0 {
        let [low, high] = x.ends();
        let turn = turning_point(f).filter(|turn| low < *turn && *turn < high);
        for x in [low, high].into_iter().chain(turn) {
            for y in y.ends() {
                let moved = (evaluate(f, x, y) - exact).abs();
                inherited = inherited.max(if moved.is_nan() { f64::INFINITY } else { moved });
            }
        }
    }
    // For terms of second order in u.
    const SECOND_ORDER: f64 = 1.0 + 1.0 / 256.0;
    SECOND_ORDER * (inherited + evaluation_error(f, x.value, y.value, exact, p))
}

/// Where a function has its minimum, if it has one.
fn turning_point(f: Function) -> Option<f64> {
    match f {
        Function::Activation(f) | Function::Gate(f) => match f.pointwise() {
            Activation::Silu => Some(-1.278_464_542_8),
            Activation::Gelu => Some(-0.751_791_524_7),
            Activation::GeluTanh => Some(-0.752_461_422_1),
            _ => None,
        },
        Function::Abs => Some(0.0),
        _ => None,
    }
}

fn evaluation_error(f: Function, x: f64, y: f64, exact: f64, p: Precision) -> f64 {
    let size = exact.abs();
    let elementary = ELEMENTARY * p.u * size;
    match f {
        Function::Neg | Function::Abs | Function::Max | Function::Min => 0.0,
        // The sign of the zero is not defined.
        Function::Activation(Activation::Relu) => p.tiny,
        Function::Activation(f) => activation_error(f, x, size, p),
        // Vector exponentials flush subnormal results to 0.
        Function::Exp => elementary + if size < p.min_normal { size } else { 0.0 },
        Function::Ln | Function::Rsqrt => elementary,
        Function::Tanh => elementary + p.tiny,
        // e^−x, the sum, the quotient.
        Function::Sigmoid => (ELEMENTARY + 2.0) * p.u * size + flushed(x, size, p) + p.tiny,
        Function::Sqrt => p.u * size,
        // Both numbers are rounded, then the product and the sum.
        Function::Affine { scale, shift } => {
            p.u * (2.0 * (scale * x).abs() + shift.abs() + size) + 2.0 * p.tiny
        }
        Function::Recip | Function::Add | Function::Sub | Function::Mul | Function::Div => {
            p.u * size + p.tiny
        }
        Function::Gate(f) => {
            let gate = evaluate(Function::Activation(f.pointwise()), x, 0.0).abs();
            activation_error(f.pointwise(), x, gate, p) * y.abs() + p.u * size + p.tiny
        }
    }
}

/// The error of evaluating a pointwise activation, `size` being the magnitude of its result.
fn activation_error(f: Activation, x: f64, size: f64, p: Precision) -> f64 {
    match f {
        Activation::Identity | Activation::Relu => 0.0,
        // As the sigmoid, and a product.
        Activation::Silu => (ELEMENTARY + 3.0) * p.u * size + flushed(x, size, p) + p.tiny,
        // With t = x/√2 off by 2u relative: erf by 2u · max t·erf′(t) = 0.97u, and by 4u of its
        // own; 1 + erf rounds by 2u at most; all that times |x|/2, and the product: 4.5u·|x|.
        Activation::Gelu => 5.0 * p.u * x.abs() + p.tiny,
        // The argument t is off by 7u relative (two constants, the cube, two products and a sum):
        // tanh by 7u · max t·tanh′(t) = 3.2u, and by 4u of its own; the sum rounds by 2u at most;
        // all that times |x|/2, and the product: 5.6u·|x|.
        Activation::GeluTanh => 6.0 * p.u * x.abs() + p.tiny,
        Activation::SwiGlu | Activation::GeGlu => 0.0,
    }
}

/// Where e^x is subnormal, e^−x may overflow: what is divided by it is then 0. So of the bound, which
/// has a 256th for terms of second order, reports show 0.996 used, whatever came before.
fn flushed(x: f64, size: f64, p: Precision) -> f64 {
    if x < p.min_normal.ln() { size } else { 0.0 }
}
