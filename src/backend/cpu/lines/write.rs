//! Outputs: computed piece by piece, rounded to their type or quantised to their format.

use std::ops::Range;
use std::sync::Mutex;

use super::Piece;
use crate::backend::cpu::offsets::{Offsets, batch_offsets};
use crate::backend::cpu::rows::with_small_float;
use crate::backend::cpu::simd::{self, Level};
use crate::error::{Error, Result};
use crate::format::{self, BlockLayout, QuantizeOptions, Quantizer, RowQuantizer, ScaleLayout};
use crate::memory::{resize, room, scratch};
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::{Dense, Operand, Scaled};
use crate::registry::Launch;

/// The longest piece of a line that can be cut.
const PIECE: usize = 4096;

/// Elements below which handing work to another thread costs more than it saves.
const GRAIN: usize = 1 << 14;

/// How an output is written.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::backend::cpu) struct Writing {
    /// Whether lines can be computed in pieces.
    pub pieces: bool,
    /// What an element takes to compute, in units of reading one.
    pub cost: usize,
    /// How a block-scaled output is quantised; `None` for the format's default.
    pub quantizer: Option<Quantizer>,
    /// A tensor scale to use instead of the one that the values call for.
    pub tensor_scale: Option<f32>,
}

/// Computes every line of `out` by `f`, which fills a piece in f32; the vector is scratch.
pub(in crate::backend::cpu) fn write_lines(
    launch: &Launch<'_>,
    out: &Operand,
    writing: Writing,
    f: impl Fn(&Piece, &mut [f32], &mut Vec<f32>) -> Result<()> + Sync,
) -> Result<()> {
    match out {
        Operand::Dense(dense) => with_small_float!(dense.dtype, E => {
            write_dense::<E>(launch, out, dense, writing, f)
        }),
        Operand::Scaled(scaled) => write_scaled(launch, scaled, writing, f),
    }
}

/// Runs `task` on groups of items that are worth a thread each; the first error, if any.
fn spread<T: Send>(
    launch: &Launch<'_>,
    items: &mut [T],
    cost: usize,
    task: impl Fn(&mut T, &mut Scratch) -> Result<()> + Sync,
) -> Result<()> {
    let failure = Mutex::new(None);
    launch.workers.chunks_mut(items, (GRAIN / cost.max(1)).max(1), |_, items| {
        let mut scratch = Scratch::default();
        for item in items {
            if let Err(error) = task(item, &mut scratch) {
                *failure.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
                return;
            }
        }
    });
    failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

/// What a thread keeps from one piece to the next.
#[derive(Default)]
struct Scratch {
    line: Vec<f32>,
    other: Vec<f32>,
}

impl Scratch {
    /// `len` values to be filled, and the rest.
    fn line(&mut self, len: usize) -> Result<(&mut [f32], &mut Vec<f32>)> {
        resize(&mut self.line, len, 0.0)?;
        Ok((&mut self.line, &mut self.other))
    }
}

fn write_dense<E: Scalar>(
    launch: &Launch<'_>,
    out: &Operand,
    dense: &Dense,
    writing: Writing,
    f: impl Fn(&Piece, &mut [f32], &mut Vec<f32>) -> Result<()> + Sync,
) -> Result<()> {
    let level = Level::of(&launch.caps.isa);
    let n = dense.dims.last().copied().unwrap_or(1);
    if n == 0 || dense.dims.contains(&0) {
        return Ok(());
    }
    let (starts, stride, apart) = line_starts(dense)?;
    let data = launch.write_dense::<E>(out)?;
    if !apart {
        // Lines that interleave: one thread, line by line.
        let mut scratch = Scratch::default();
        for (line, start) in starts.iter().enumerate() {
            let (values, other) = scratch.line(n)?;
            f(&Piece { line, cols: 0..n }, values, other)?;
            let places = data[start..].iter_mut().step_by(stride);
            places.zip(values).for_each(|(place, x)| *place = E::from_f32(*x));
        }
        return Ok(());
    }
    let len = if writing.pieces { n.min(PIECE) } else { n };
    let mut pieces: Vec<(Piece, &mut [E])> = room(starts.len() * n.div_ceil(len))?;
    for (line, values) in split(data, starts.iter(), n).enumerate() {
        for (i, values) in values.chunks_mut(len).enumerate() {
            let cols = i * len..i * len + values.len();
            pieces.push((Piece { line, cols }, values));
        }
    }
    spread(launch, &mut pieces, len * writing.cost, |(piece, out), scratch| {
        // The type is f32 exactly where this cast is one to itself.
        if E::DTYPE == DType::F32
            && let Ok(out) = bytemuck::try_cast_slice_mut::<E, f32>(out)
        {
            return f(piece, out, &mut scratch.other);
        }
        let (values, other) = scratch.line(out.len())?;
        f(piece, values, other)?;
        simd::narrow(level, values, out);
        Ok(())
    })
}

/// Where the lines of an output start; from one element of them to the next; and whether each has
/// a stretch of memory to itself, in order.
fn line_starts(dense: &Dense) -> Result<(Offsets, usize, bool)> {
    let n = dense.dims.last().copied().unwrap_or(1);
    let stride = dense.strides.last().copied().filter(|_| n != 1).unwrap_or(1);
    let leading = dense.dims.leading(1);
    let starts = batch_offsets(leading, dense.strides.leading(1), leading)?;
    let apart = (starts.iter().zip(starts.iter().skip(1)))
        .all(|(now, next)| next.checked_sub(now).is_some_and(|d| d >= n));
    Ok((starts, stride, stride == 1 && apart))
}

/// Lines of `n` elements that each have a stretch of memory to themselves.
fn split<E>(
    mut data: &mut [E],
    starts: impl ExactSizeIterator<Item = usize>,
    n: usize,
) -> impl ExactSizeIterator<Item = &mut [E]> {
    let mut passed = 0;
    starts.map(move |start| {
        let rest = std::mem::take(&mut data).split_at_mut(start - passed).1;
        let (values, rest) = rest.split_at_mut(n);
        (data, passed) = (rest, start + n);
        values
    })
}

/// The lines of an f32 output where they lie, to be written by whoever has computed them; `None`
/// where it is of another type, or where lines interleave.
pub(in crate::backend::cpu) fn lines_of<'a>(
    launch: &Launch<'a>,
    out: &Operand,
) -> Result<Option<Vec<&'a mut [f32]>>> {
    let Operand::Dense(dense) = out else { return Ok(None) };
    let n = dense.dims.last().copied().unwrap_or(1);
    if dense.dtype != DType::F32 || dense.dims.contains(&0) {
        return Ok(None);
    }
    match line_starts(dense)? {
        (starts, _, true) => {
            let mut lines = room(starts.len())?;
            lines.extend(split(launch.write_dense(out)?, starts.iter(), n));
            Ok(Some(lines))
        }
        _ => Ok(None),
    }
}

