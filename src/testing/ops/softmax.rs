//! Softmax.

use proptest::prelude::*;

use super::BuildOp;
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{Op, Softmax};
use crate::testing::bounds::{TINY_F32, U_F32, gamma};
use crate::testing::expected::{Expected, decoded, in_f64};
use crate::testing::functions::{Approx, ELEMENTARY, Precision};
use crate::testing::operand::{Kind, Layout, Source, floats, shapes};

/// A softmax.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Softmax`.
pub struct SoftmaxCase {
    pub dims: Vec<usize>,
    pub x: Kind,
    pub out: DType,
    pub scale: f32,
    pub log: bool,
    /// Of x and out.
    pub layouts: [Layout; 2],
    pub source: Source,
}

/// Softmax and its logarithm.
pub fn softmax_cases() -> impl Strategy<Value = SoftmaxCase> {
    let out = floats();
    let scale = prop::sample::select(vec![1.0f32, 0.125, -2.0, 100.0, 0.0]);
    (shapes(4), Kind::any(), out, scale, any::<bool>(), Layout::each(), Source::often_non_finite())
        .prop_map(|(dims, x, out, scale, log, layouts, source)| SoftmaxCase {
            dims,
            x,
            out,
            scale,
            log,
            layouts,
            source,
        })
}

impl BuildOp for SoftmaxCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let x = self.source.operand(device, self.x, &self.dims, self.layouts[0])?;
        let out = Kind::Plain(self.out).spec(&self.dims, self.layouts[1])?;
        Ok(Softmax { scale: self.scale, log: self.log, ..Softmax::new(x, out) }.into())
    }
}

/// The product with the scale rounds once; the rest is [`Weights`].
pub(in crate::testing) fn expected(op: &Softmax) -> Result<Vec<Expected>> {
    let scale = f64::from(op.scale);
    let mut z = decoded(&op.x, Precision::F32)?;
    for z in &mut z {
        let value = z.value * scale;
        // Powers of two scale exactly.
        let rounds = scale != 1.0 && value != 0.0;
        let rounding = if rounds { U_F32 * value.abs() + TINY_F32 } else { 0.0 };
        *z = Approx { value, error: z.error * scale.abs() + rounding };
    }
    let values = in_f64(op.clone())?;
    let n = op.x.dims().last().copied().unwrap_or(1).max(1);
    let mut errors = Vec::with_capacity(values.len());
    for (z, values) in z.chunks(n).zip(values.chunks(n)) {
        let weights = Weights::new(z, None);
        errors.extend(z.iter().zip(values).map(|(z, &value)| match op.log {
            _ if !value.is_finite() => 0.0,
            false => weights.error(*z, value),
            true => weights.log_error(*z, value),
        }));
    }
    Ok(vec![Expected::Values { values, errors }])
}

/// How the errors of scores become those of `p = e^(z − max) / Z`.
///
/// A difference `t = z − max` inherits the errors of both and rounds once: `δ`. Its exponential is
/// off by a factor `e^±δ` and 2 ulp, `4u`. So the sum `Z` of `n` of them is off by
/// `ρ = Σ p·(e^δ − 1)` and `γ_(n+4)` relative, and what vector exponentials flush to 0.
pub(in crate::testing) struct Weights {
    max: Approx,
    /// `Z`, and its relative error.
    total: f64,
    sum: f64,
}

impl Weights {
    pub(in crate::testing) fn new(scores: &[Approx], sink: Option<f64>) -> Self {
        let sink = sink.map(Approx::exact);
        let all = || scores.iter().copied().chain(sink);
        let max = all().fold(Approx::exact(f64::NEG_INFINITY), |max, z| {
            let value = max.value.max(z.value);
            let error = if z.value.is_finite() { max.error.max(z.error) } else { max.error };
            Approx { value, error }
        });
        let n = scores.len() + 1;
        let mut weights = Weights { max, total: 0.0, sum: 0.0 };
        weights.total = all().map(|z| weights.exp(z)).sum();
        let share = |z: Approx| weights.share(z) * weights.shift(z).exp_m1();
        let inherited: f64 = all().map(share).filter(|share| !share.is_nan()).sum();
        let flushed = n as f64 * f64::from(f32::MIN_POSITIVE);
        weights.sum = inherited + gamma(n + 4) * (1.0 + inherited) + flushed;
        weights
    }

    /// `e^(z − max)`; 0 where there is nothing but −inf.
    fn exp(&self, z: Approx) -> f64 {
        if z.value == f64::NEG_INFINITY { 0.0 } else { (z.value - self.max.value).exp() }
    }

    /// The weight of a score.
    pub(in crate::testing) fn share(&self, z: Approx) -> f64 {
        if self.total == 0.0 { 0.0 } else { self.exp(z) / self.total }
    }

    /// How far `z − max` may be off; 0 for −inf.
    fn shift(&self, z: Approx) -> f64 {
        let t = z.value - self.max.value;
        if !t.is_finite() {
            return 0.0;
        }
        let inherited = z.error + self.max.error;
        inherited + U_F32 * (t.abs() + inherited)
    }

    /// How far the weight `p` of a score may be off: 2 ulp of the exponential, the quotient.
    pub(in crate::testing) fn error(&self, z: Approx, p: f64) -> f64 {
        if self.sum >= 0.5 {
            return f64::INFINITY;
        }
        let factor = self.shift(z).exp() * (1.0 + gamma(6)) / (1.0 - self.sum);
        p * (factor - 1.0) + f64::from(f32::MIN_POSITIVE)
    }

    /// How far `ln p` may be off: `t`, the logarithm of the sum, their difference.
    fn log_error(&self, z: Approx, log_p: f64) -> f64 {
        let error = self.shift(z) + self.log_sum_error();
        error + U_F32 * (log_p.abs() + error)
    }

    /// How far `ln Z` may be off, scores being shifted by their maximum.
    fn log_sum_error(&self) -> f64 {
        if self.sum >= 0.5 {
            return f64::INFINITY;
        }
        -(-self.sum).ln_1p() + ELEMENTARY * U_F32 * self.total.ln().abs() + TINY_F32
    }

    /// `max + ln Z`, the sum rounded once more.
    pub(in crate::testing) fn log_sum_exp(&self) -> Approx {
        if self.total == 0.0 {
            return Approx::exact(f64::NEG_INFINITY);
        }
        let value = self.max.value + self.total.ln();
        let error = self.max.error + self.log_sum_error();
        Approx {
            value,
            error: if value.is_finite() { error + U_F32 * (value.abs() + error) } else { 0.0 },
        }
    }
}
