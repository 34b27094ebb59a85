//! The queries of one key head, a stretch at a time, against keys block by block.

use std::ops::Range;

use super::keys::{Block, KeyLines, finite};
use super::{BLOCK, CHUNK};
use crate::backend::cpu::lines::{Lines, Piece};
use crate::backend::cpu::simd::{self, COLUMNS, Gathered, Level, Rows, Score};
use crate::error::Result;
use crate::memory::scratch;
use crate::op::{Attention, Sequence};

/// What the tasks read.
pub(super) struct Inputs<'a> {
    pub op: &'a Attention,
    pub level: Level,
    pub sequences: Vec<Sequence>,
    pub q: Lines<'a>,
    pub k: KeyLines<'a>,
    pub v: KeyLines<'a>,
    pub sinks: Vec<f32>,
    pub slopes: Vec<f32>,
    pub heads: usize,
    /// Query heads that share a key head.
    pub group: usize,
    pub d: usize,
    pub d_v: usize,
}

/// Queries that share a key head, and chunks of keys.
pub(super) struct Task {
    pub sequence: usize,
    pub kv_head: usize,
    /// Queries, counted within the sequence.
    pub queries: Range<usize>,
    pub chunks: Range<usize>,
    pub result: Result<State>,
}

/// What rows of queries, ordered by query and then by head, have gathered.
pub(super) struct State {
    pub gathered: Vec<Gathered>,
    /// `Σ e^(s − max) · v` of each row, [`State::stride`] apart.
    pub values: Vec<f32>,
    pub stride: usize,
}

impl State {
    pub(super) fn empty(rows: usize, d_v: usize) -> Result<Self> {
        let stride = d_v.next_multiple_of(COLUMNS);
        let values = scratch(rows.saturating_mul(stride), 0.0)?;
        Ok(State { gathered: scratch(rows, Gathered::NONE)?, values, stride })
    }

    fn clear(&mut self) {
        self.gathered.fill(Gathered::NONE);
        self.values.fill(0.0);
    }

    /// Joins what was gathered of later keys.
    pub(super) fn join(&mut self, level: Level, later: &State) {
        if self.stride == 0 {
            for (so_far, later) in self.gathered.iter_mut().zip(&later.gathered) {
                simd::join_values(level, so_far, &mut [], *later, &[]);
            }
            return;
        }
        let rows = self.gathered.iter_mut().zip(self.values.chunks_mut(self.stride));
        let later_rows = later.gathered.iter().zip(later.values.chunks(self.stride));
        for ((so_far, values), (later, later_values)) in rows.zip(later_rows) {
            simd::join_values(level, so_far, values, *later, later_values);
        }
    }

    /// Divides by the sums, after which the rows are the result.
    pub(super) fn finish(&mut self, level: Level) {
        if self.stride == 0 {
            return;
        }
        for (gathered, values) in self.gathered.iter().zip(self.values.chunks_mut(self.stride)) {
            if gathered.sum != 0.0 {
                simd::divide(level, values, gathered.sum);
            }
        }
    }
}