/// Rows that share scales, and where their codes and scales go.
struct Band<'a> {
    index: usize,
    lines: Range<usize>,
    codes: &'a mut [u8],
    scales: &'a mut [u8],
}

fn write_scaled(
    launch: &Launch<'_>,
    scaled: &Scaled,
    writing: Writing,
    f: impl Fn(&Piece, &mut [f32], &mut Vec<f32>) -> Result<()> + Sync,
) -> Result<()> {
    let layout = scaled.layout()?;
    let bytes = launch.write_scaled(scaled)?;
    let tensor_scale = bytes.tensor_scale.map(bytemuck::try_from_bytes_mut::<f32>).transpose();
    let tensor_scale = tensor_scale.map_err(|e| {
        Error::layout("quantize", "tensor_scale", format!("it is not an aligned f32: {e}"))
    })?;
    let options = QuantizeOptions {
        quantizer: writing.quantizer.unwrap_or_else(|| Quantizer::default_for(scaled.format)),
        tensor_scale: writing.tensor_scale,
    };
    let level = Level::of(&launch.caps.isa);
    let k = layout.k();
    let whole = |line: usize| Piece { line, cols: 0..k };
    let amax = match layout.spec().tensor_scale && options.tensor_scale.is_none() {
        true => largest_magnitude(launch, &layout, writing, &f)?,
        false => 0.0,
    };
    if layout.scale_layout() != ScaleLayout::RowMajor || !amax.is_finite() {
        // Scales out of order; or values that no format holds, which are named in the error.
        let mut values = scratch(layout.values_len(), 0.0)?;
        let mut other = Vec::new();
        for (line, values) in values.chunks_mut(k.max(1)).enumerate() {
            f(&whole(line), values, &mut other)?;
        }
        let out = format::Quantized { codes: bytes.codes, scales: bytes.scales, tensor_scale };
        return format::quantize(&layout, options, &values, out);
    }
    let quantizer = RowQuantizer::new(&layout, options, amax)?;
    if let Some(g) = tensor_scale {
        *g = quantizer.tensor_scale();
    }
    let width = layout.scale_cols() * layout.spec().scale.size();
    let (mut codes, mut scales) = (bytes.codes, bytes.scales);
    let mut bands = room(layout.bands())?;
    for index in 0..layout.bands() {
        let (batch, rows) = layout.band(index);
        let first = batch * layout.rows();
        let (front, rest) = codes.split_at_mut(rows.len() * layout.row_bytes());
        let (scale_front, scale_rest) = scales.split_at_mut(width);
        (codes, scales) = (rest, scale_rest);
        let lines = first + rows.start..first + rows.end;
        bands.push(Band { index, lines, codes: front, scales: scale_front });
    }
    // Choosing scales and codes takes many times what reading does.
    const QUANTIZE: usize = 8;
    let cost = layout.band_rows() * k * (writing.cost + QUANTIZE);
    spread(launch, &mut bands, cost, |band, scratch| {
        let (values, other) = scratch.line(band.lines.len() * k)?;
        for (line, values) in band.lines.clone().zip(values.chunks_mut(k.max(1))) {
            f(&whole(line), values, other)?;
        }
        simd::quantize_band(level, &quantizer, band.index, values, band.codes, band.scales)
    })
}

/// The largest magnitude of all lines; infinite or NaN where one holds such.
fn largest_magnitude(
    launch: &Launch<'_>,
    layout: &BlockLayout,
    writing: Writing,
    f: impl Fn(&Piece, &mut [f32], &mut Vec<f32>) -> Result<()> + Sync,
) -> Result<f32> {
    let level = Level::of(&launch.caps.isa);
    let mut largest = scratch(layout.batch() * layout.rows(), 0.0f32)?;
    let k = layout.k();
    let mut lines: Vec<(usize, &mut f32)> = room(largest.len())?;
    lines.extend(largest.iter_mut().enumerate());
    spread(launch, &mut lines, k * (writing.cost + 1), |(line, largest), scratch| {
        let (values, other) = scratch.line(k)?;
        f(&Piece { line: *line, cols: 0..k }, values, other)?;
        **largest = simd::gather(level, crate::op::Reduction::AbsMax, values) as f32;
        Ok(())
    })?;
    Ok(simd::gather(level, crate::op::Reduction::AbsMax, &largest) as f32)
}
