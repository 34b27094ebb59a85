//! Products of rows, cut into blocks for threads and caches: what matrix products share.
//!
//! ```text
//! A's rows packed, as the factors want them: once, or by each thread for itself
//! each block of rows × stretch of columns is one task:
//!     the factors multiply
//!     finish each row (epilogue), and round it once to the output's type
//! ```

use std::cell::Cell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread::LocalKey;

use super::factors::Factors;
use super::simd::{self, BAND, LANES};
use crate::error::{Error, Result};
use crate::memory::{MatrixMut, from_line_start, room};
use crate::num::Scalar;
use crate::registry::Workers;

/// f32 that are packed at a time.
const PACK: usize = 1 << 13;

/// Tasks for each thread where there is much to do, so that threads of different speed finish
/// together.
const TASKS_PER_THREAD: usize = 4;

/// Of how many tasks' worth each of several tasks of a thread is at least: what a thread begins
/// with lies in the caches of the one that called.
const LONG_TASK: usize = 16;

/// How many times what packing takes a thread's share of the products is at least, where each
/// packs for itself.
const LITTLE: usize = 8;

/// Rows of results that are asked for ahead.
const AHEAD: usize = 8;

/// Bytes of packed rows of A that are held at a time.
const PACKED_BYTES: usize = 16 << 20;

/// Rows that blocks are multiples of: one of every register tile's height.
const ROWS: usize = 24;

/// The matrices of a product.
pub(super) struct Product<'a> {
    pub(super) workers: &'a Workers,
    pub(super) factors: &'a dyn Factors,
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

/// Turns a row of products into a row of results. The buffer, as long as the columns, is the
/// callee's.
pub(super) trait Finish: Sync {
    /// Whether products are the results already.
    fn is_plain(&self) -> bool;

    fn finish(&self, row: Row<'_>, other: &mut [f32]) -> Result<()>;
}

/// Rows of a block that are packed together: at most [`BAND`].
struct Pack<'p> {
    block: Block,
    /// The first of them.
    first: usize,
    to: &'p mut [f32],
}

struct Task<'t, E> {
    block: Block,
    /// Its first row among those packed.
    packed: usize,
    columns: Range<usize>,
    out: MatrixMut<'t, E>,
}

/// The rows of an output's matrices, block by block.
struct OutputBlocks<'t, E, I> {
    matrices: I,
    /// Rows of a matrix that blocks have left.
    rest: Option<MatrixMut<'t, E>>,
}

impl<'t, E, I: Iterator<Item = MatrixMut<'t, E>>> OutputBlocks<'t, E, I> {
    /// The rows of the next block.
    fn next(&mut self, block: Block) -> Result<MatrixMut<'t, E>> {
        let rows = self.rest.take().or_else(|| self.matrices.next());
        let rows = rows.filter(|rows| rows.rows() >= block.len);
        let rows = rows.ok_or_else(|| Error::kernel("cpu", "an output without a block's rows"))?;
        let (now, later) = rows.split_rows(block.len);
        self.rest = Some(later).filter(|later| later.rows() > 0);
        Ok(now)
    }
}

