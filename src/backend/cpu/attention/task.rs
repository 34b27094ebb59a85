//! The queries of one key head, a stretch at a time, against keys block by block.

use std::ops::Range;

use super::keys::{KeyColumns, KeyLines, ValueRows, finite};
use super::{BLOCK, CHUNK, FEW};
use crate::backend::cpu::lines::{Lines, Piece};
use crate::backend::cpu::simd::{self, COLUMNS, Gathered, Level, Line, Rows, Score};
use crate::error::Result;
use crate::memory::{resize, room, scratch};
use crate::op::{Attention, Sequence};

/// Rows whose products go through the softmax at once.
const BAND: usize = 24;

/// Queries that are asked for ahead of the one that is read, or results ahead of the one that is
/// written.
const AHEAD: usize = 8;

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
        states.retain(|state| state.gathered.len() == rows);
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
                    rows.prefetch();
                }
                for (i, row) in rows.chunks_mut(self.d).enumerate() {
                    self.q.read(&Piece { line: first(query) + i, cols: 0..self.d }, row)?;
                }
            }
        }
        Ok(())
    }

    /// One block of keys of a head.
    fn block(
        &self,
        task: &Task<'_>,
        kv_head: usize,
        keys: Range<usize>,
        work: &mut Work,
        gathered: &mut State,
    ) -> Result<()> {
        let (level, d, group) = (self.level, self.d, self.group);
        let sequence = &self.sequences[task.sequence];
        let Work { queries: all_queries, scores, lines, columns, values, seen, .. } = work;
        let within = |query: usize| {
            let seen = &seen[query - task.queries.start];
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

        let few = end - start <= FEW;
        let next = keys.end..(keys.end + BLOCK).min(sequence.kv_len);
        if few {
            self.k.prefetch(sequence, &next, kv_head);
            self.v.prefetch(sequence, &next, kv_head);
        }
        let columns = columns.decode(level, &self.k, sequence, &keys, kv_head)?;
        let values = values.decode(level, &self.v, sequence, &keys, kv_head, few)?;
        let stride = gathered.stride;
        let score = Score { scale: self.op.score_scale() as f32, softcap: self.op.softcap };
        let rows_of_head = task.queries.len() * group;
        let queries_of_head = &all_queries[(kv_head - task.kv_heads.start) * rows_of_head * d..];
        let mut finite_values = None;
        // A few tiles of rows at a time: their scores stay in the first-level cache.
        let band = (BAND / group).max(1);
        for first in queries.clone().step_by(band) {
            let band = first..(first + band).min(queries.end);
            // The keys that the band sees, from a multiple of whole vectors on.
            let start = band.clone().map(|query| within(query).start).min().unwrap_or(0);
            let start = start / COLUMNS * COLUMNS;
            let end = band.clone().map(|query| within(query).end).max().unwrap_or(0).max(start);
            let width = (end - start).next_multiple_of(COLUMNS);
            let (from, to) = (row(band.start), row(band.end));
            let scores = &mut scores[..(to - from) * BLOCK];
            let rows = Rows { data: &queries_of_head[from * d..to * d], stride: d, len: to - from };
            let columns = Rows { data: columns.data.get(start..).unwrap_or_default(), ..columns };
            simd::products(level, rows, columns, width, scores, BLOCK, false);
            lines.clear();
            for query in band.clone() {
                let seen = within(query);
                let seen = seen.start.max(start) - start..seen.end.max(start) - start;
                let first = (keys.start + start) as i64;
                let distance = (first - sequence.position(query)) as f32;
                for head in kv_head * group..(kv_head + 1) * group {
                    let slope = self.slopes.get(head).copied().unwrap_or(0.0);
                    lines.push(Line { seen: seen.clone(), slope, distance });
                }
            }
            let line = |i: usize| lines[i].clone();
            let out = &mut gathered.values[from * stride..to * stride];
            let gathered = &mut gathered.gathered[from..to];
            simd::online(level, (scores, BLOCK, width), score, line, gathered, (out, stride));
            if self.d_v == 0 {
                continue;
            }
            let used = values.part(start..end);
            let mut no_infinity =
                || *finite_values.get_or_insert_with(|| finite(level, values, self.d_v));
            if lines.iter().all(|line| line.seen == (0..used.len)) || no_infinity() {
                let weights = Rows { data: scores, stride: BLOCK, len: to - from };
                simd::products(level, weights, used, stride, out, stride, true);
                continue;
            }
            // A weight of 0 does not hide an infinity: keys that a query does not see are left out.
            for (i, out) in out.chunks_mut(stride).enumerate() {
                let seen = lines[i].seen.clone();
                if seen.is_empty() {
                    continue;
                }
                let weights = Rows { data: &scores[i * BLOCK + seen.start..], stride: 0, len: 1 };
                simd::products(level, weights, used.part(seen), stride, out, stride, true);
            }
        }
        Ok(())
    }
}

/// Memory that is used again from block to block, and from task to task.
pub(super) struct Work {
    queries: Vec<f32>,
    scores: Vec<f32>,
    /// What the rows of a band see of a block.
    lines: Vec<Line>,
    columns: KeyColumns,
    values: ValueRows,
    /// The keys that each query sees.
    seen: Vec<Range<usize>>,
    /// What the rows gather, for each key head.
    states: Vec<State>,
    /// What they gather of a chunk.
    gathered: Vec<State>,
}

impl Work {
    pub(super) fn new(inputs: &Inputs<'_>) -> Result<Self> {
        Ok(Work {
            queries: Vec::new(),
            scores: scratch(BAND.max(inputs.group) * BLOCK, 0.0)?,
            lines: room(BAND + inputs.group)?,
            columns: KeyColumns::new(inputs.d)?,
            values: ValueRows::new(inputs.d_v)?,
            seen: Vec::new(),
            states: Vec::new(),
            gathered: Vec::new(),
        })
    }
}
