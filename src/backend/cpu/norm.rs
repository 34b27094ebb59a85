//! `out = norm(x + residual) · (weight_offset + weight) + bias`, a row at a time.
//!
//! Mean and variance are summed in f64, in an order that depends on the row's length alone.

use super::lines::{Lines, Writing, vector, write_lines};
use super::rows::with_small_float;
use super::simd::{self, Level};
use crate::error::{Error, Result};
use crate::memory::scratch;
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::{Norm, NormKind, Reduction};
use crate::registry::Launch;

pub(super) fn norm(op: &Norm, launch: &Launch<'_>) -> Result<()> {
    let level = Level::of(&launch.caps.isa);
    let dims = op.x.dims();
    let n = dims.last().copied().unwrap_or(1);
    let x = Lines::new(launch, &op.x, &dims)?;
    let residual = Lines::new_opt(launch, op.residual.as_ref(), &dims)?;
    let (weight, bias) = (vector(launch, op.weight.as_ref())?, vector(launch, op.bias.as_ref())?);
    let sum = |piece: &_, h: &mut [f32], other: &mut _| {
        x.read(piece, h)?;
        if let Some(residual) = &residual {
            simd::binary(level, crate::op::Function::Add, h, residual.borrow(piece, other)?);
        }
        Ok(())
    };
    let writing = Writing { cost: 4, quantizer: op.quantizer, ..Writing::default() };
    let mut stored = None;
    if let Some(operand) = &op.sum {
        write_lines(launch, operand, Writing { quantizer: None, ..writing }, sum)?;
        stored = operand.dtype();
    }
    write_lines(launch, &op.out, writing, |piece, h, other| {
        sum(piece, h, other)?;
        if let Some(dtype) = stored {
            with_small_float!(dtype, E => round::<E>(level, h))?;
        }
        let mean = match op.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => simd::gather(level, Reduction::Sum, h) / n as f64,
        };
        let variance = simd::squares(level, h, mean) / n as f64;
        let factor = 1.0 / (variance + f64::from(op.eps)).sqrt();
        simd::normalize(level, h, mean, factor, f64::from(op.weight_offset), &weight, &bias);
        Ok(())
    })
}

/// Rounds to a type and back, as storing there would.
fn round<E: Scalar>(level: Level, values: &mut [f32]) -> Result<()> {
    if E::DTYPE != DType::F32 {
        let mut narrow = scratch(values.len(), E::from_f32(0.0))?;
        simd::narrow(level, values, &mut narrow);
        simd::widen(level, &narrow, values);
    }
    Ok(())
}
