//! Products of rows, cut into blocks for threads and caches: what matrix products share.
//!
//! ```text
//! A's rows to f32, padded and in the order that the block's way asks for: once
//! each block of rows × stretch of columns is one task:
//!     few rows:   stream B's rows as stored, unpacked in registers
//!     some rows:  chunk by chunk along k, unpack B's rows to a panel, all rows × the panel
//!     many rows:  as well, but B's rows become strips of columns
//!     finish each row (epilogue), and round it once to the output's type
//! ```
//!
//! All ways add up in the same order, so a row's result does not depend on the others.

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use super::rows::RowSource;
use super::simd::{self, BAND, Bands, CHUNK, GROUP, LANES, Level, Rows, STREAM_ROWS, STRIP};
use crate::error::{Error, Result};
use crate::memory::{resize, room, scratch};
use crate::num::Scalar;
use crate::registry::Workers;

/// Products below which handing work to another thread costs more than it saves.
const TASK: usize = 1 << 15;

/// Tasks for each thread, so that threads of different speed finish together.
const TASKS_PER_THREAD: usize = 4;

/// Bytes of A's rows that one task goes over again and again, at the pace of a second-level cache
/// or of a third. The more rows, the fewer times B is unpacked.
const BLOCK_BYTES: usize = 1 << 20;

/// Bytes of B's panel, beside it.
const PANEL_BYTES: usize = 192 << 10;

/// Most columns of many rows that are computed before they are finished.
const STRIPS: usize = 2 * STRIP;

/// Bytes of A in f32 that are held at a time.
const PACKED_BYTES: usize = 16 << 20;

/// A multiple of every register tile's height and width.
const TILE: usize = 24;

/// The matrices of a product.
pub(super) struct Product<'a> {
    pub(super) level: Level,
    pub(super) workers: &'a Workers,
    pub(super) a: &'a dyn RowSource,
    /// Rows of B: the columns of the product.
    pub(super) b: &'a dyn RowSource,
    pub(super) k: usize,
    /// Columns of the output.
    pub(super) n: usize,
    /// Rows of B for each column of the output, `n` apart: 2 where an activation is gated.
    pub(super) parts: usize,
}

/// Rows of A that are multiplied with the same matrix B.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// Which matrix of A.
    pub(super) a: usize,
    /// Which matrix of B.
    pub(super) b: usize,
    pub(super) first: usize,
    pub(super) len: usize,
}

/// A row of products that is to be finished: its first columns hold the result afterwards.
pub(super) struct Row<'a> {
    pub(super) block: &'a Block,
    /// Which row of the matrix of A.
    pub(super) row: usize,
    /// Which columns of the output.
    pub(super) columns: Range<usize>,
    /// The products of each part, one after the other.
    pub(super) values: &'a mut [f32],
}

/// Turns a row of products into a row of results. The buffer is the callee's, kept from row to
/// row.
pub(super) trait Finish: Sync {
    fn finish(&self, row: Row<'_>, other: &mut Vec<f32>) -> Result<()>;
}

/// How a block's rows are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Stream,
    Panel,
    Strips,
}

/// Rows of a block that are packed together: at most [`BAND`].
struct Pack<'p> {
    block: Block,
    /// The first of them.
    first: usize,
    to: &'p mut [f32],
    failure: Option<Error>,
}

struct Task<'t, E> {
    block: Block,
    /// Its first row among those packed.
    packed: usize,
    columns: Range<usize>,
    rows: Vec<&'t mut [E]>,
    failure: Option<Error>,
}

