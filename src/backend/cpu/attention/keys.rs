//! Keys and values of a block, as the products want them.

use std::ops::Range;

use super::BLOCK;
use crate::backend::cpu::lines::{Lines, Piece};
use crate::backend::cpu::reduce::reordered;
use crate::backend::cpu::simd::{self, COLUMNS, Level, Rows};
use crate::error::Result;
use crate::memory::{resize, scratch};
use crate::op::{Operand, Sequence};
use crate::registry::Launch;

/// The rows of `k` or `v`, by key and head.
pub(super) struct KeyLines<'a> {
    lines: Lines<'a>,
    heads: usize,
    /// Keys of a row of the batch, or of a page.
    rows: usize,
    /// Whether the heads of a key follow each other, as in a block format.
    heads_inside: bool,
    pub(super) n: usize,
}

impl<'a> KeyLines<'a> {
    /// An operand `[.., rows, heads, n]`.
    pub(super) fn new(launch: &Launch<'a>, operand: &Operand) -> Result<Self> {
        let rank = operand.dims().len();
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 3, rank - 2);
        let heads_inside = operand.as_scaled().is_some();
        let (dims, by_head) = (operand.dims(), reordered(operand, &axes)?);
        Ok(KeyLines {
            lines: Lines::new(launch, &by_head, &by_head.dims())?,
            heads: dims[rank - 2],
            rows: dims[rank - 3],
            heads_inside,
            n: dims[rank - 1],
        })
    }

    fn line(&self, key_row: usize, head: usize) -> usize {
        match self.heads_inside {
            true => key_row * self.heads + head,
            false => (key_row / self.rows * self.heads + head) * self.rows + key_row % self.rows,
        }
    }

    /// The rows of some keys where they lie, one after the other.
    fn in_place(&self, sequence: &Sequence, keys: &Range<usize>, head: usize) -> Option<Rows<'_>> {
        if self.heads_inside || keys.is_empty() || sequence.run_from(keys.start) < keys.len() {
            return None;
        }
        let first = self.line(sequence.key_row(keys.start), head);
        self.lines.in_place(first, keys.len(), self.n)
    }

    /// Calls `f` with the first line and the length of each stretch of keys whose lines are
    /// [`KeyLines::step`] apart.
    fn stretches(
        &self,
        sequence: &Sequence,
        keys: &Range<usize>,
        head: usize,
        mut f: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        let mut j = keys.start;
        while j < keys.end {
            let len = sequence.run_from(j).min(keys.end - j);
            f(self.line(sequence.key_row(j), head), len)?;
            j += len;
        }
        Ok(())
    }

    /// From the line of a key to that of the next.
    fn step(&self) -> usize {
        if self.heads_inside { self.heads } else { 1 }
    }

    /// Decodes the rows of a stretch of keys to rows `stride` apart.
    fn decode(&self, first: usize, len: usize, dst: &mut [f32], stride: usize) -> Result<()> {
        if !self.heads_inside {
            return self.lines.read_lines(first, len, self.n, dst, stride);
        }
        for (line, dst) in (first..).step_by(self.heads).zip(dst.chunks_mut(stride)).take(len) {
            self.lines.read(&Piece { line, cols: 0..self.n }, &mut dst[..self.n])?;
        }
        Ok(())
    }

    /// Has the processor fetch the rows of some keys.
    pub(super) fn prefetch(&self, sequence: &Sequence, keys: &Range<usize>, head: usize) {
        // It can not fail: nothing is decoded.
        let _ = self.stretches(sequence, keys, head, |first, len| {
            if let Some(rows) = self.lines.stored(first, self.step(), len, self.n) {
                rows.prefetch();
            }
            Ok(())
        });
    }
}

/// From one row of a block's keys as columns to the next: a power of two apart, they would share
/// few places of the first-level cache.
const COLUMNS_APART: usize = BLOCK + COLUMNS;

/// A block's keys as columns.
pub(super) struct KeyColumns {
    /// Those that are decoded one by one.
    rows: Vec<f32>,
    columns: Vec<f32>,
}

impl KeyColumns {
    pub(super) fn new(d: usize) -> Result<Self> {
        Ok(KeyColumns { rows: Vec::new(), columns: scratch(COLUMNS_APART * d, 0.0)? })
    }

    /// Rows of columns, of which those behind the last key, up to a multiple of [`COLUMNS`], are 0.
    pub(super) fn decode(
        &mut self,
        level: Level,
        k: &KeyLines<'_>,
        sequence: &Sequence,
        keys: &Range<usize>,
        head: usize,
    ) -> Result<Rows<'_>> {
        let (mut done, n) = (0, k.n);
        k.stretches(sequence, keys, head, |first, len| {
            let columns = &mut self.columns[done..];
            let stored = k.lines.stored(first, k.step(), len, n);
            let fast = stored.map_or(0, |rows| simd::columns(level, &rows, columns, COLUMNS_APART));
            if fast < len {
                let (first, len) = (first + fast * k.step(), len - fast);
                resize(&mut self.rows, len * n, 0.0)?;
                k.decode(first, len, &mut self.rows, n)?;
                let rows = Rows { data: &self.rows, stride: n, len };
                simd::transpose(level, rows, n, &mut columns[fast..], COLUMNS_APART);
            }
            done += len;
            Ok(())
        })?;
        let padded = keys.len().next_multiple_of(COLUMNS);
        if padded != keys.len() {
            let rows = self.columns.chunks_mut(COLUMNS_APART);
            rows.for_each(|row| row[keys.len()..padded].fill(0.0));
        }
        Ok(Rows { data: &self.columns, stride: COLUMNS_APART, len: n })
    }
}

/// A block's values.
pub(super) struct ValueRows(Vec<f32>);

impl ValueRows {
    pub(super) fn new(d_v: usize) -> Result<Self> {
        Ok(ValueRows(scratch(BLOCK * d_v.next_multiple_of(COLUMNS), 0.0)?))
    }

    /// Rows padded to a multiple of [`COLUMNS`]; where they lie if they are read only
    /// `once`, for rows far apart share few places of the first-level cache.
    pub(super) fn decode<'b>(
        &'b mut self,
        level: Level,
        v: &'b KeyLines<'_>,
        sequence: &Sequence,
        keys: &Range<usize>,
        head: usize,
        once: bool,
    ) -> Result<Rows<'b>> {
        if once
            && v.n.is_multiple_of(COLUMNS)
            && let Some(rows) = v.in_place(sequence, keys, head)
        {
            return Ok(rows);
        }
        let stride = v.n.next_multiple_of(COLUMNS);
        if stride == 0 {
            return Ok(Rows { data: &[], stride, len: keys.len() });
        }
        let mut rest = &mut self.0[..];
        v.stretches(sequence, keys, head, |first, len| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(len * stride);
            rest = later;
            let stored = v.lines.stored(first, v.step(), len, v.n);
            let fast = stored.map_or(0, |rows| simd::rows(level, &rows, now, stride));
            if fast < len {
                let first = first + fast * v.step();
                v.decode(first, len - fast, &mut now[fast * stride..], stride)?;
            }
            Ok(())
        })?;
        Ok(Rows { data: &self.0, stride, len: keys.len() })
    }
}

/// Whether all of the first `n` elements of some rows are finite.
pub(super) fn finite(level: Level, rows: Rows<'_>, n: usize) -> bool {
    (0..rows.len).all(|i| simd::all_finite(level, &rows.data[i * rows.stride..][..n]))
}
