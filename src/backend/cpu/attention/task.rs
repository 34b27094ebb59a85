//! The queries of one key head, a stretch at a time, against keys block by block.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Range;

use super::keys::{KeyColumns, KeyLines, ValueRows};
use super::{BLOCK, CHUNK};
use crate::backend::cpu::lines::{Lines, Piece};
use crate::backend::cpu::simd::{self, COLUMNS, Gathered, Level, Line};
use crate::error::Result;
use crate::memory::{resize, scratch};
use crate::op::{Attention, Sequence};

/// Queries that are asked for ahead of the one that is read, or results ahead of the one that is
/// written.
const AHEAD: usize = 8;

/// Most f32 of working memory that a thread keeps between operations.
const KEPT: usize = 1 << 20;

/// What the tasks read.
pub(super) struct Inputs<'a> {
    pub op: &'a Attention,
    pub level: Level,
    pub sequences: Vec<Sequence>,
    pub q: Lines<'a>,
    pub k: KeyLines<'a>,
    pub v: KeyLines<'a>,
    pub sinks: Cow<'a, [f32]>,
    pub slopes: Cow<'a, [f32]>,
    pub heads: usize,
    /// Query heads that share a key head.
    pub group: usize,
    pub d: usize,
    pub d_v: usize,
}

/// Queries, key heads and chunks of keys.
pub(super) struct Task<'a> {
    pub sequence: usize,
    pub kv_heads: Range<usize>,
    /// Queries, counted within the sequence.
    pub queries: Range<usize>,
    pub chunks: Range<usize>,
    /// The lines of the output, by query and head; none where it is written later.
    pub out: Vec<&'a mut [f32]>,
    /// What the queries of each key head have gathered.
    pub result: Result<Vec<State>>,
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

    /// Makes `states` so many for so many rows, with nothing gathered.
    fn all_empty(
        states: &mut Vec<State>,
        len: usize,
        rows: usize,
        d_v: usize,
    ) -> Result<&mut [State]> {
        let stride = d_v.next_multiple_of(COLUMNS);
        states.retain(|state| (state.gathered.len(), state.stride) == (rows, stride));
        states.truncate(len);
        for state in &mut *states {
            state.gathered.fill(Gathered::NONE);
            state.values.fill(0.0);
        }
        while states.len() < len {
            states.push(State::empty(rows, d_v)?);
        }
        Ok(states)
    }

    /// The largest scores and sums alone.
    fn without_values(&self) -> State {
        State { gathered: self.gathered.clone(), values: Vec::new(), stride: 0 }
    }

    fn is_empty(&self) -> bool {
        self.gathered.iter().all(|gathered| gathered.is_empty())
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

    /// The result of a row: what was gathered, divided by the sum.
    pub(super) fn finish(&self, level: Level, row: usize, out: &mut [f32]) {
        let values = &self.values[row * self.stride..][..out.len()];
        match self.gathered[row].sum {
            0.0 => out.copy_from_slice(values),
            sum => simd::divide(level, values, sum, out),
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
    pub(super) fn start(&self, kv_head: usize, state: &mut State) {
        if self.sinks.is_empty() {
            return;
        }
        for (row, gathered) in state.gathered.iter_mut().enumerate() {
            let sink = self.sinks[kv_head * self.group + row % self.group];
            // The sum is that of `e^(sink − max)`: 1, but 0 for −inf, which is none, and NaN
            // for +inf and NaN.
            let sum = match sink {
                f32::NEG_INFINITY => 0.0,
                sink if sink.is_finite() => 1.0,
                _ => f32::NAN,
            };
            *gathered = Gathered::one(if sink.is_nan() { 0.0 } else { sink }, sum);
        }
    }

    /// What each key head of a task gathers of its chunks of keys, from the `start` or from nothing
    /// on; without values where they are written.
    pub(super) fn run(
        &self,
        task: &mut Task<'_>,
        start: bool,
        work: &mut Work,
    ) -> Result<Vec<State>> {
        let rows = task.queries.len() * self.group;
        let mut states = std::mem::take(&mut work.states);
        State::all_empty(&mut states, task.kv_heads.len(), rows, self.d_v)?;
        if start {
            for (head, state) in task.kv_heads.clone().zip(&mut states) {
                self.start(head, state);
            }
        }
        self.gather(task, &mut states, work)?;
        if task.out.is_empty() {
            return Ok(states);
        }
        let heads = states.len() * self.group;
        for at in 0..task.out.len() {
            if let Some(ahead) = task.out.get(at + AHEAD * heads) {
                simd::prefetch::<f32>(ahead);
            }
            let (query, head, out) = (at / heads, at % heads, &mut *task.out[at]);
            let row = query * self.group + head % self.group;
            states[head / self.group].finish(self.level, row, out);
        }
        let gathered = states.iter().map(State::without_values).collect();
        work.states = states;
        Ok(gathered)
    }

    /// Gathers the task's chunks of keys into `states`, one for each key head, in order.
    fn gather(&self, task: &Task<'_>, states: &mut [State], work: &mut Work) -> Result<()> {
        let sequence = &self.sequences[task.sequence];
        let rows = task.queries.len() * self.group;
        self.read_queries(task, &mut work.queries)?;
        work.seen.clear();
        work.seen.extend(task.queries.clone().map(|query| self.seen_by(sequence, query)));
        let mut gathered = std::mem::take(&mut work.gathered);
        let seen = self.seen(sequence, &task.queries);
        for chunk in task.chunks.clone() {
            let keys = (chunk * CHUNK).max(seen.start)..((chunk + 1) * CHUNK).min(seen.end);
            if keys.is_empty() {
                continue;
            }
            // The first chunk need not be joined to nothing.
            let join = !states.iter().all(State::is_empty);
            let of_chunk = match join {
                true => State::all_empty(&mut gathered, states.len(), rows, self.d_v)?,
                false => &mut *states,
            };
            // Blocks lie at the same keys for every query.
            for start in (keys.start / BLOCK * BLOCK..keys.end).step_by(BLOCK) {
                let block = start..(start + BLOCK).min(keys.end);
                // The heads of a key are neighbours in memory.
                for (head, gathered) in task.kv_heads.clone().zip(&mut *of_chunk) {
                    self.block(task, head, block.clone(), work, gathered)?;
                }
            }
            if join {
                for (state, gathered) in states.iter_mut().zip(&gathered) {
                    state.join(self.level, gathered);
                }
            }
        }
        work.gathered = gathered;
        Ok(())
    }

    /// The queries of the task's key heads, one head after the other.
    fn read_queries(&self, task: &Task<'_>, queries: &mut Vec<f32>) -> Result<()> {
        let sequence = &self.sequences[task.sequence];
        let of_query = self.group * self.d;
        let of_head = task.queries.len() * of_query;
        resize(queries, task.kv_heads.len() * of_head, 0.0)?;
        if of_query == 0 {
            return Ok(());
        }
        for (kv_head, queries) in task.kv_heads.clone().zip(queries.chunks_mut(of_head)) {
            let first =
                |query: usize| (sequence.queries.start + query) * self.heads + kv_head * self.group;
            for (query, rows) in task.queries.clone().zip(queries.chunks_mut(of_query)) {
                let ahead = query + AHEAD;
                if ahead < task.queries.end
                    && let Some(rows) = self.q.stored(first(ahead), 1, self.group, self.d)
                {
                    rows.prefetch(0);
                }
                for (i, row) in rows.chunks_mut(self.d).enumerate() {
                    self.q.read(&Piece { line: first(query) + i, cols: 0..self.d }, row)?;
                }
            }
        }
        Ok(())
    }
}

/// Memory that is used again from block to block, from task to task, and from operation to
/// operation: it holds whatever the last one left.
#[derive(Default)]
pub(super) struct Work {
    pub queries: Vec<f32>,
    pub scores: Vec<f32>,
    /// What the rows of a band see of a block.
    pub lines: Vec<Line>,
    pub columns: KeyColumns,
    pub values: ValueRows,
    /// The keys that each query sees.
    pub seen: Vec<Range<usize>>,
    /// What the rows gather, for each key head.
    states: Vec<State>,
    /// What they gather of a chunk.
    gathered: Vec<State>,
}

thread_local! {
    static WORK: Cell<Option<Box<Work>>> = const { Cell::new(None) };
}

impl Work {
    /// Lends the memory that a thread keeps, up to [`KEPT`].
    pub(super) fn lend<T>(f: impl FnOnce(&mut Work) -> Result<T>) -> Result<T> {
        let mut work = WORK.take().unwrap_or_default();
        let result = f(&mut work);
        if work.len() <= KEPT {
            WORK.set(Some(work));
        }
        result
    }

    /// f32 that it holds.
    fn len(&self) -> usize {
        let states = self.states.iter().chain(&self.gathered).map(|state| state.values.len());
        let blocks = self.scores.len() + self.columns.len() + self.values.len();
        self.queries.len() + blocks + states.sum::<usize>()
    }
}
