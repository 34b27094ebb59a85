//! `out = norm(x + residual) · (weight_offset + weight) + bias`

use super::array::{Array, QuantizeWith};
use crate::error::Result;
use crate::op::{Norm, NormKind};
use crate::registry::Launch;

pub(super) fn norm(op: &Norm, launch: &Launch<'_>) -> Result<()> {
    let mut h = Array::load(launch, &op.x)?;
    if let Some(residual) = Array::load_opt(launch, op.residual.as_ref())? {
        for (h, r) in h.data.iter_mut().zip(&residual.data) {
            *h += r;
        }
    }
    if let Some(sum) = &op.sum {
        h.store(launch, sum, QuantizeWith::default())?;
        if let Some(dtype) = sum.dtype() {
            h.round_to(dtype)?;
        }
    }
    let weight = Array::load_opt(launch, op.weight.as_ref())?;
    let bias = Array::load_opt(launch, op.bias.as_ref())?;
    let n = h.rows_cols().1;
    for row in h.data.chunks_mut(n.max(1)) {
        let mean = match op.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => row.iter().sum::<f64>() / n as f64,
        };
        let variance = row.iter().map(|h| (h - mean) * (h - mean)).sum::<f64>() / n as f64;
        let root = (variance + f64::from(op.eps)).sqrt();
        for (col, h) in row.iter_mut().enumerate() {
            let w = weight.as_ref().map_or(1.0, |w| f64::from(op.weight_offset) + w.data[col]);
            let b = bias.as_ref().map_or(0.0, |b| b.data[col]);
            *h = (*h - mean) / root * w + b;
        }
    }
    h.store(launch, &op.out, QuantizeWith { quantizer: op.quantizer, tensor_scale: None })
}
