//! Keys and values of a block, as the products want them.

use std::ops::Range;

use super::BLOCK;
use crate::backend::cpu::lines::{Lines, Piece};
use crate::backend::cpu::reduce::reordered;
use crate::backend::cpu::simd::{self, COLUMNS, Level, Rows, Weights};
use crate::error::Result;
use crate::memory::{from_line_start, resize};
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

    /// The rows of a head for some keys of a sequence; with each that is decoded the one that
    /// follows `ahead` of it is asked for, if that is not 0.
    pub(super) fn of<'b>(
        &'b self,
        sequence: &'b Sequence,
        head: usize,
        keys: Range<usize>,
        ahead: usize,
    ) -> HeadRows<'b> {
        let stored = match sequence.run_from(keys.start) >= keys.len() {
            true => {
                let first = self.line(sequence.key_row(keys.start), head);
                self.lines.stored(first, self.step(), keys.len(), self.n)
            }
            false => None,
        };
        HeadRows { lines: self, sequence, head, keys, stored, ahead }
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
}

/// The rows of a head for some keys of a sequence.
pub(super) struct HeadRows<'a> {
    lines: &'a KeyLines<'a>,
    sequence: &'a Sequence,
    head: usize,
    keys: Range<usize>,
    /// Those that are decoded, where they follow each other in memory.
    stored: Option<Weights<'a>>,
    ahead: usize,
}

impl HeadRows<'_> {
    /// Calls `f` with the first line, the length and, where they can be decoded at once, the rows
    /// of each stretch of some of the keys, counted from the first, whose lines are
    /// [`KeyLines::step`] apart.
    fn stretches(
        &self,
        part: &Range<usize>,
        mut f: impl FnMut(usize, usize, Option<Weights<'_>>) -> Result<()>,
    ) -> Result<()> {
        let (lines, mut j) = (self.lines, part.start);
        while j < part.end {
            let key = self.keys.start + j;
            let first = lines.line(self.sequence.key_row(key), self.head);
            if self.stored.is_some() {
                return f(first, part.len(), self.stored_part(part));
            }
            let len = self.sequence.run_from(key).min(part.end - j);
            f(first, len, lines.lines.stored(first, lines.step(), len, lines.n))?;
            j += len;
        }
        Ok(())
    }

    /// Some of the rows that are in one stretch.
    fn stored_part(&self, part: &Range<usize>) -> Option<Weights<'_>> {
        self.stored?.every(part.start, 1, part.len())
    }

    /// How far ahead of some keys decoding them asks for others, of which there are none behind the
    /// last key. Of those in pages of their own the ones that follow are asked for now.
    fn ahead_of(&self, part: &Range<usize>) -> usize {
        let there = self.sequence.kv_len - self.keys.start;
        if part.end >= there {
            return 0;
        }
        if self.ahead == 0 || self.stored.is_some() {
            return self.ahead;
        }
        let end = (part.end + self.ahead).min(there);
        // It can not fail: nothing is decoded.
        let _ = self.stretches(&(part.start + self.ahead..end), |_, _, rows| {
            rows.iter().for_each(|rows| rows.prefetch(0));
            Ok(())
        });
        0
    }
}

/// From one row of a block's keys as columns to the next: a power of two apart, they would share
/// few places of the first-level cache.
const COLUMNS_APART: usize = BLOCK + COLUMNS;

/// Keys of a block as columns.
#[derive(Default)]
pub(super) struct KeyColumns {
    /// Those that are decoded one by one.
    rows: Vec<f32>,
    columns: Vec<f32>,
}

impl KeyColumns {
    /// f32 that it holds.
    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.columns.len()
    }

    /// Rows of columns, of which those behind the last key, up to a multiple of [`COLUMNS`], are 0.
    pub(super) fn decode(
        &mut self,
        level: Level,
        keys: &HeadRows<'_>,
        part: &Range<usize>,
    ) -> Result<Rows<'_>> {
        let (mut done, k, ahead) = (0, keys.lines, keys.ahead_of(part));
        let n = k.n;
        let all = from_line_start(&mut self.columns, COLUMNS_APART * n)?;
        keys.stretches(part, |first, len, stored| {
            let columns = &mut all[done..];
            let fast =
                stored.map_or(0, |rows| simd::columns(level, &rows, ahead, columns, COLUMNS_APART));
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
        let padded = part.len().next_multiple_of(COLUMNS);
        if padded != part.len() {
            let rows = all.chunks_mut(COLUMNS_APART);
            rows.for_each(|row| row[part.len()..padded].fill(0.0));
        }
        Ok(Rows { data: all, stride: COLUMNS_APART, len: n })
    }
}

/// Values of a block.
#[derive(Default)]
pub(super) struct ValueRows(Vec<f32>);

impl ValueRows {
    /// f32 that it holds.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Rows padded to a multiple of [`COLUMNS`]; those of f32 that are read only once where they
    /// lie, for rows far apart share few places of the first-level cache.
    pub(super) fn decode<'b>(
        &'b mut self,
        level: Level,
        values: &'b HeadRows<'_>,
        part: &Range<usize>,
    ) -> Result<Rows<'b>> {
        let (v, ahead) = (values.lines, values.ahead_of(part));
        let (stride, len) = (v.n.next_multiple_of(COLUMNS), part.len());
        if values.ahead > 0
            && stride == v.n
            && let Some(stored) = values.stored_part(part)
            && let Some(rows) = stored.as_f32()
        {
            if ahead > 0 {
                stored.prefetch(ahead);
            }
            return Ok(rows);
        }
        if stride == 0 {
            return Ok(Rows { data: &[], stride, len });
        }
        let all = from_line_start(&mut self.0, BLOCK * stride)?;
        let mut rest = &mut *all;
        values.stretches(part, |first, len, stored| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(len * stride);
            rest = later;
            let fast = stored.map_or(0, |rows| simd::rows(level, &rows, ahead, now, stride));
            if fast < len {
                let first = first + fast * v.step();
                v.decode(first, len - fast, &mut now[fast * stride..], stride)?;
            }
            Ok(())
        })?;
        Ok(Rows { data: all, stride, len })
    }
}

/// Whether all of the first `n` elements of some rows are finite.
pub(super) fn finite(level: Level, rows: Rows<'_>, n: usize) -> bool {
    (0..rows.len).all(|i| simd::all_finite(level, &rows.data[i * rows.stride..][..n]))
}
