//! Norms.

use proptest::prelude::*;

use super::{BuildOp, Target};
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{Norm, NormKind, Op, Operand};
use crate::testing::bounds::{TINY_F32, U_F32, gamma, round};
use crate::testing::expected::{Expected, decoded, in_f64, values_opt};
use crate::testing::functions::{Approx, Precision};
use crate::testing::operand::{Kind, Layout, Source, floats, shapes};

/// A norm.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Norm`.
pub struct NormCase {
    pub kind: NormKind,
    pub dims: Vec<usize>,
    pub x: Kind,
    pub residual: Option<DType>,
    pub weight: Option<DType>,
    pub bias: Option<DType>,
    pub sum: Option<DType>,
    pub out: Target,
    pub eps: f32,
    pub weight_offset: f32,
    /// Of x, residual, weight, bias, sum and out.
    pub layouts: [Layout; 6],
    pub source: Source,
}

/// Norms of both kinds, with every operand that may be left out.
pub fn norm_cases() -> impl Strategy<Value = NormCase> {
    let float = || floats();
    let kind = prop::sample::select(vec![NormKind::Rms, NormKind::Layer]);
    let given = || prop::option::of(float());
    let operands = (Kind::any(), given(), given(), given(), given(), Target::any());
    let eps = prop::sample::select(vec![1e-5f32, 1e-6, 0.0, 0.5]);
    let offset = prop::sample::select(vec![0.0f32, 1.0]);
    (kind, shapes(4), operands, (eps, offset), Layout::each(), Source::any()).prop_map(
        |(kind, dims, operands, (eps, weight_offset), layouts, source)| {
            let (x, residual, weight, bias, sum, out) = operands;
            NormCase {
                kind,
                dims,
                x,
                residual,
                weight,
                bias,
                sum,
                out,
                eps,
                weight_offset,
                layouts,
                source,
            }
        },
    )
}

impl BuildOp for NormCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let (dims, layouts, source) = (&self.dims[..], self.layouts, self.source);
        let columns = &dims[dims.len() - 1..];
        let plain = |dtype: Option<DType>, source: Source, dims: &[usize], layout: Layout| {
            dtype.map(|t| source.operand(device, Kind::Plain(t), dims, layout)).transpose()
        };
        let x = source.salted(1).operand(device, self.x, dims, layouts[0])?;
        let out = self.out.kind.spec(dims, layouts[5])?;
        let mut op = Norm::new(self.kind, x, out, self.eps);
        op.residual = plain(self.residual, source.salted(2), dims, layouts[1])?;
        op.weight = plain(self.weight, source.normal(3), columns, layouts[2])?;
        op.bias = plain(self.bias, source.normal(4), columns, layouts[3])?;
        op.sum = self.sum.map(|t| Kind::Plain(t).spec(dims, layouts[4])).transpose()?;
        op.weight_offset = self.weight_offset;
        op.quantizer = self.out.quantizer;
        Ok(op.into())
    }
}