impl Product<'_> {
    /// Cuts `m` rows so that a block stays in a cache beside a panel.
    pub(super) fn block_rows(&self, m: usize) -> usize {
        let most = self.factors.block_rows();
        let blocks = m.div_ceil(most.clamp(ROWS, 22 * ROWS)).max(1);
        m.div_ceil(blocks).next_multiple_of(ROWS)
    }

    /// The products of blocks of rows, finished; `out` are the output's matrices, whose rows are in
    /// the order of the blocks.
    pub(super) fn run<'t, E: Scalar>(
        &self,
        blocks: &[Block],
        out: impl Iterator<Item = MatrixMut<'t, E>>,
        finish: &dyn Finish,
    ) -> Result<()> {
        let mut out = OutputBlocks { matrices: out, rest: None };
        let row_bytes = self.row_stride() * size_of::<f32>();
        let mut blocks = blocks;
        while !blocks.is_empty() {
            let mut rows = 0;
            let fits = |block: &&Block| {
                rows += self.factors.packed_rows(**block);
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
        odd_lines(self.factors.packed_words())
    }

    fn run_packed<'t, E: Scalar>(
        &self,
        blocks: &[Block],
        out: &mut OutputBlocks<'t, E, impl Iterator<Item = MatrixMut<'t, E>>>,
        finish: &dyn Finish,
    ) -> Result<()> {
        let stride = self.row_stride();
        let packed_rows: usize = blocks.iter().map(|&block| self.factors.packed_rows(block)).sum();
        let mut tasks = self.tasks(blocks, out)?;
        let alone = Workers::sequential();
        let workers = if self.worth_tasks(blocks) > 1 { self.workers } else { &alone };
        let run = |tasks: &mut dyn Iterator<Item = &mut Task<'_, E>>, packed: &[f32]| {
            for task in tasks {
                self.task(task, packed, stride, finish)?;
            }
            Ok(())
        };
        if self.each_packs(blocks) {
            return share(workers, &mut tasks, 1, |tasks| {
                let mut tasks = tasks.peekable();
                if tasks.peek().is_none() {
                    return Ok(());
                }
                with_scratch(&PACKED, packed_rows * stride, |packed| {
                    self.pack(&alone, blocks, packed, stride)?;
                    run(&mut tasks, packed)
                })
            });
        }
        with_scratch(&PACKED, packed_rows * stride, |packed| {
            self.pack(workers, blocks, packed, stride)?;
            share(workers, &mut tasks, 1, |tasks| run(tasks, packed))
        })
    }

    /// Whether each thread packs all rows for itself: where that is little beside its share of the
    /// products, as to fetch what another thread just wrote takes as long.
    fn each_packs(&self, blocks: &[Block]) -> bool {
        let columns = self.n * self.parts / self.workers.threads();
        blocks.len() == 1 && columns >= LITTLE * self.factors.columns_for_packing()
    }

    /// How many tasks the products of some blocks are worth.
    fn worth_tasks(&self, blocks: &[Block]) -> usize {
        let rows: usize = blocks.iter().map(|block| block.len).sum();
        rows * self.n * self.parts * self.k / self.factors.task_products()
    }

    /// Columns that a task computes, where the rows of some blocks are multiplied.
    fn task_columns(&self, blocks: &[Block]) -> usize {
        let (worth, threads) = (self.worth_tasks(blocks), self.workers.threads());
        // As many for each thread: of few tasks one more would make all wait.
        let each = (worth / threads / LONG_TASK).clamp(1, TASKS_PER_THREAD);
        let wanted = if threads == 1 { 1 } else { worth.clamp(1, each * threads) };
        let stretches = wanted.div_ceil(blocks.len().max(1));
        self.factors.columns(blocks, self.n.div_ceil(stretches), self.parts)
    }

    fn tasks<'t, E>(
        &self,
        blocks: &[Block],
        out: &mut OutputBlocks<'t, E, impl Iterator<Item = MatrixMut<'t, E>>>,
    ) -> Result<Vec<Task<'t, E>>> {
        let width = self.task_columns(blocks);
        let stretches = self.n.div_ceil(width);
        let mut tasks = room(blocks.len() * stretches)?;
        let mut packed = 0;
        for &block in blocks {
            let mut rest = out.next(block)?;
            for first in (0..self.n).step_by(width) {
                let columns = first..self.n.min(first + width);
                let (out, later) = rest.split_columns(columns.len());
                tasks.push(Task { block, packed, columns, out });
                rest = later;
            }
            packed += self.factors.packed_rows(block);
        }
        Ok(tasks)
    }

    /// A's rows, packed one after the other, [`BAND`] of a block at a time.
    fn pack(
        &self,
        workers: &Workers,
        blocks: &[Block],
        packed: &mut [f32],
        stride: usize,
    ) -> Result<()> {
        let mut packs = room(blocks.iter().map(|block| block.len.div_ceil(BAND)).sum())?;
        let mut rest = packed;
        for &block in blocks {
            for first in (0..block.len).step_by(BAND) {
                let rows = (self.factors.packed_rows(block) - first).min(BAND);
                let (to, later) = rest.split_at_mut(rows * stride);
                packs.push(Pack { block, first, to });
                rest = later;
            }
        }
        let each = (PACK / (BAND * stride).max(1)).max(1);
        share(workers, &mut packs, each, |packs| {
            for Pack { block, first, to } in packs {
                self.factors.pack(*block, *first, to, stride)?;
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
        let panel_len = self.factors.panel_len(block, columns.len());
        let packed = (&packed[task.packed * stride..], stride);
        let plain = finish.is_plain();
        if plain && let Some(out) = task.out.of_type::<f32>() {
            return with_scratch(&PANEL, panel_len, |panel| {
                self.factors.sums(block, packed, columns, out, panel)
            });
        }
        let sums_len = block.len * width;
        with_scratch(&PANEL, panel_len + sums_len + columns.len(), |scratch| {
            let (panel, rest) = scratch.split_at_mut(panel_len);
            let (sums, other) = rest.split_at_mut(sums_len);
            for part in 0..self.parts {
                let rows = columns.start + part * self.n..columns.end + part * self.n;
                let (_, sums) = MatrixMut::packed(sums, width).split_columns(part * columns.len());
                self.factors.sums(block, packed, rows, sums, panel)?;
            }
            for (i, values) in sums.chunks_mut(width).enumerate() {
                if i + AHEAD < block.len {
                    simd::prefetch_to_write(task.out.row(i + AHEAD));
                }
                let out = task.out.row(i);
                if !plain {
                    let (row, columns) = (block.first + i, columns.clone());
                    finish
                        .finish(Row { block: &block, row, columns, values: &mut *values }, other)?;
                }
                E::from_f32_slice(&values[..out.len()], out);
            }
            Ok(())
        })
    }
}

/// Has threads take items, `len` at a time, until none is left or one fails; gives an error of those.
fn share<T: Send>(
    workers: &Workers,
    items: &mut [T],
    len: usize,
    each: impl Fn(&mut dyn Iterator<Item = &mut T>) -> Result<()> + Sync,
) -> Result<()> {
    let outcome = Mutex::new(Ok(()));
    workers.share_chunks(items, len, |chunks| {
        let result = each(&mut chunks.flat_map(|(_, chunk)| chunk));
        if result.is_err() {
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = result;
        }
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A number of f32, rounded up to an odd number of cache lines.
pub(super) fn odd_lines(len: usize) -> usize {
    (len.div_ceil(LANES) | 1) * LANES
}

thread_local! {
    static PACKED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    pub(super) static PANEL: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Lends memory that a thread keeps from call to call, up to [`PACKED_BYTES`]; it starts a cache
/// line, and holds whatever the last call left.
pub(super) fn with_scratch<T>(
    kept: &'static LocalKey<Cell<Vec<f32>>>,
    len: usize,
    f: impl FnOnce(&mut [f32]) -> Result<T>,
) -> Result<T> {
    let mut memory = kept.take();
    let result = f(from_line_start(&mut memory, len)?);
    if memory.len() * size_of::<f32>() <= PACKED_BYTES {
        kept.set(memory);
    }
    result
}

const _: () = assert!(ROWS.is_multiple_of(BAND));
