//! Lines of f32 gathered into one number, in an order that depends on nothing but their length:
//! [`LANES`] partial results by index mod [`LANES`], joined by halves.

use super::LANES;
use super::map::maximum;
use super::math::exp;
use super::per_level::per_level;
use crate::op::Reduction;

per_level! {
    /// The elements gathered by a sum, product or extreme; the sum for a mean.
    pub fn gather(function: Reduction, x: &[f32]) -> f64 {
        match function {
            Reduction::Sum | Reduction::Mean => lanes(x, 0.0f64, |s, x| s + x, |x| f64::from(*x)),
            Reduction::Prod => lanes(x, 1.0f64, |p, x| p * x, |x| f64::from(*x)),
            Reduction::Max => f64::from(lanes(x, f32::NEG_INFINITY, maximum, |x| *x)),
            Reduction::Min => -f64::from(lanes(x, f32::NEG_INFINITY, maximum, |x| -*x)),
            Reduction::AbsMax => f64::from(lanes(x, 0.0, maximum, |x| x.abs())),
        }
    }

    /// Whether all elements are finite.
    pub fn all_finite(x: &[f32]) -> bool {
        !x.iter().fold(false, |found, x| found | !x.is_finite())
    }

    /// Gathers one more element into each total.
    pub fn accumulate(function: Reduction, totals: &mut [f64], x: &[f32]) {
        match function {
            Reduction::Sum | Reduction::Mean => each(totals, x, |s, x| s + x),
            Reduction::Prod => each(totals, x, |p, x| p * x),
            Reduction::Max => each(totals, x, larger),
            Reduction::Min => each(totals, x, |m, x| -larger(-m, -x)),
            Reduction::AbsMax => each(totals, x, |m, x| larger(m, x.abs())),
        }
    }

    /// The index of the first of the largest elements, or of the smallest: zeros are equal, and so
    /// are NaN, which are larger than any number.
    pub fn position(largest: bool, x: &[f32]) -> usize {
        let nan = first(x, |x| x.is_nan());
        let number = |sign: f32| {
            let largest = lanes(x, f32::NEG_INFINITY, |m, x| if x > m { x } else { m }, |x| sign * x);
            first(x, |x| sign * x == largest)
        };
        let found = if largest { nan.or_else(|| number(1.0)) } else { number(-1.0).or(nan) };
        found.unwrap_or(0)
    }

    /// `Σ (x − mean)²`, in f64.
    pub fn squares(x: &[f32], mean: f64) -> f64 {
        let square = |x: &f32| {
            let x = f64::from(*x) - mean;
            x * x
        };
        lanes(x, 0.0f64, |s, x| s + x, square)
    }

    /// `x[i] = (x[i] − mean) · factor · (offset + weight[i]) + bias[i]` in f64, rounded once; an
    /// empty weight is 1 in all, an empty bias 0.
    pub fn normalize(
        x: &mut [f32],
        mean: f64,
        factor: f64,
        offset: f64,
        weight: &[f32],
        bias: &[f32],
    ) {
        match (weight.is_empty(), bias.is_empty()) {
            (true, true) => {
                x.iter_mut().for_each(|x| *x = ((f64::from(*x) - mean) * factor) as f32);
            }
            (false, true) => {
                for (x, w) in x.iter_mut().zip(weight) {
                    *x = ((f64::from(*x) - mean) * factor * (offset + f64::from(*w))) as f32;
                }
            }
            (no_weight, _) => {
                for (i, (x, b)) in x.iter_mut().zip(bias).enumerate() {
                    let w = if no_weight { 1.0 } else { offset + f64::from(weight[i]) };
                    *x = ((f64::from(*x) - mean) * factor * w + f64::from(*b)) as f32;
                }
            }
        }
    }

    /// Scales logits and turns them into `e^(z − max z) / Σ e^(z − max z)`, or its logarithm; 0
    /// and −inf where every one is −inf.
    pub fn softmax(x: &mut [f32], scale: f32, log: bool) {
        x.iter_mut().for_each(|x| *x *= scale);
        let max = largest(x);
        if max == f32::NEG_INFINITY && !x.iter().fold(false, |nan, x| nan | x.is_nan()) {
            x.fill(if log { f32::NEG_INFINITY } else { 0.0 });
            return;
        }
        if log {
            let sum = lanes(x, 0.0f64, |s, x| s + x, |x| f64::from(exp::<FUSED>(*x - max)));
            let log_sum = sum.ln() as f32;
            x.iter_mut().for_each(|x| *x = (*x - max) - log_sum);
            return;
        }
        x.iter_mut().for_each(|x| *x = exp::<FUSED>(*x - max));
        let sum = lanes(x, 0.0f64, |s, x| s + x, |x| f64::from(*x));
        let sum = sum as f32;
        x.iter_mut().for_each(|x| *x /= sum);
    }
}

/// Two gathered results in one.
pub fn join(function: Reduction, a: f64, b: f64) -> f64 {
    match function {
        Reduction::Sum | Reduction::Mean => a + b,
        Reduction::Prod => a * b,
        Reduction::Max | Reduction::AbsMax => larger(a, b),
        Reduction::Min => -larger(-a, -b),
    }
}

/// The larger of two f32 values; NaN if either is NaN; +0 is larger than −0.
#[inline(always)]
fn larger(a: f64, b: f64) -> f64 {
    f64::from(maximum(a as f32, b as f32))
}

#[inline(always)]
fn each(totals: &mut [f64], x: &[f32], join: impl Fn(f64, f64) -> f64) {
    for (total, x) in totals.iter_mut().zip(x) {
        *total = join(*total, f64::from(*x));
    }
}

/// Where the first element is that something holds of: block by block, for finding it inside one
/// would keep the loop from vectorising.
#[inline(always)]
fn first(x: &[f32], holds: impl Fn(f32) -> bool) -> Option<usize> {
    const BLOCK: usize = 64;
    let block = x.chunks(BLOCK).position(|b| b.iter().fold(false, |any, x| any | holds(*x)))?;
    let start = block * BLOCK;
    x[start..].iter().position(|x| holds(*x)).map(|i| start + i)
}

/// The largest that is a number; −inf where none is.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    lanes(x, f32::NEG_INFINITY, |m, x| if x > m { x } else { m }, |x| *x)
}

/// Gathers `value(x)` by `join`, which starts from `start` in every lane.
#[inline(always)]
pub(super) fn lanes<A: Copy, E>(
    x: &[E],
    start: A,
    join: impl Fn(A, A) -> A,
    value: impl Fn(&E) -> A,
) -> A {
    let mut lanes = [start; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = join(*lane, value(x));
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = join(*lane, value(x));
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}
