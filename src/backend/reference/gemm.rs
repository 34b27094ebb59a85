//! `D = residual + f(alpha · A·B ∘ column_scale + beta · C + bias)`

use super::array::{Array, QuantizeWith, unravel};
use crate::error::Result;
use crate::op::{Activation, Epilogue, Gemm};
use crate::registry::Launch;

pub(super) fn gemm(op: &Gemm, launch: &Launch<'_>) -> Result<()> {
    let a = Array::load(launch, &op.a)?;
    let b = Array::load(launch, &op.b)?;
    // With beta = 0, C is not read: it may hold anything.
    let c = if op.beta == 0.0 { None } else { Array::load_opt(launch, op.c.as_ref())? };
    let column_scale = Array::load_opt(launch, op.epilogue.column_scale.as_ref())?;
    let sizes = op.sizes()?;
    let batch_dims = op.d.dims().leading(2).to_vec();

    let mut t = Array::zeros(&[&batch_dims[..], &[sizes.m, sizes.n]].concat())?;
    for batch in 0..sizes.batch {
        let index = unravel(batch, &batch_dims);
        let (a0, b0) = (a.matrix_start(&index), b.matrix_start(&index));
        for i in 0..sizes.m {
            for j in 0..sizes.n {
                let mut sum = 0.0;
                for l in 0..sizes.k {
                    sum += a.data[a0 + i * sizes.k + l] * b.data[b0 + l * sizes.n + j];
                }
                let mut value = f64::from(op.alpha) * sum;
                if let Some(scale) = &column_scale {
                    value *= scale.data[j];
                }
                if let Some(c) = &c {
                    value += f64::from(op.beta) * c.broadcast_get(&[&index[..], &[i, j]].concat());
                }
                t.data[(batch * sizes.m + i) * sizes.n + j] = value;
            }
        }
    }
    let with = QuantizeWith { quantizer: op.epilogue.quantizer, tensor_scale: None };
    epilogue(t, &op.epilogue, launch)?.store(launch, &op.d, with)
}

/// `residual + f(t + bias)`, the product being in `t` with its column scales.
pub(super) fn epilogue(mut t: Array, epilogue: &Epilogue, launch: &Launch<'_>) -> Result<Array> {
    if let Some(bias) = Array::load_opt(launch, epilogue.bias.as_ref())? {
        let n = bias.data.len().max(1);
        for row in t.data.chunks_mut(n) {
            for (x, b) in row.iter_mut().zip(&bias.data) {
                *x += b;
            }
        }
    }
    let mut out = activate(t, epilogue.activation)?;
    if let Some(residual) = Array::load_opt(launch, epilogue.residual.as_ref())? {
        for (x, r) in out.data.iter_mut().zip(&residual.data) {
            *x += r;
        }
    }
    Ok(out)
}

fn activate(mut t: Array, activation: Activation) -> Result<Array> {
    let f = activation.pointwise();
    if !activation.is_gated() {
        t.data.iter_mut().for_each(|x| *x = apply(f, *x));
        return Ok(t);
    }
    let (rows, cols) = t.rows_cols();
    let half = cols / 2;
    let mut dims = t.dims.clone();
    if let Some(last) = dims.last_mut() {
        *last = half;
    }
    let mut out = Array::zeros(&dims)?;
    for row in 0..rows {
        for col in 0..half {
            let gate = t.data[row * cols + col];
            let up = t.data[row * cols + half + col];
            out.data[row * half + col] = apply(f, gate) * up;
        }
    }
    Ok(out)
}

/// A pointwise activation, as its documentation writes it.
pub(super) fn apply(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Relu if x.is_nan() => x,
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Identity | Activation::SwiGlu | Activation::GeGlu => x,
    }
}
