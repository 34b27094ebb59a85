//! Inputs: read as f32, or found as they are stored.

use std::borrow::Cow;

use super::Piece;
use crate::backend::cpu::offsets::{Offsets, batch_offsets, row_major};
use crate::backend::cpu::rows::{RowSource, row_source};
use crate::backend::cpu::simd::{self, Code, Level, Weights};
use crate::error::{Error, Result};
use crate::memory::{resize, scratch};
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::Operand;
use crate::registry::Launch;

/// An input, broadcast to the sizes that are walked over.
pub(in crate::backend::cpu) struct Lines<'a> {
    level: Level,
    elements: Elements<'a>,
    /// Where each matrix of lines starts: an offset of elements, or the row of a block format.
    starts: Offsets,
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
    pub(in crate::backend::cpu) fn new(
        launch: &Launch<'a>,
        operand: &Operand,
        dims: &[usize],
    ) -> Result<Self> {
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
            1 => self.starts.at(line),
            rows => self.starts.at(line / rows) + line % rows * self.row_stride,
        }
    }

    /// Reads whole lines that follow each other in a matrix, to rows `stride` apart.
    pub(in crate::backend::cpu) fn read_lines(
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
    pub(in crate::backend::cpu) fn stored(
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
    pub(in crate::backend::cpu) fn new_opt(
        launch: &Launch<'a>,
        operand: Option<&Operand>,
        dims: &[usize],
    ) -> Result<Option<Self>> {
        operand.map(|operand| Self::new(launch, operand, dims)).transpose()
    }

    /// Reads a piece into a slice of its length. Of a block format a piece is a whole line.
    pub(in crate::backend::cpu) fn read(&self, piece: &Piece, dst: &mut [f32]) -> Result<()> {
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
    pub(in crate::backend::cpu) fn borrow<'s>(
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

/// A vector operand in f32, where it lies if it is that; empty where it is left out.
pub(in crate::backend::cpu) fn vector<'a>(
    launch: &Launch<'a>,
    operand: Option<&Operand>,
) -> Result<Cow<'a, [f32]>> {
    let Some(operand) = operand else { return Ok(Cow::Borrowed(&[])) };
    let dims = operand.dims();
    let n = dims.last().copied().unwrap_or(1);
    if operand.as_dense().is_some_and(|dense| dense.dtype == DType::F32 && dense.is_contiguous()) {
        return Ok(Cow::Borrowed(&launch.read_dense(operand)?[..n]));
    }
    let mut values = scratch(n, 0.0)?;
    Lines::new(launch, operand, &dims)?.read(&Piece { line: 0, cols: 0..n }, &mut values)?;
    Ok(Cow::Owned(values))
}