/// With `h = x + residual` off by `e_h` (decoding, one rounding of the sum), the mean of squares
/// of `n` values is off by `γ_(n+3)` relative and by what `e_h` does to each square; the factor
/// `1/√(mean + eps)` is monotone in it. What follows rounds at most ten times: the root's
/// reciprocal (5), the offset, two products and the bias. Layer norm subtracts a mean that is off
/// by `γ_(n+1)·mean|h|` first.
pub(in crate::testing) fn expected(op: &Norm) -> Result<Vec<Expected>> {
    let mut h = decoded(&op.x, Precision::F32)?;
    if let Some(residual) = values_opt(op.residual.as_ref())? {
        for (h, r) in h.iter_mut().zip(residual) {
            // A sum with a zero does not round.
            let rounds = r != 0.0 && h.value != 0.0;
            h.value += r;
            h.error += if rounds { U_F32 * (h.value.abs() + h.error) } else { 0.0 };
        }
    }
    h.iter_mut().filter(|h| !h.value.is_finite()).for_each(|h| h.error = 0.0);
    let mut outputs = Vec::new();
    if let Some(dtype) = op.sum.as_ref().and_then(Operand::dtype) {
        let (values, errors) = h.iter().map(|h| (h.value, h.error)).unzip();
        outputs.push(Expected::Values { values, errors });
        // The norm is that of what was stored: most often there is but one value that it can be.
        for h in &mut h {
            let stored = round(dtype, h.value);
            let away = |end: f64| (round(dtype, end) - stored).abs();
            let error = away(h.value - h.error).max(away(h.value + h.error));
            let exact = h.error == 0.0 || !stored.is_finite();
            *h = Approx { value: stored, error: if exact { 0.0 } else { error } };
        }
    }
    let plain = Norm { quantizer: None, ..op.clone() };
    let values = in_f64(plain)?;
    let weight = values_opt(op.weight.as_ref())?;
    let bias = values_opt(op.bias.as_ref())?;
    let n = op.x.dims().last().copied().unwrap_or(1).max(1);
    let mut errors = Vec::with_capacity(h.len());
    for (row, values) in h.chunks(n).zip(values.chunks(n)) {
        let scale = row_scale(op, row);
        for (col, (h, value)) in row.iter().zip(values).enumerate() {
            let weight = weight.as_ref().map_or(1.0, |w| f64::from(op.weight_offset) + w[col]);
            let bias = bias.as_ref().map_or(0.0, |b| b[col]);
            errors.push(scale.error(h, weight, bias, *value));
        }
    }
    outputs.push(Expected::Values { values, errors });
    Ok(outputs)
}

/// The mean of a row and the factor that its elements get.
struct RowScale {
    mean: Approx,
    factor: Approx,
}

fn row_scale(op: &Norm, row: &[Approx]) -> RowScale {
    let n = row.len() as f64;
    let over = |f: &dyn Fn(&Approx) -> f64| row.iter().map(f).sum::<f64>() / n;
    let mut mean = Approx::exact(0.0);
    if op.kind == NormKind::Layer {
        let rounding = gamma(row.len() + 1) * over(&|h| h.value.abs() + h.error);
        // A quotient below the normal numbers is off by up to half of their step.
        let underflow = if rounding > 0.0 { 0.5 * TINY_F32 } else { 0.0 };
        let error = rounding + underflow + over(&|h| h.error);
        mean = Approx { value: over(&|h| h.value), error };
    }
    let centred = |h: &Approx| centred(h, mean);
    let squares = over(&|h| centred(h).value.powi(2));
    let inherited = over(&|h| centred(h).error * (2.0 * centred(h).value.abs() + centred(h).error));
    let eps = f64::from(op.eps);
    // A square can underflow.
    let error = gamma(row.len() + 3) * (squares + inherited) + inherited + 2.0 * TINY_F32;
    let error = error + U_F32 * (squares + eps + error);
    let value = 1.0 / (squares + eps).sqrt();
    let above =
        if squares + eps > error { 1.0 / (squares + eps - error).sqrt() } else { f64::INFINITY };
    RowScale { mean, factor: Approx { value, error: above - value } }
}

/// `h − mean`.
fn centred(h: &Approx, mean: Approx) -> Approx {
    let value = h.value - mean.value;
    let error = h.error + mean.error;
    let rounding = if mean.value == 0.0 && mean.error == 0.0 { 0.0 } else { U_F32 };
    Approx { value, error: error + rounding * (value.abs() + error) }
}

impl RowScale {
    fn error(&self, h: &Approx, weight: f64, bias: f64, exact: f64) -> f64 {
        let (d, f) = (centred(h, self.mean), self.factor);
        if f.value == 0.0 || f.value.is_nan() || d.value.is_nan() {
            // Infinities and NaN in the row: 0 · weight + bias, or NaN.
            return if exact.is_finite() { TINY_F32 } else { 0.0 };
        }
        if f.error == f64::INFINITY {
            // All squares may have underflowed.
            return f64::INFINITY;
        }
        let inherited = d.value.abs() * f.error + d.error * (f.value + f.error);
        let product = (d.value.abs() + d.error) * (f.value + f.error) * weight.abs();
        weight.abs() * inherited
            + gamma(10) * (product + bias.abs())
            + (2.0 + weight.abs()) * TINY_F32
    }
}
