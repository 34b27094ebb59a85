//! Operands as lines along their last dimension: read as f32, computed, written in the output's
//! type.
//!
//! ```text
//! pieces of lines of the output, spread over the threads:
//!     f(piece) gives it in f32, mostly by reading the same piece of the inputs
//!     one rounding to the output's type, or the blocks of its format
//! ```

use std::ops::Range;
use std::sync::Mutex;

use super::rows::{RowSource, batch_offsets, row_major, row_source, with_small_float};
use super::simd::{self, Code, Level, Rows, Weights};
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

/// A stretch of a line, counted in row-major order of the leading sizes.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub line: usize,
    pub cols: Range<usize>,
}

/// An input, broadcast to the sizes that are walked over.
pub(super) struct Lines<'a> {
    level: Level,
    elements: Elements<'a>,
    /// Where each matrix of lines starts: an offset of elements, or the row of a block format.
    starts: Vec<usize>,
    /// Lines of a matrix, and from one to the next.
    rows: usize,
    row_stride: usize,
    /// From one element of a line to the next; 0 where they are all the same.
    stride: usize,
}

enum Elements<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
    F8E4M3(&'a [F8E4M3]),
    F8E5M2(&'a [F8E5M2]),
    Blocks { values: Box<dyn RowSource + 'a>, rows: usize, k: usize },
}

impl<'a> Lines<'a> {
    /// The lines of an operand, broadcast to `dims`, whose last size is a line's length.
    pub(super) fn new(launch: &Launch<'a>, operand: &Operand, dims: &[usize]) -> Result<Self> {
        let level = Level::of(&launch.caps.isa);
        let leading = &dims[..dims.len().saturating_sub(2)];
        let rows = dims.len().checked_sub(2).map_or(1, |axis| dims[axis]);
        // Sizes and strides of the dimension `from_last`, which is broadcast where it is 1.
        let step = |own: &[usize], strides: &[usize], from_last: usize| match own
            .len()
            .checked_sub(from_last)
        {
            Some(axis) if own[axis] != 1 => strides[axis],
            _ => 0,
        };
        match operand {
            Operand::Dense(dense) => {
                let elements = match dense.dtype {
                    DType::F32 => Elements::F32(launch.read_dense(operand)?),
                    DType::BF16 => Elements::Bf16(launch.read_dense(operand)?),
                    DType::F16 => Elements::F16(launch.read_dense(operand)?),
                    DType::F8E4M3 => Elements::F8E4M3(launch.read_dense(operand)?),
                    DType::F8E5M2 => Elements::F8E5M2(launch.read_dense(operand)?),
                    _ => {
                        let problem = format!("{operand} does not fit f32");
                        return Err(Error::kernel(launch.op.kind().name(), problem));
                    }
                };
                let (own, strides) = (&dense.dims, &dense.strides);
                Ok(Lines {
                    level,
                    elements,
                    starts: batch_offsets(own.leading(2), strides.leading(2), leading)?,
                    rows,
                    row_stride: step(own, strides, 2),
                    stride: step(own, strides, 1),
                })
            }
            Operand::Scaled(scaled) => {
                let own = scaled.dims.leading(1);
                let k = scaled.dims.last().copied().unwrap_or(1);
                let values = row_source(launch, operand, false, scaled.dims.leading(2))?;
                let strides = row_major(own);
                let matrices = own.len().saturating_sub(1);
                Ok(Lines {
                    level,
                    starts: batch_offsets(&own[..matrices], &strides[..matrices], leading)?,
                    rows,
                    row_stride: step(own, &strides, 1),
                    stride: usize::from(k != 1),
                    elements: Elements::Blocks {
                        values,
                        rows: own.last().copied().unwrap_or(1),
                        k,
                    },
                })
            }
        }
    }

    /// Where a line starts.
    fn start(&self, line: usize) -> usize {
        match self.rows {
            1 => self.starts[line],
            rows => self.starts[line / rows] + line % rows * self.row_stride,
        }
    }

    /// Lines of f32 that lie in memory as they are, one after the other in a matrix.
    pub(super) fn in_place(&self, first: usize, len: usize, n: usize) -> Option<Rows<'_>> {
        let (Elements::F32(data), 1) = (&self.elements, self.stride) else { return None };
        if len == 0 || n == 0 || first % self.rows + len > self.rows {
            return None;
        }
        let start = self.start(first);
        let span = (len - 1) * self.row_stride + n;
        Some(Rows { data: &data[start..start + span], stride: self.row_stride, len })
    }

    /// Reads whole lines that follow each other in a matrix, to rows `stride` apart.
    pub(super) fn read_lines(
        &self,
        first: usize,
        len: usize,
        n: usize,
        dst: &mut [f32],
        stride: usize,
    ) -> Result<()> {
        let start = self.start(first);
        let rows = (0..len).zip(dst.chunks_mut(stride.max(1)));
        let rows = rows.map(|(i, dst)| (start + i * self.row_stride, &mut dst[..n]));
        match &self.elements {
            Elements::F32(data) => rows.for_each(|(at, dst)| self.read_dense(data, at, dst)),
            Elements::Bf16(data) => rows.for_each(|(at, dst)| self.read_dense(data, at, dst)),
            Elements::F16(data) => rows.for_each(|(at, dst)| self.read_dense(data, at, dst)),
            Elements::F8E4M3(data) => rows.for_each(|(at, dst)| self.read_dense(data, at, dst)),
            Elements::F8E5M2(data) => rows.for_each(|(at, dst)| self.read_dense(data, at, dst)),
            Elements::Blocks { .. } => {
                for (line, dst) in (first..first + len).zip(dst.chunks_mut(stride.max(1))) {
                    self.read(&Piece { line, cols: 0..n }, &mut dst[..n])?;
                }
            }
        }
        Ok(())
    }

    /// Lines of a matrix, or of all where they are in a block format, that are `step` apart, as
    /// they are stored.
    pub(super) fn stored(
        &self,
        first: usize,
        step: usize,
        len: usize,
        n: usize,
    ) -> Option<Weights<'_>> {
        fn dense<E: Scalar>(data: &[E], start: usize) -> (&[u8], Code) {
            let code = match E::DTYPE {
                dtype @ (DType::F8E4M3 | DType::F8E5M2) => Code::Fp8(dtype),
                dtype => Code::Plain(dtype),
            };
            (bytemuck::cast_slice(data.get(start..).unwrap_or(&[])), code)
        }
        if len == 0 || n == 0 || self.stride != 1 {
            return None;
        }
        let start = self.start(first);
        let (bytes, code) = match &self.elements {
            Elements::F32(data) => dense(data, start),
            Elements::Bf16(data) => dense(data, start),
            Elements::F16(data) => dense(data, start),
            Elements::F8E4M3(data) => dense(data, start),
            Elements::F8E5M2(data) => dense(data, start),
            Elements::Blocks { values, .. } => {
                return values.all_weights()?.every(start, step, len);
            }
        };
        if first % self.rows + (len - 1) * step >= self.rows {
            return None;
        }
        let size = code.bits() / 8;
        Weights::new(code, bytes, self.row_stride * step * size, (len, n), None)
    }

    /// Those of an operand that may be left out.
    pub(super) fn new_opt(
        launch: &Launch<'a>,
        operand: Option<&Operand>,
        dims: &[usize],
    ) -> Result<Option<Self>> {
        operand.map(|operand| Self::new(launch, operand, dims)).transpose()
    }

    /// Reads a piece into a slice of its length. Of a block format a piece is a whole line.
    pub(super) fn read(&self, piece: &Piece, dst: &mut [f32]) -> Result<()> {
        if dst.is_empty() {
            return Ok(());
        }
        let start = self.start(piece.line);
        let at = start + piece.cols.start * self.stride;
        match &self.elements {
            Elements::F32(data) => self.read_dense(data, at, dst),
            Elements::Bf16(data) => self.read_dense(data, at, dst),
            Elements::F16(data) => self.read_dense(data, at, dst),
            Elements::F8E4M3(data) => self.read_dense(data, at, dst),
            Elements::F8E5M2(data) => self.read_dense(data, at, dst),
            Elements::Blocks { values, rows, k } => {
                let (matrix, row) = (start / rows.max(&1), start % rows.max(&1));
                if *k == 1 && dst.len() != 1 {
                    let mut one = [0.0];
                    values.decode(matrix, row, &mut one)?;
                    dst.fill(one[0]);
                    return Ok(());
                }
                return values.decode(matrix, row, dst);
            }
        }
        Ok(())
    }

    fn read_dense<E: Scalar>(&self, data: &[E], at: usize, dst: &mut [f32]) {
        match self.stride {
            1 => simd::widen(self.level, &data[at..at + dst.len()], dst),
            0 => dst.fill(data[at].to_f32()),
            stride => {
                let source = data[at..].iter().step_by(stride);
                dst.iter_mut().zip(source).for_each(|(dst, x)| *dst = x.to_f32());
            }
        }
    }

    /// A piece where it lies, or read into the front of `scratch`.
    pub(super) fn borrow<'s>(
        &'s self,
        piece: &Piece,
        scratch: &'s mut Vec<f32>,
    ) -> Result<&'s [f32]> {
        if piece.cols.is_empty() {
            return Ok(&[]);
        }
        if let (Elements::F32(data), 1) = (&self.elements, self.stride) {
            let start = self.start(piece.line);
            return Ok(&data[start + piece.cols.start..start + piece.cols.end]);
        }
        resize(scratch, piece.cols.len(), 0.0)?;
        self.read(piece, scratch)?;
        Ok(scratch)
    }
}

