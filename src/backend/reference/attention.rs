//! `O = softmax(S)·V`

use super::array::{Array, QuantizeWith};
use crate::error::Result;
use crate::op::Attention;
use crate::registry::Launch;

pub(super) fn attention(op: &Attention, launch: &Launch<'_>) -> Result<()> {
    if op.out.dims().contains(&0) && op.lse.as_ref().is_none_or(|lse| lse.dims().contains(&0)) {
        return Ok(());
    }
    let q = Array::load(launch, &op.q)?;
    let k = Array::load(launch, &op.k)?;
    let v = Array::load(launch, &op.v)?;
    let sinks = Array::load_opt(launch, op.sinks.as_ref())?;
    let slopes = Array::load_opt(launch, op.alibi.as_ref())?;
    let sequences = op.sequences(|operand| launch.read_indices(operand))?;
    let sizes = op.sizes()?;
    let (d, d_v, scale) = (sizes.d, sizes.d_v, op.score_scale());
    // How many query heads share a key head.
    let group = sizes.heads / sizes.kv_heads.max(1);

    let mut out = Array::zeros(&op.out.dims())?;
    let mut lse = Array::zeros(op.out.dims().leading(1))?;
    for sequence in &sequences {
        for (i, row) in sequence.queries.clone().enumerate() {
            let position = sequence.position(i);
            let seen = op.mask.keys(position, sequence.kv_len);
            for head in 0..sizes.heads {
                let query = &q.data[(row * sizes.heads + head) * d..][..d];
                let key_at = |j| sequence.key_row(j) * sizes.kv_heads + head / group;
                let score = |j: usize| {
                    let mut s = scale * dot(query, &k.data[key_at(j) * d..][..d]);
                    if let Some(cap) = op.softcap.map(f64::from) {
                        s = cap * (s / cap).tanh();
                    }
                    if let Some(slopes) = &slopes {
                        s += slopes.data[head] * (j as i64 - position) as f64;
                    }
                    s
                };
                let scores: Vec<f64> = seen.clone().map(score).collect();
                let sink = sinks.as_ref().map(|sinks| sinks.data[head]);
                let (weights, log_sum) = softmax(&scores, sink);

                let result = &mut out.data[(row * sizes.heads + head) * d_v..][..d_v];
                for (j, weight) in seen.clone().zip(weights) {
                    for (o, x) in result.iter_mut().zip(&v.data[key_at(j) * d_v..][..d_v]) {
                        *o += weight * x;
                    }
                }
                lse.data[row * sizes.heads + head] = log_sum;
            }
        }
    }
    if let Some(operand) = &op.lse {
        lse.store(launch, operand, QuantizeWith::default())?;
    }
    out.store(launch, &op.out, QuantizeWith::default())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// `e^s / Z` for each score, and `ln Z`, with `Z = e^sink + Σ e^s`; all 0 and −inf where Z is 0.
fn softmax(scores: &[f64], sink: Option<f64>) -> (Vec<f64>, f64) {
    let largest = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    // Subtracting the largest keeps the exponentials below 1, and changes nothing else. `max`
    // passes over NaN, which the exponential then brings in.
    let shift = if largest == f64::NEG_INFINITY { 0.0 } else { largest };
    let exp: Vec<f64> = scores.iter().map(|s| (s - shift).exp()).collect();
    let sum = exp.iter().sum::<f64>() + sink.map_or(0.0, |s| (s - shift).exp());
    let weights = exp.iter().map(|e| if sum == 0.0 { 0.0 } else { e / sum }).collect();
    (weights, shift + sum.ln())
}
