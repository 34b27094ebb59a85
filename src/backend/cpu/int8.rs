//! Products in integers: FP4 weights with FP4 as it is, or with floats rounded to int8.

use std::ops::Range;

use super::factors::Factors;
use super::floats::{BLOCK_BYTES, PANEL_BYTES};
use super::product::Block;
use super::rows::RowSource;
use super::simd::int8::{
    GROUP, Int8Level, PANEL_WORDS, Packed, STREAM_ROWS, pair, panel, products, quantize, stream,
};
use super::simd::{self, Level, Rows, Weights};
use crate::caps::Isa;
use crate::error::{Error, Result};
use crate::memory::{MatrixMut, scratch};

/// f32 of a group of a packed row.
const GROUP_WORDS: usize = size_of::<Packed>() / size_of::<f32>();

/// Behind the groups of a packed row: whether it is multiplied in integers.
const INTEGERS: f32 = 0.0;
const FLOATS: f32 = 1.0;

/// A multiple of every register tile's width.
const TILE: usize = 16;

/// Whether a block is multiplied with B's rows as they are stored.
fn streams(block: Block) -> bool {
    block.len <= STREAM_ROWS
}

/// In integers, in groups of four blocks along k. Rows with values that int8 does not stand for,
/// infinities and NaN among them, are multiplied in f32 instead.
pub(super) struct Int8Factors<'a> {
    level: Int8Level,
    float_level: Level,
    a: &'a dyn RowSource,
    b: &'a dyn RowSource,
    k: usize,
    /// Whether A is FP4, which enters as it is.
    exact: bool,
}

impl<'a> Int8Factors<'a> {
    pub(super) fn new(
        isa: &[Isa],
        a: &'a dyn RowSource,
        b: &'a dyn RowSource,
        k: usize,
        exact: bool,
    ) -> Self {
        Int8Factors { level: Int8Level::of(isa), float_level: Level::of(isa), a, b, k, exact }
    }

    fn groups(&self) -> usize {
        self.k.div_ceil(GROUP)
    }

    /// f32 of so many rows of B in a panel.
    fn panel_words(&self, columns: usize) -> usize {
        columns.next_multiple_of(4) * self.groups().max(1) * PANEL_WORDS
    }

    /// Multiplies the rows that were marked in f32.
    fn in_floats(
        &self,
        block: Block,
        a: Rows<'_>,
        weights: &Weights<'_>,
        rows: &Range<usize>,
        mut out: MatrixMut<'_, f32>,
    ) -> Result<()> {
        let marks = a.data.chunks(a.stride.max(1)).take(a.len);
        for (i, row) in marks.enumerate() {
            if row[self.groups() * GROUP_WORDS] != FLOATS {
                continue;
            }
            let mut plain = scratch(self.k, 0.0)?;
            self.a.decode(block.a, block.first + i, &mut plain)?;
            let mut data = scratch(self.groups() * GROUP, 0.0)?;
            simd::interleave(&plain, &mut data);
            let a = Rows { data: &data, stride: data.len(), len: 1 };
            let (_, out) = out.reborrow().split_rows(i);
            simd::stream(self.float_level, a, weights, rows.clone(), out);
        }
        Ok(())
    }
}

impl Factors for Int8Factors<'_> {
    fn task_products(&self) -> usize {
        1 << 15
    }

    fn columns_for_packing(&self) -> usize {
        64
    }

    fn packed_words(&self) -> usize {
        self.groups() * GROUP_WORDS + 1
    }

    fn block_rows(&self) -> usize {
        BLOCK_BYTES / size_of::<f32>() / self.packed_words()
    }

    fn packed_rows(&self, block: Block) -> usize {
        self.level.places(block.len)
    }

    fn columns(&self, blocks: &[Block], wanted: usize, parts: usize) -> usize {
        if blocks.iter().all(|&block| streams(block)) {
            return wanted.next_multiple_of(TILE);
        }
        let panel = PANEL_BYTES / size_of::<f32>() / self.panel_words(TILE) / parts * TILE;
        wanted.min(panel.max(TILE)).next_multiple_of(TILE)
    }

    fn panel_len(&self, block: Block, columns: usize) -> usize {
        if streams(block) { 0 } else { self.panel_words(columns) }
    }

    fn pack(&self, block: Block, first: usize, to: &mut [f32], stride: usize) -> Result<()> {
        let in_place = self.a.in_place(block.a).filter(|_| self.k > 0);
        let decoded = if self.exact || in_place.is_some() { 0 } else { self.k };
        let mut plain = scratch(decoded, 0.0)?;
        for (row, to) in (block.first + first..).zip(to.chunks_mut(stride)) {
            let (groups, mark) = to.split_at_mut(self.groups() * GROUP_WORDS);
            let groups: &mut [Packed] = bytemuck::cast_slice_mut(groups);
            mark[0] = INTEGERS;
            if row >= block.first + block.len {
                groups.fill(Packed::default());
                continue;
            }
            if self.exact {
                self.a.pack_fp4(block.a, row, groups)?;
                continue;
            }
            let values = match &in_place {
                Some(rows) => &rows.data[row * rows.stride..][..self.k],
                None => {
                    self.a.decode(block.a, row, &mut plain)?;
                    &plain
                }
            };
            if !quantize(self.level, values, groups) {
                mark[0] = FLOATS;
            }
        }
        pair(self.level, to, stride, self.groups());
        Ok(())
    }

    fn sums(
        &self,
        block: Block,
        (data, stride): (&[f32], usize),
        rows: Range<usize>,
        mut out: MatrixMut<'_, f32>,
        unpacked: &mut [f32],
    ) -> Result<()> {
        let weights = self.b.weights(block.b);
        let weights = weights.ok_or_else(|| Error::kernel("cpu.gemm", "weights without rows"))?;
        let a = Rows { data, stride, len: block.len };
        if streams(block) {
            stream(self.level, a, &weights, rows.clone(), out.reborrow());
        } else {
            panel(self.level, &weights, rows.clone(), unpacked);
            products(self.level, a, unpacked, (rows.len(), self.k), out.reborrow());
        }
        self.in_floats(block, a, &weights, &rows, out)
    }
}