/// A vector operand in f32; empty where it is left out.
pub(super) fn vector(launch: &Launch<'_>, operand: Option<&Operand>) -> Result<Vec<f32>> {
    let Some(operand) = operand else { return Ok(Vec::new()) };
    let dims = operand.dims();
    let n = dims.last().copied().unwrap_or(1);
    let mut values = scratch(n, 0.0)?;
    Lines::new(launch, operand, &dims)?.read(&Piece { line: 0, cols: 0..n }, &mut values)?;
    Ok(values)
}

/// How an output is written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Writing {
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
pub(super) fn write_lines(
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
        for (line, start) in starts.into_iter().enumerate() {
            let (values, other) = scratch.line(n)?;
            f(&Piece { line, cols: 0..n }, values, other)?;
            let places = data[start..].iter_mut().step_by(stride);
            places.zip(values).for_each(|(place, x)| *place = E::from_f32(*x));
        }
        return Ok(());
    }
    let len = if writing.pieces { n.min(PIECE) } else { n };
    let mut pieces: Vec<(Piece, &mut [E])> = room(starts.len() * n.div_ceil(len))?;
    for (line, values) in split(data, starts, n)?.into_iter().enumerate() {
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
fn line_starts(dense: &Dense) -> Result<(Vec<usize>, usize, bool)> {
    let n = dense.dims.last().copied().unwrap_or(1);
    let stride = dense.strides.last().copied().filter(|_| n != 1).unwrap_or(1);
    let leading = dense.dims.leading(1);
    let starts = batch_offsets(leading, dense.strides.leading(1), leading)?;
    let apart = starts.windows(2).all(|pair| pair[1].checked_sub(pair[0]).is_some_and(|d| d >= n));
    Ok((starts, stride, stride == 1 && apart))
}

/// Lines of `n` elements that each have a stretch of memory to themselves.
fn split<E>(mut data: &mut [E], starts: Vec<usize>, n: usize) -> Result<Vec<&mut [E]>> {
    let mut lines = room(starts.len())?;
    let mut passed = 0;
    for start in starts {
        let (values, rest) = data.split_at_mut(start - passed).1.split_at_mut(n);
        (data, passed) = (rest, start + n);
        lines.push(values);
    }
    Ok(lines)
}

/// The lines of an f32 output where they lie, to be written by whoever has computed them; `None`
/// where it is of another type, or where lines interleave.
pub(super) fn lines_of<'a>(
    launch: &Launch<'a>,
    out: &Operand,
) -> Result<Option<Vec<&'a mut [f32]>>> {
    let Operand::Dense(dense) = out else { return Ok(None) };
    let n = dense.dims.last().copied().unwrap_or(1);
    if dense.dtype != DType::F32 || dense.dims.contains(&0) {
        return Ok(None);
    }
    match line_starts(dense)? {
        (starts, _, true) => split(launch.write_dense(out)?, starts, n).map(Some),
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
