//! Products in f32, of any types that it holds.
//!
//! ```text
//! few rows:   stream B's rows as stored, unpacked in registers
//! some rows:  chunk by chunk along k, unpack B's rows to a panel, all rows × the panel
//! many rows:  as well, but B's rows become strips of columns
//! ```
//!
//! All ways add up in the same order, so a row's result does not depend on the others.

use std::ops::Range;

use super::factors::Factors;
use super::product::{Block, PANEL, odd_lines, with_scratch};
use super::rows::RowSource;
use super::simd::{self, BAND, Bands, CHUNK, GROUP, LANES, Level, Rows, STRIP, Weights};
use crate::error::Result;
use crate::memory::{MatrixMut, scratch};

/// Bytes of B's panel, beside a block of A's rows in a second-level cache.
pub(super) const PANEL_BYTES: usize = 192 << 10;

/// Bytes of A's rows that a task goes over again and again: at the pace of a second-level cache, or
/// of a third.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// The same where they meet strips, which are wider: at the pace of a third-level cache.
const STRIP_BLOCK: usize = 2 << 20;

/// Most columns of many rows that are computed before they are finished.
const STRIPS: usize = 2 * STRIP;

/// Elements of rows that are unpacked before they become columns: 16 rows of them stay in a
/// first-level cache.
const PIECE: usize = 256;

/// A multiple of every register tile's width.
const TILE: usize = 24;

/// How a block's rows are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Stream,
    Panel,
    Strips,
}

/// Rows that are multiplied in f32, in chunks along k whose sums are added up in order.
pub(super) struct FloatFactors<'a> {
    pub(super) level: Level,
    pub(super) a: &'a dyn RowSource,
    /// Rows of B: the columns of the product.
    pub(super) b: &'a dyn RowSource,
    pub(super) k: usize,
}

impl Factors for FloatFactors<'_> {
    fn task_products(&self) -> usize {
        1 << 14
    }

    fn columns_for_packing(&self) -> usize {
        16
    }

    fn packed_words(&self) -> usize {
        let chunks = self.k.div_ceil(simd::chunk(self.k));
        let banded = chunks * simd::by_lanes_len(self.steps(), BAND) / BAND;
        let strips = simd::strips_pay(self.level).is_some();
        self.k.next_multiple_of(GROUP).max(if strips { banded } else { 0 })
    }

    fn block_rows(&self) -> usize {
        let bytes = if simd::strips_pay(self.level).is_some() { STRIP_BLOCK } else { BLOCK_BYTES };
        bytes / size_of::<f32>() / simd::chunk(self.k)
    }

    fn packed_rows(&self, block: Block) -> usize {
        match self.way(block) {
            Way::Strips => block.len.next_multiple_of(BAND),
            _ => block.len,
        }
    }

    fn columns(&self, blocks: &[Block], wanted: usize, parts: usize) -> usize {
        let any = |way| blocks.iter().any(|&block| self.way(block) == way);
        if any(Way::Strips) {
            return wanted.min(STRIPS / parts).next_multiple_of(LANES);
        }
        if !any(Way::Panel) {
            return wanted.next_multiple_of(TILE);
        }
        let panel = PANEL_BYTES / size_of::<f32>() / simd::chunk(self.k) / parts;
        wanted.min(panel / TILE * TILE).next_multiple_of(TILE)
    }

    fn panel_len(&self, block: Block, columns: usize) -> usize {
        let panel_stride = self.panel_stride();
        match self.way(block) {
            Way::Stream => 0,
            Way::Panel => columns * panel_stride,
            Way::Strips => LANES * PIECE + simd::by_lanes_len(self.steps(), STRIP),
        }
    }

    /// In f32, in the order of B's storage, padded with zeros; in bands for strips.
    fn pack(&self, block: Block, first: usize, to: &mut [f32], stride: usize) -> Result<()> {
        let interleaved = self.b.weights(0).is_some_and(|weights| weights.interleaved());
        let mut plain = scratch(if interleaved { self.k } else { 0 }, 0.0)?;
        let mut read = |i: usize, dst: &mut [f32]| -> Result<()> {
            let row = block.first + first + i;
            if interleaved {
                self.a.decode(block.a, row, &mut plain)?;
                simd::interleave(&plain, dst);
            } else {
                dst[self.k..].fill(0.0);
                self.a.decode(block.a, row, dst)?;
            }
            Ok(())
        };
        if self.way(block) != Way::Strips {
            return to.chunks_mut(stride).enumerate().try_for_each(|(i, dst)| read(i, dst));
        }
        let len = BAND.min(block.len - first);
        if !interleaved && let Some(rows) = self.a.in_place(block.a) {
            let first = block.first + first;
            self.band(rows.part(first..first + len), self.k, to);
            return Ok(());
        }
        with_scratch(&PANEL, len * stride, |plain| {
            plain.chunks_mut(stride).enumerate().try_for_each(|(i, dst)| read(i, dst))?;
            self.band(Rows { data: plain, stride, len }, self.k.next_multiple_of(LANES), to);
            Ok(())
        })
    }

    fn sums(
        &self,
        block: Block,
        (data, stride): (&[f32], usize),
        rows: Range<usize>,
        out: MatrixMut<'_, f32>,
        panel: &mut [f32],
    ) -> Result<()> {
        if self.way(block) == Way::Strips {
            let a = Bands { data, stride, len: block.len };
            return self.strip_sums(block.b, a, rows, out, panel);
        }
        let a = Rows { data, stride, len: block.len };
        self.row_sums(block.b, a, rows, out, (panel, self.panel_stride()))
    }
}