impl Inputs<'_> {
    /// The keys that some queries see, from the first to the last of them.
    pub(super) fn seen(&self, sequence: &Sequence, queries: &Range<usize>) -> Range<usize> {
        let seen = queries.clone().map(|i| self.seen_by(sequence, i)).filter(|r| !r.is_empty());
        seen.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
    }

    fn seen_by(&self, sequence: &Sequence, query: usize) -> Range<usize> {
        self.op.mask.keys(sequence.position(query), sequence.kv_len)
    }

    /// What rows start from: their sinks.
    pub(super) fn start(&self, kv_head: usize, queries: usize) -> Result<State> {
        let mut state = State::empty(queries * self.group, self.d_v)?;
        if !self.sinks.is_empty() {
            for (row, gathered) in state.gathered.iter_mut().enumerate() {
                let sink = self.sinks[kv_head * self.group + row % self.group];
                // The sum is that of `e^(sink − max)`: 1, but 0 for −inf, which is none, and NaN
                // for +inf and NaN.
                let sum = match sink {
                    f32::NEG_INFINITY => 0.0,
                    sink if sink.is_finite() => 1.0,
                    _ => f32::NAN,
                };
                *gathered = Gathered { max: if sink.is_nan() { 0.0 } else { sink }, sum };
            }
        }
        Ok(state)
    }

    /// Gathers the task's chunks of keys into `state`, in order.
    pub(super) fn run(&self, task: &Task, mut state: State) -> Result<State> {
        let sequence = &self.sequences[task.sequence];
        let rows = task.queries.len() * self.group;
        let mut queries = scratch(rows * self.d, 0.0)?;
        if self.d > 0 {
            for (row, query) in queries.chunks_mut(self.d).enumerate() {
                let place = sequence.queries.start + task.queries.start + row / self.group;
                let head = task.kv_head * self.group + row % self.group;
                let line = place * self.heads + head;
                self.q.read(&Piece { line, cols: 0..self.d }, query)?;
            }
        }
        let mut work = Work {
            queries,
            scores: scratch(rows * BLOCK, 0.0)?,
            block: Block::new(self.d, self.d_v)?,
            chunk: State::empty(rows, self.d_v)?,
        };
        let seen = self.seen(sequence, &task.queries);
        for chunk in task.chunks.clone() {
            let keys = (chunk * CHUNK).max(seen.start)..((chunk + 1) * CHUNK).min(seen.end);
            if keys.is_empty() {
                continue;
            }
            work.chunk.clear();
            // Blocks lie at the same keys for every query.
            for start in (keys.start / BLOCK * BLOCK..keys.end).step_by(BLOCK) {
                let block = start..(start + BLOCK).min(sequence.kv_len);
                self.block(task, sequence, block, &mut work)?;
            }
            state.join(self.level, &work.chunk);
        }
        Ok(state)
    }

    /// One block of keys.
    fn block(
        &self,
        task: &Task,
        sequence: &Sequence,
        keys: Range<usize>,
        work: &mut Work,
    ) -> Result<()> {
        let (level, d, group) = (self.level, self.d, self.group);
        let within = |query: usize| {
            let seen = self.seen_by(sequence, query);
            let start = seen.start.clamp(keys.start, keys.end) - keys.start;
            start..(seen.end.clamp(keys.start, keys.end) - keys.start).max(start)
        };
        // Positions grow, and so do both ends of what is seen: those that see the block are
        // neighbours.
        let mut seeing = task.queries.clone().filter(|&query| !within(query).is_empty());
        let Some(first) = seeing.next() else { return Ok(()) };
        let queries = first..seeing.next_back().unwrap_or(first) + 1;
        let row = |query: usize| (query - task.queries.start) * group;
        let (start, end) = (row(queries.start), row(queries.end));

        // Rows that fit a tile or two: keys and values are read once, at the memory's pace.
        const FEW: usize = 12;
        let few = end - start <= FEW;
        if few {
            self.v.prefetch(sequence, &keys, task.kv_head);
        }
        let width = keys.len().next_multiple_of(COLUMNS);
        let columns = work.block.keys(level, &self.k, sequence, &keys, task.kv_head)?;
        let data = &work.queries[start * d..end * d];
        let scores = &mut work.scores[start * BLOCK..end * BLOCK];
        let rows = Rows { data, stride: d, len: end - start };
        simd::products(level, rows, columns, width, scores, BLOCK, false);

        let stride = work.chunk.stride;
        let scale = self.op.score_scale() as f32;
        for (i, scores) in scores.chunks_mut(BLOCK).enumerate() {
            let (query, row) = (queries.start + i / group, start + i);
            let head = task.kv_head * group + i % group;
            let score = Score {
                scale,
                softcap: self.op.softcap,
                slope: self.slopes.get(head).copied().unwrap_or(0.0),
                distance: (keys.start as i64 - sequence.position(query)) as f32,
            };
            let so_far = &mut work.chunk.gathered[row];
            let factor = simd::online(level, &mut scores[..width], within(query), score, so_far);
            if factor != 1.0 {
                simd::scale(level, &mut work.chunk.values[row * stride..][..stride], factor);
            }
        }

        if few {
            let next = keys.end..(keys.end + BLOCK).min(sequence.kv_len);
            self.k.prefetch(sequence, &next, task.kv_head);
        }
        if self.d_v == 0 {
            return Ok(());
        }
        let values = work.block.values(&self.v, sequence, &keys, task.kv_head, few)?;
        let out = &mut work.chunk.values[start * stride..end * stride];
        let whole = |query: &usize| within(*query).len() == keys.len();
        if queries.clone().all(|query| whole(&query)) || finite(level, values, self.d_v) {
            let weights = Rows { data: &*scores, stride: BLOCK, len: end - start };
            simd::products(level, weights, values, stride, out, stride, true);
            return Ok(());
        }
        // A weight of 0 does not hide an infinity: keys that a query does not see are left out.
        for (i, out) in out.chunks_mut(stride).enumerate() {
            let seen = within(queries.start + i / group);
            if seen.is_empty() {
                continue;
            }
            let weights = Rows { data: &scores[i * BLOCK + seen.start..], stride: 0, len: 1 };
            let data = &values.data[seen.start * values.stride..];
            let values = Rows { data, stride: values.stride, len: seen.len() };
            simd::products(level, weights, values, stride, out, stride, true);
        }
        Ok(())
    }
}

/// Memory that a task reuses from block to block.
struct Work {
    queries: Vec<f32>,
    scores: Vec<f32>,
    block: Block,
    chunk: State,
}
