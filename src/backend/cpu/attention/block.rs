//! A block of keys of a head, against the rows that see some of it, a band of rows at a time.

use std::ops::Range;

use super::keys::finite;
use super::task::{Inputs, State, Task, Work};
use super::{BLOCK, FEW};
use crate::backend::cpu::simd::{self, COLUMNS, Level, Line, Rows, Score};
use crate::error::Result;
use crate::memory::from_line_start;

/// Rows whose products go through the softmax at once.
const BAND: usize = 24;

/// Keys that a few rows are multiplied with at once: decoded, they stay in the first-level cache,
/// while memory is asked for as many that follow.
const PART: usize = 64;

/// Of the rows of a key head those that go through the softmax together.
struct Band<'a> {
    level: Level,
    /// The queries of all rows, and what these gather.
    queries: Rows<'a>,
    state: &'a mut State,
    rows: Range<usize>,
    /// The keys of the block that the band sees, from a multiple of whole vectors on.
    keys: Range<usize>,
    /// What each of its rows sees of these.
    lines: &'a mut Vec<Line>,
    /// Their products, scores and weights, [`BLOCK`] apart.
    scores: &'a mut [f32],
}

impl Band<'_> {
    /// The keys in parts.
    fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Range { start, end } = self.keys;
        (start..end).step_by(PART).map(move |first| first..(first + PART).min(end))
    }

    /// Multiplies with some of the keys.
    fn score(&mut self, part: &Range<usize>, columns: Rows<'_>) {
        let width = part.len().next_multiple_of(COLUMNS);
        let scores = &mut self.scores[part.start - self.keys.start..];
        let queries = self.queries.part(self.rows.clone());
        simd::products(self.level, queries, columns, width, scores, BLOCK, false);
    }

    /// Turns products with all of the keys to weights.
    fn weigh(&mut self, score: Score) {
        let width = self.keys.len().next_multiple_of(COLUMNS);
        let line = |i: usize| self.lines[i].clone();
        let State { gathered, values, stride } = &mut *self.state;
        let values = (&mut values[self.rows.start * *stride..], *stride);
        let gathered = &mut gathered[self.rows.clone()];
        simd::online(self.level, (self.scores, BLOCK, width), score, line, gathered, values);
    }

    /// Adds the values of some of the keys, which may be known to be `finite`.
    fn add(&mut self, part: &Range<usize>, values: Rows<'_>, finite: impl FnOnce() -> bool) {
        let (level, stride) = (self.level, self.state.stride);
        let out = &mut self.state.values[self.rows.start * stride..self.rows.end * stride];
        let (first, end) = (part.start - self.keys.start, part.end - self.keys.start);
        let seen = |line: &Line| {
            line.seen.start.clamp(first, end) - first..line.seen.end.clamp(first, end) - first
        };
        if self.lines.iter().all(|line| seen(line) == (0..values.len)) || finite() {
            let weights = Rows { data: &self.scores[first..], stride: BLOCK, len: self.rows.len() };
            return simd::products(level, weights, values, stride, out, stride, true);
        }
        // A weight of 0 does not hide an infinity: keys that a query does not see are left out.
        let rows = self.lines.iter().zip(out.chunks_mut(stride));
        for (i, (line, out)) in rows.enumerate() {
            let seen = seen(line);
            if seen.is_empty() {
                continue;
            }
            let weights = &self.scores[i * BLOCK + first + seen.start..];
            let weights = Rows { data: weights, stride: 0, len: 1 };
            simd::products(level, weights, values.part(seen), stride, out, stride, true);
        }
    }
}

impl Inputs<'_> {
    /// One block of keys of a head.
    pub(super) fn block(
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

        let rows = task.queries.len() * group;
        let queries_of_head = &all_queries[(kv_head - task.kv_heads.start) * rows * d..];
        let mut band = Band {
            level,
            queries: Rows { data: queries_of_head, stride: d, len: rows },
            state: gathered,
            rows: 0..0,
            keys: 0..0,
            lines,
            scores: from_line_start(scores, BAND.max(group) * BLOCK)?,
        };
        let start = |band: &mut Band<'_>, queries: Range<usize>| {
            let row = |query: usize| (query - task.queries.start) * group;
            band.rows = row(queries.start)..row(queries.end);
            let start = queries.clone().map(|query| within(query).start).min().unwrap_or(0);
            let start = start / COLUMNS * COLUMNS;
            let end = queries.clone().map(|query| within(query).end).max().unwrap_or(0).max(start);
            band.keys = start..end;
            band.lines.clear();
            for query in queries {
                let seen = within(query);
                let seen = seen.start.max(start) - start..seen.end.max(start) - start;
                let first = (keys.start + start) as i64;
                let distance = (first - sequence.position(query)) as f32;
                for head in kv_head * group..(kv_head + 1) * group {
                    let slope = self.slopes.get(head).copied().unwrap_or(0.0);
                    band.lines.push(Line { seen: seen.clone(), slope, distance });
                }
            }
        };
        let score = Score { scale: self.op.score_scale() as f32, softcap: self.op.softcap };
        let few = queries.len() * group <= FEW;
        let ahead = if few { PART } else { 0 };
        let k = self.k.of(sequence, kv_head, keys.clone(), ahead);
        let v = self.v.of(sequence, kv_head, keys.clone(), ahead);
        if few {
            start(&mut band, queries);
            for part in band.parts() {
                band.score(&part, columns.decode(level, &k, &part)?);
            }
            band.weigh(score);
            for part in band.parts().filter(|_| self.d_v > 0) {
                let values = values.decode(level, &v, &part)?;
                band.add(&part, values, || finite(level, values, self.d_v));
            }
            return Ok(());
        }
        let columns = columns.decode(level, &k, &(0..keys.len()))?;
        let values = values.decode(level, &v, &(0..keys.len()))?;
        let mut finite_values = None;
        // A few tiles of rows at a time: their scores stay in the first-level cache.
        let step = (BAND / group).max(1);
        for first in queries.clone().step_by(step) {
            start(&mut band, first..(first + step).min(queries.end));
            let seen = band.keys.clone();
            let columns =
                Rows { data: columns.data.get(seen.start..).unwrap_or_default(), ..columns };
            band.score(&seen, columns);
            band.weigh(score);
            if self.d_v > 0 {
                let mut finite =
                    || *finite_values.get_or_insert_with(|| finite(level, values, self.d_v));
                band.add(&seen, values.part(seen.clone()), &mut finite);
            }
        }
        Ok(())
    }
}