impl Product<'_> {
    fn way(&self, block: Block) -> Way {
        match block.len {
            ..=STREAM_ROWS => Way::Stream,
            len if simd::strips_pay(self.level).is_some_and(|rows| len >= rows) => Way::Strips,
            _ => Way::Panel,
        }
    }

    /// Rows that a block takes where it is packed.
    fn packed_rows(&self, block: Block) -> usize {
        match self.way(block) {
            Way::Strips => block.len.next_multiple_of(BAND),
            _ => block.len,
        }
    }

    /// Cuts `m` rows so that a block stays in a cache beside a panel.
    pub(super) fn block_rows(&self, m: usize) -> usize {
        let most = BLOCK_BYTES / size_of::<f32>() / simd::chunk(self.k);
        let blocks = m.div_ceil(most.clamp(TILE, 22 * TILE)).max(1);
        m.div_ceil(blocks).next_multiple_of(TILE)
    }

    /// The products of blocks of rows, finished; `out` are the output's rows in the order of the
    /// blocks.
    pub(super) fn run<'t, E: Scalar>(
        &self,
        blocks: &[Block],
        mut out: impl Iterator<Item = &'t mut [E]>,
        finish: &dyn Finish,
    ) -> Result<()> {
        let row_bytes = self.row_stride() * size_of::<f32>();
        let mut blocks = blocks;
        while !blocks.is_empty() {
            let mut rows = 0;
            let fits = |block: &&Block| {
                rows += self.packed_rows(**block);
                rows * row_bytes <= PACKED_BYTES
            };
            let count = blocks.iter().take_while(fits).count().max(1);
            let (now, later) = blocks.split_at(count);
            self.run_packed(now, &mut out, finish)?;
            blocks = later;
        }
        Ok(())
    }

    /// From one packed row to the next: an odd number of cache lines, so that rows do not compete
    /// for the same places of a cache.
    fn row_stride(&self) -> usize {
        odd_lines(self.k.next_multiple_of(GROUP))
    }

    fn run_packed<'t, E: Scalar>(
        &self,
        blocks: &[Block],
        out: &mut impl Iterator<Item = &'t mut [E]>,
        finish: &dyn Finish,
    ) -> Result<()> {
        let stride = self.row_stride();
        let rows: usize = blocks.iter().map(|block| block.len).sum();
        let packed_rows: usize = blocks.iter().map(|&block| self.packed_rows(block)).sum();
        let mut tasks = self.tasks(blocks, out)?;
        let parallel = tasks.len() > 1 && rows * self.n * self.parts * self.k >= TASK;
        with_scratch(&PACKED, packed_rows * stride, |packed| {
            self.pack(blocks, packed, stride, parallel)?;
            let run = |_: usize, tasks: &mut [Task<'_, E>]| {
                for task in tasks {
                    task.failure = self.task(task, packed, stride, finish).err();
                }
            };
            if parallel {
                self.workers.chunks_mut(&mut tasks, 1, run);
            } else {
                run(0, &mut tasks);
            }
            tasks.iter_mut().find_map(|task| task.failure.take()).map_or(Ok(()), Err)
        })
    }

    /// Columns that a task computes, where `rows` are multiplied at once.
    fn task_columns(&self, blocks: &[Block]) -> usize {
        let rows: usize = blocks.iter().map(|block| block.len).sum();
        let products = rows * self.n * self.parts * self.k;
        let threads = self.workers.threads();
        let wanted = if threads == 1 { 1 } else { threads * TASKS_PER_THREAD };
        let wanted = (products / TASK).clamp(1, wanted);
        let stretches = wanted.div_ceil(blocks.len().max(1));
        let columns = self.n.div_ceil(stretches);
        let any = |way| blocks.iter().any(|&block| self.way(block) == way);
        if any(Way::Strips) {
            return columns.min(STRIPS / self.parts).next_multiple_of(LANES);
        }
        if !any(Way::Panel) {
            return columns.next_multiple_of(TILE);
        }
        let panel = PANEL_BYTES / size_of::<f32>() / simd::chunk(self.k) / self.parts;
        columns.min(panel / TILE * TILE).next_multiple_of(TILE)
    }

    fn tasks<'t, E>(
        &self,
        blocks: &[Block],
        out: &mut impl Iterator<Item = &'t mut [E]>,
    ) -> Result<Vec<Task<'t, E>>> {
        let width = self.task_columns(blocks);
        let stretches = self.n.div_ceil(width);
        let mut tasks = room(blocks.len() * stretches)?;
        let mut packed = 0;
        for &block in blocks {
            let from = tasks.len();
            for first in (0..self.n).step_by(width) {
                let columns = first..self.n.min(first + width);
                let rows = room(block.len)?;
                tasks.push(Task { block, packed, columns, rows, failure: None });
            }
            for row in out.take(block.len) {
                for (task, piece) in tasks[from..].iter_mut().zip(row.chunks_mut(width)) {
                    task.rows.push(piece);
                }
            }
            packed += self.packed_rows(block);
        }
        Ok(tasks)
    }

    /// A's rows in f32, in the order of B's storage, padded with zeros; in bands for strips.
    fn pack(
        &self,
        blocks: &[Block],
        packed: &mut [f32],
        stride: usize,
        parallel: bool,
    ) -> Result<()> {
        let mut packs = room(blocks.iter().map(|block| block.len.div_ceil(BAND)).sum())?;
        let mut rest = packed;
        for &block in blocks {
            for first in (0..block.len).step_by(BAND) {
                let rows = (self.packed_rows(block) - first).min(BAND);
                let (to, later) = rest.split_at_mut(rows * stride);
                packs.push(Pack { block, first, to, failure: None });
                rest = later;
            }
        }
        let run = |_: usize, packs: &mut [Pack<'_>]| {
            for pack in packs {
                pack.failure = self.pack_rows(pack, stride).err();
            }
        };
        let each = (TASK / 4 / (BAND * stride).max(1)).max(1);
        if parallel {
            self.workers.chunks_mut(&mut packs, each, run);
        } else {
            run(0, &mut packs);
        }
        packs.iter_mut().find_map(|pack| pack.failure.take()).map_or(Ok(()), Err)
    }

    fn pack_rows(&self, pack: &mut Pack<'_>, stride: usize) -> Result<()> {
        let Pack { block, first, to, .. } = pack;
        let interleaved = self.b.weights(0).is_some_and(|weights| weights.interleaved());
        let mut plain = scratch(if interleaved { self.k } else { 0 }, 0.0)?;
        let mut read = |i: usize, dst: &mut [f32]| -> Result<()> {
            let row = block.first + *first + i;
            if interleaved {
                self.a.decode(block.a, row, &mut plain)?;
                simd::interleave(&plain, dst);
            } else {
                dst[self.k..].fill(0.0);
                self.a.decode(block.a, row, dst)?;
            }
            Ok(())
        };
        let rows = BAND.min(block.len - *first);
        if self.way(*block) != Way::Strips {
            return to.chunks_mut(stride).enumerate().try_for_each(|(i, dst)| read(i, dst));
        }
        with_scratch(&PANEL, BAND * stride, |plain| {
            let mut chunks = plain.chunks_mut(stride);
            chunks.by_ref().take(rows).enumerate().try_for_each(|(i, dst)| read(i, dst))?;
            chunks.for_each(|row| row.fill(0.0));
            let chunk = simd::chunk(self.k);
            for first in (0..self.k).step_by(chunk) {
                let steps = chunk.min(self.k - first).div_ceil(LANES);
                let rows = Rows { data: &plain[first..], stride, len: BAND };
                simd::by_lanes(self.level, rows, steps, &mut to[BAND * first..], BAND);
            }
            Ok(())
        })
    }

    fn task<E: Scalar>(
        &self,
        task: &mut Task<'_, E>,
        packed: &[f32],
        stride: usize,
        finish: &dyn Finish,
    ) -> Result<()> {
        let (block, columns) = (task.block, task.columns.clone());
        let width = columns.len() * self.parts;
        let panel_stride = odd_lines(simd::chunk(self.k));
        let panel_len = match self.way(block) {
            Way::Stream if self.b.weights(block.b).is_some() => 0,
            Way::Stream | Way::Panel => columns.len() * panel_stride,
            Way::Strips => LANES * panel_stride + STRIP * simd::chunk(self.k),
        };
        with_scratch(&PANEL, panel_len + block.len * width, |scratch| {
            let (panel, sums) = scratch.split_at_mut(panel_len);
            for part in 0..self.parts {
                let rows = columns.start + part * self.n..columns.end + part * self.n;
                let sums = &mut sums[part * columns.len()..];
                let packed = &packed[task.packed * stride..];
                let panel = (&mut *panel, panel_stride);
                if self.way(block) == Way::Strips {
                    let a = Bands { data: packed, stride, len: block.len };
                    self.strip_sums(block.b, a, rows, sums, width, panel)?;
                } else {
                    let a = Rows { data: packed, stride, len: block.len };
                    self.sums(block.b, a, rows, sums, width, panel)?;
                }
            }
            let mut other = Vec::new();
            let rows = sums.chunks_mut(width).zip(&mut task.rows);
            for (i, (values, out)) in rows.enumerate() {
                let row =
                    Row { block: &block, row: block.first + i, columns: columns.clone(), values };
                finish.finish(row, &mut other)?;
                E::from_f32_slice(&values[..out.len()], out);
            }
            Ok(())
        })
    }

    /// `sums[i · width + j]` becomes the product of row i of `a` and row j of `rows` of B.
    fn sums(
        &self,
        matrix: usize,
        a: Rows<'_>,
        rows: Range<usize>,
        sums: &mut [f32],
        width: usize,
        (panel, panel_stride): (&mut [f32], usize),
    ) -> Result<()> {
        if self.k == 0 {
            sums.chunks_mut(width).for_each(|row| row[..rows.len().min(width)].fill(0.0));
            return Ok(());
        }
        let weights = self.b.weights(matrix);
        if let Some(weights) = &weights
            && a.len <= STREAM_ROWS
        {
            simd::stream(self.level, a, weights, rows, sums, width);
            return Ok(());
        }
        let chunk = simd::chunk(self.k);
        for first in (0..self.k).step_by(chunk) {
            let len = chunk.min(self.k - first);
            self.unpack(matrix, rows.clone(), (first, len), panel, panel_stride)?;
            let multiple = len.next_multiple_of(LANES);
            let a = Rows { data: &a.data[first..], ..a };
            let b = Rows { data: panel, stride: panel_stride, len: rows.len() };
            if first == 0 {
                simd::dots(self.level, a, b, multiple, sums, width);
            } else {
                simd::add_dots(self.level, a, b, multiple, sums, width);
            }
        }
        Ok(())
    }

    /// As [`Product::sums`], a strip of columns at a time.
    fn strip_sums(
        &self,
        matrix: usize,
        a: Bands<'_>,
        rows: Range<usize>,
        sums: &mut [f32],
        width: usize,
        (panel, panel_stride): (&mut [f32], usize),
    ) -> Result<()> {
        let chunk = simd::chunk(self.k);
        let (unpacked, strip) = panel.split_at_mut(LANES * panel_stride);
        for begin in rows.clone().step_by(STRIP) {
            let rows_of_strip = begin..rows.end.min(begin + STRIP);
            let columns = rows_of_strip.len();
            let strip_width = columns.next_multiple_of(LANES);
            let sums = &mut sums[begin - rows.start..];
            if self.k == 0 {
                let rows = sums.chunks_mut(width);
                rows.for_each(|row| row.iter_mut().take(columns).for_each(|x| *x = 0.0));
            }
            for first in (0..self.k).step_by(chunk) {
                let len = chunk.min(self.k - first);
                let steps = len.div_ceil(LANES);
                for at in (0..columns).step_by(LANES) {
                    let now = begin + at..rows_of_strip.end.min(begin + at + LANES);
                    unpacked[now.len() * panel_stride..].fill(0.0);
                    self.unpack(matrix, now, (first, len), unpacked, panel_stride)?;
                    let rows = Rows { data: unpacked, stride: panel_stride, len: LANES };
                    simd::by_lanes(self.level, rows, steps, &mut strip[at..], strip_width);
                }
                let a = Bands { data: &a.data[BAND * first..], ..a };
                let (b, out) = ((&*strip, strip_width, columns), (&mut *sums, width));
                simd::strip(self.level, a, b, steps, out, first > 0);
            }
        }
        Ok(())
    }

    /// Elements `first .. first + len` of B's rows, padded with zeros to whole groups, to rows of
    /// `panel`.
    fn unpack(
        &self,
        matrix: usize,
        rows: Range<usize>,
        (first, len): (usize, usize),
        panel: &mut [f32],
        stride: usize,
    ) -> Result<()> {
        let padded = len.next_multiple_of(GROUP);
        let count = rows.len();
        match self.b.weights(matrix) {
            Some(weights) => {
                for (row, dst) in rows.zip(panel.chunks_mut(stride)) {
                    simd::unpack(self.level, &weights, row, (first, len), &mut dst[..padded]);
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

/// A number of f32 that is an odd number of cache lines.
fn odd_lines(len: usize) -> usize {
    ((len / LANES) | 1) * LANES
}

thread_local! {
    static PACKED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static PANEL: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends memory that a thread keeps from call to call, up to [`PACKED_BYTES`]; it starts a cache
/// line, and holds whatever the last call left.
fn with_scratch<T>(
    kept: &'static LocalKey<Cell<Vec<f32>>>,
    len: usize,
    f: impl FnOnce(&mut [f32]) -> Result<T>,
) -> Result<T> {
    let mut memory = kept.take();
    if memory.len() < len + LANES {
        resize(&mut memory, len + LANES, 0.0)?;
    }
    // A vector across two lines takes two reads.
    let first = memory.as_ptr().align_offset(LANES * size_of::<f32>()).min(LANES);
    let result = f(&mut memory[first..first + len]);
    if memory.len() * size_of::<f32>() <= PACKED_BYTES {
        kept.set(memory);
    }
    result
}

const _: () = assert!(CHUNK.is_multiple_of(GROUP) && TILE.is_multiple_of(BAND));