impl FloatFactors<'_> {
    /// Steps of each lane in a chunk.
    fn steps(&self) -> usize {
        simd::chunk(self.k) / LANES
    }

    /// Rows of `k` elements as a band, chunk by chunk.
    fn band(&self, rows: Rows<'_>, k: usize, to: &mut [f32]) {
        let chunk = simd::chunk(self.k);
        let chunks = to.chunks_mut(simd::by_lanes_len(self.steps(), BAND));
        for (first, to) in (0..k).step_by(chunk).zip(chunks) {
            let len = chunk.min(k - first);
            let rows = Rows { data: &rows.data[first..], ..rows };
            simd::by_lanes(self.level, rows, len, to, (len.div_ceil(LANES), BAND));
        }
    }

    fn way(&self, block: Block) -> Way {
        let streams = |weights: Weights<'_>| block.len <= simd::stream_rows(self.level, &weights);
        match block.len {
            _ if self.b.weights(block.b).is_some_and(streams) => Way::Stream,
            len if simd::strips_pay(self.level).is_some_and(|rows| len >= rows) => Way::Strips,
            _ => Way::Panel,
        }
    }

    fn panel_stride(&self) -> usize {
        odd_lines(simd::chunk(self.k))
    }

    /// `out[i, j]` becomes the product of row i of `a` and row j of `rows` of B.
    fn row_sums(
        &self,
        matrix: usize,
        a: Rows<'_>,
        rows: Range<usize>,
        mut out: MatrixMut<'_, f32>,
        (panel, panel_stride): (&mut [f32], usize),
    ) -> Result<()> {
        if self.k == 0 {
            zero(out, rows.len());
            return Ok(());
        }
        let weights = self.b.weights(matrix);
        if let Some(weights) = &weights
            && a.len <= simd::stream_rows(self.level, weights)
        {
            simd::stream(self.level, a, weights, rows, out);
            return Ok(());
        }
        let chunk = simd::chunk(self.k);
        for first in (0..self.k).step_by(chunk) {
            let len = chunk.min(self.k - first);
            let from = (matrix, weights.as_ref());
            self.unpack(from, rows.clone(), (first, len), panel, panel_stride)?;
            let multiple = len.next_multiple_of(LANES);
            let a = Rows { data: &a.data[first..], ..a };
            let b = Rows { data: panel, stride: panel_stride, len: rows.len() };
            if first == 0 {
                simd::dots(self.level, a, b, multiple, out.reborrow());
            } else {
                simd::add_dots(self.level, a, b, multiple, out.reborrow());
            }
        }
        Ok(())
    }

    /// As [`FloatFactors::row_sums`], a strip of columns at a time.
    fn strip_sums(
        &self,
        matrix: usize,
        a: Bands<'_>,
        rows: Range<usize>,
        mut out: MatrixMut<'_, f32>,
        panel: &mut [f32],
    ) -> Result<()> {
        let weights = self.b.weights(matrix);
        let from = (matrix, weights.as_ref());
        let chunk = simd::chunk(self.k);
        let (unpacked, strip) = panel.split_at_mut(LANES * PIECE);
        // Of about the same width: narrow ones read A as often.
        let strips = rows.len().div_ceil(STRIP).max(1);
        let most = rows.len().div_ceil(strips).next_multiple_of(LANES).max(LANES);
        for begin in rows.clone().step_by(most) {
            let rows_of_strip = begin..rows.end.min(begin + most);
            let columns = rows_of_strip.len();
            let strip_width = columns.next_multiple_of(LANES);
            let (_, mut out) = out.reborrow().split_columns(begin - rows.start);
            if self.k == 0 {
                zero(out.reborrow(), columns);
            }
            for first in (0..self.k).step_by(chunk) {
                let part = first..self.k.min(first + chunk);
                let steps = part.len().div_ceil(LANES);
                for at in (0..columns).step_by(LANES) {
                    let now = begin + at..rows_of_strip.end.min(begin + at + LANES);
                    let to = (&mut strip[at..], (steps, strip_width));
                    self.columns_by_lanes(from, now, part.clone(), unpacked, to)?;
                }
                let before = first / chunk * simd::by_lanes_len(self.steps(), BAND);
                let a = Bands { data: &a.data[before..], ..a };
                let b = (&*strip, strip_width, columns);
                simd::strip(self.level, a, b, steps, out.reborrow(), first > 0);
            }
        }
        Ok(())
    }

    /// Elements `part` of up to [`LANES`] of B's rows as columns of a strip.
    fn columns_by_lanes(
        &self,
        from: (usize, Option<&Weights<'_>>),
        rows: Range<usize>,
        part: Range<usize>,
        unpacked: &mut [f32],
        (to, place): (&mut [f32], (usize, usize)),
    ) -> Result<()> {
        if let Some(plain) = self.b.in_place(from.0) {
            let rows = plain.part(rows);
            let rows = Rows { data: &rows.data[part.start..], ..rows };
            simd::by_lanes(self.level, rows, part.len(), to, place);
            return Ok(());
        }
        if self.b.across(from.0, rows.clone(), part.clone(), to, place) {
            return Ok(());
        }
        for first in part.clone().step_by(PIECE) {
            let len = PIECE.min(part.end - first);
            self.unpack(from, rows.clone(), (first, len), unpacked, PIECE)?;
            let rows = Rows { data: unpacked, stride: PIECE, len: rows.len() };
            let to = &mut to[(first - part.start) / LANES * place.1..];
            // Of FP4 a whole block is in an order of its own.
            simd::by_lanes(self.level, rows, len.next_multiple_of(LANES), to, place);
        }
        Ok(())
    }

    /// Elements `first .. first + len` of B's rows, padded with zeros to whole groups, to rows of
    /// `panel`.
    fn unpack(
        &self,
        (matrix, weights): (usize, Option<&Weights<'_>>),
        rows: Range<usize>,
        (first, len): (usize, usize),
        panel: &mut [f32],
        stride: usize,
    ) -> Result<()> {
        let padded = len.next_multiple_of(GROUP);
        let count = rows.len();
        match weights {
            Some(weights) => {
                for (row, dst) in rows.zip(panel.chunks_mut(stride)) {
                    simd::unpack(self.level, weights, row, (first, len), &mut dst[..padded]);
                }
            }
            None => {
                self.b.panel(matrix, rows, first..first + len, panel, stride)?;
                let rows = panel.chunks_mut(stride).take(count);
                rows.for_each(|row| row[len..padded].fill(0.0));
            }
        }
        Ok(())
    }
}

/// Sums of nothing.
fn zero(mut out: MatrixMut<'_, f32>, columns: usize) {
    for i in 0..out.rows() {
        out.row(i)[..columns].fill(0.0);
    }
}

const _: () = assert!(CHUNK.is_multiple_of(GROUP) && PIECE.is_multiple_of(GROUP));
const _: () = assert!(TILE.is_multiple_of(BAND));
