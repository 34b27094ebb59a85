//! `dst = src`: copies of bytes, casts through f32, blocks to values and values to blocks.

use std::sync::Mutex;

use super::lines::{Lines, Writing, write_lines};
use super::offsets::batch_offsets;
use super::rows::with_small_float;
use crate::error::{Error, Result};
use crate::memory::scratch;
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::{Convert, Dense, Operand, Scaled, collapse};
use crate::registry::{Launch, Unsupported};

pub(super) fn supports(op: &Convert) -> Result<(), Unsupported> {
    let copy = op.src.dtype().is_some() && op.src.dtype() == op.dst.dtype();
    for operand in [&op.src, &op.dst] {
        if operand.dtype().is_some_and(|dtype| !copy && !dtype.fits_f32()) {
            return Err(Unsupported(format!("goes through f32, which does not hold {operand}")));
        }
        if operand.as_scaled().is_some_and(|scaled| scaled.transposed) {
            return Err(Unsupported(format!("reads along rows as stored, not {operand}")));
        }
    }
    Ok(())
}

pub(super) fn convert(op: &Convert, launch: &Launch<'_>) -> Result<()> {
    let (dst, src) = collapse(&op.dst, &[&op.src]);
    let src = &src[0];
    match (src, &dst) {
        (Operand::Dense(from), Operand::Dense(to)) if from.dtype == to.dtype => {
            return copy(launch, from, to);
        }
        // From blocks f32 is a rounding of its own, which must then be the only one.
        (Operand::Scaled(from), Operand::Dense(to)) if to.dtype != DType::F32 => {
            return with_small_float!(to.dtype, E => dequantize::<E>(launch, from, to));
        }
        _ => {}
    }
    let x = Lines::new(launch, src, &dst.dims())?;
    let pieces = src.as_dense().is_some() && dst.as_dense().is_some();
    let (quantizer, tensor_scale) = (op.quantizer, op.tensor_scale);
    let writing = Writing { pieces, cost: 1, quantizer, tensor_scale };
    write_lines(launch, &dst, writing, |piece, out, _| x.read(piece, out))
}

/// Elements of the same type and sizes, bit for bit.
fn copy(launch: &Launch<'_>, from: &Dense, to: &Dense) -> Result<()> {
    let (Some(src), Some(dst)) = (&from.data, &to.data) else {
        return Err(Error::kernel("cpu.convert", "an operand has no data"));
    };
    let (src, dst) = (launch.read(src)?, launch.write(dst)?);
    let (size, n) = (to.dtype.size(), to.dims.last().copied().unwrap_or(1));
    if to.dims.contains(&0) {
        return Ok(());
    }
    let starts = |dense: &Dense| {
        batch_offsets(dense.dims.leading(1), dense.strides.leading(1), to.dims.leading(1))
    };
    let stride = |dense: &Dense| dense.strides.last().copied().unwrap_or(1);
    let (from_stride, to_stride) = (stride(from), stride(to));
    for (from, to) in starts(from)?.iter().zip(starts(to)?.iter()) {
        let (src, dst) = (&src[from * size..], &mut dst[to * size..]);
        if from_stride == 1 && to_stride == 1 || n == 1 {
            dst[..n * size].copy_from_slice(&src[..n * size]);
            continue;
        }
        match size {
            1 => copy_strided::<1>(src, dst, n, from_stride, to_stride),
            2 => copy_strided::<2>(src, dst, n, from_stride, to_stride),
            4 => copy_strided::<4>(src, dst, n, from_stride, to_stride),
            _ => copy_strided::<8>(src, dst, n, from_stride, to_stride),
        }
    }
    Ok(())
}

/// `n` elements of `SIZE` bytes.
fn copy_strided<const SIZE: usize>(src: &[u8], dst: &mut [u8], n: usize, from: usize, to: usize) {
    let (src, dst) = (src.as_chunks::<SIZE>().0, dst.as_chunks_mut::<SIZE>().0);
    for i in 0..n {
        dst[i * to] = src[i * from];
    }
}

/// Blocks to a type narrower than f32: exact in f64, then rounded once.
fn dequantize<E: Scalar>(launch: &Launch<'_>, from: &Scaled, to: &Dense) -> Result<()> {
    let layout = from.layout()?;
    let bytes = launch.read_scaled(from)?;
    let (codes, scales) = (bytes.codes, bytes.scales);
    let values = crate::format::Dequantizer::new(&layout, codes, scales, bytes.tensor_scale)?;
    let out = launch.write_dense::<E>(&to.clone().into())?;
    if to.dims.contains(&0) {
        return Ok(());
    }
    let line = |index: usize, line: &mut [f64]| {
        values.row_f64(index / layout.rows(), index % layout.rows(), 0, line)
    };
    let k = layout.k();
    if to.is_contiguous() {
        let failure = Mutex::new(None);
        launch.workers.chunks_mut(&mut out[..layout.values_len()], k, |index, out| {
            let exact =
                scratch(k, 0.0).and_then(|mut exact| line(index, &mut exact).map(|()| exact));
            match exact {
                Ok(exact) => out.iter_mut().zip(exact).for_each(|(out, x)| *out = E::from_f64(x)),
                Err(error) => *failure.lock().unwrap_or_else(|e| e.into_inner()) = Some(error),
            }
        });
        return failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err);
    }
    let starts = batch_offsets(to.dims.leading(1), to.strides.leading(1), to.dims.leading(1))?;
    let stride = to.strides.last().copied().unwrap_or(1);
    let mut exact = scratch(k, 0.0)?;
    for (index, start) in starts.iter().enumerate() {
        line(index, &mut exact)?;
        let places = out[start..].iter_mut().step_by(stride.max(1));
        places.zip(&exact).for_each(|(place, x)| *place = E::from_f64(*x));
    }
    Ok(())
}
