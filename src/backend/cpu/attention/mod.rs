//! Attention, block by block of keys, with the softmax kept up to date on the way.
//!
//! ```text
//! each task, ROWS queries that share a key head, or a few of all key heads:
//!     each chunk of CHUNK keys, gathered by itself and then joined to the chunks before it:
//!         each block of BLOCK keys: decode them once, keys as columns
//!             each band of rows:
//!                 scores = queries · keys                     rows × BLOCK, a matrix product
//!                 row by row: scale, softcap, bias, mask; e^(s − largest so far)
//!                 values = values · factor + weights · values rows × d_v, a matrix product
//! ```
//!
//! Blocks and chunks lie at fixed keys, and each output is one chain of sums over them, so that a
//! query's result depends neither on other queries nor on threads; where there are few tasks, the
//! chunks of one are tasks of their own.

mod block;
mod keys;
mod task;

use std::cmp::Reverse;
use std::ops::Range;

use super::lines::{Lines, Writing, lines_of, vector, write_lines};

use super::simd::Level;
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::room;
use crate::op::{Attention, Op, OpKind};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};
use keys::KeyLines;
use task::{Inputs, State, Task, Work};

/// Keys that are scored at once: with 64 elements each, keys and values fit a small second-level
/// cache. The more, the rarer values are brought to a larger score.
const BLOCK: usize = 256;

/// Keys that are gathered by themselves: what long contexts are split into for threads.
const CHUNK: usize = 512;

/// Rows of queries that a task scores at once: enough to decode keys rarely, few enough that
/// queries and values stay in the second-level cache.
const ROWS: usize = 768;

/// Rows that fit a tile or two: keys and values are read once, at the memory's pace.
const FEW: usize = 12;

/// Products below which handing work to other threads costs more than it saves.
const SEQUENTIAL: usize = 1 << 17;

/// Tasks for each thread, at least, so that threads end together.
const TASKS: usize = 4;

/// `cpu.attention`
pub(super) struct AttentionKernel(KernelInfo);

impl AttentionKernel {
    pub(super) fn new() -> Self {
        let summary = "blocks of keys, softmax on the way, f32; chunks of 512 keys joined in order";
        AttentionKernel(KernelInfo::new("cpu.attention", OpKind::Attention, summary))
    }
}

impl Kernel for AttentionKernel {
    fn info(&self) -> &KernelInfo {
        &self.0
    }

    fn supports(&self, op: &Op, _caps: &Caps) -> Result<(), Unsupported> {
        let Op::Attention(op) = op else { return Err(Unsupported::because("not attention")) };
        let inputs = [&op.q, &op.k, &op.v].into_iter();
        for operand in inputs.chain(&op.sinks).chain(&op.alibi).chain([&op.out]).chain(&op.lse) {
            if operand.dtype().is_some_and(|dtype| !dtype.fits_f32()) {
                let reason = format!("computes in f32, which does not hold {operand}");
                return Err(Unsupported(reason));
            }
        }
        for operand in [&op.q, &op.out].into_iter().chain(&op.lse) {
            if operand.as_scaled().is_some() {
                return Err(Unsupported(format!("takes blocks as keys and values, not {operand}")));
            }
        }
        Ok(())
    }

    fn cost(&self, op: &Op, caps: &Caps) -> Cost {
        const PRODUCTS_PER_SECOND: f64 = 20e9;
        Cost { seconds: op.work() / PRODUCTS_PER_SECOND / caps.units as f64 }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Attention(op) => attention(op, launch),
            _ => Err(Error::kernel(&self.0.name, "not attention")),
        }
    }
}

fn attention(op: &Attention, launch: &Launch<'_>) -> Result<()> {
    let sizes = op.sizes()?;
    if sizes.heads == 0 || sizes.kv_heads == 0 {
        return Ok(());
    }
    let inputs = Inputs {
        op,
        level: Level::of(&launch.caps.isa),
        sequences: op.sequences(|operand| launch.read_indices(operand))?,
        q: Lines::new(launch, &op.q, &op.q.dims())?,
        k: KeyLines::new(launch, &op.k)?,
        v: KeyLines::new(launch, &op.v)?,
        sinks: vector(launch, op.sinks.as_ref())?,
        slopes: vector(launch, op.alibi.as_ref())?,
        heads: sizes.heads,
        group: sizes.heads / sizes.kv_heads,
        d: sizes.d,
        d_v: sizes.d_v,
    };
    let plan = Plan::new(&inputs, sizes.kv_heads, launch.workers.threads());
    // Tasks that have all of a row write it while it is in a cache.
    let lines = if plan.split { None } else { lines_of(launch, &op.out)? };
    let written = lines.is_some();
    let states = plan.run(&inputs, launch, lines.unwrap_or_default())?;
    store(op, launch, &inputs, &plan, &states, written)
}

/// Queries of one sequence, and where the states of their key heads are among all.
struct Tile {
    sequence: usize,
    queries: Range<usize>,
    first: usize,
}

/// How the work is cut.
struct Plan {
    tiles: Vec<Tile>,
    /// The tile of each row of `q`, and the query's place in it.
    places: Vec<(usize, usize)>,
    kv_heads: usize,
    /// Whether each chunk of keys is a task of its own.
    split: bool,
    /// Key heads of a task.
    heads_each: usize,
    /// Multiply-adds, at most.
    products: usize,
}

impl Plan {
    fn new(inputs: &Inputs<'_>, kv_heads: usize, threads: usize) -> Self {
        let per_tile = (ROWS / inputs.group).max(1);
        let (mut tiles, mut places, mut products, mut longest) = (Vec::new(), Vec::new(), 0, 0);
        let (mut chunks, mut most) = (0, 0);
        for (index, sequence) in inputs.sequences.iter().enumerate() {
            let queries = sequence.queries.len();
            longest = sequence.kv_len.max(longest);
            let work = queries.saturating_mul(sequence.kv_len) * inputs.heads;
            products += work.saturating_mul(inputs.d + inputs.d_v);
            for start in (0..queries).step_by(per_tile) {
                let queries = start..(start + per_tile).min(queries);
                places.extend((0..queries.len()).map(|i| (tiles.len(), i)));
                let first = tiles.len() * kv_heads;
                most = queries.len().max(most);
                chunks += sequence.kv_len.div_ceil(CHUNK);
                tiles.push(Tile { sequence: index, queries, first });
            }
        }
        let split = threads > 1 && longest > CHUNK && tiles.len() * kv_heads < TASKS * threads;
        let pieces = if split { chunks } else { tiles.len() };
        let together = most * inputs.group <= FEW && pieces >= TASKS * threads;
        let heads_each = if together { kv_heads } else { 1 };
        Plan { tiles, places, kv_heads, split, heads_each, products }
    }

    /// What every tile and key head gathers of all its keys.
    ///
    /// Where `lines` of the output are given, it is written as well, and values are left out.
    fn run(
        &self,
        inputs: &Inputs<'_>,
        launch: &Launch<'_>,
        lines: Vec<&mut [f32]>,
    ) -> Result<Vec<State>> {
        let mut tasks = Vec::new();
        for tile in &self.tiles {
            let seen = inputs.seen(&inputs.sequences[tile.sequence], &tile.queries);
            let chunks = seen.start / CHUNK..seen.end.div_ceil(CHUNK).max(1);
            for kv_head in (0..self.kv_heads).step_by(self.heads_each) {
                let task = |chunks: Range<usize>| Task {
                    sequence: tile.sequence,
                    kv_heads: kv_head..kv_head + self.heads_each,
                    queries: tile.queries.clone(),
                    chunks,
                    out: Vec::new(),
                    result: Ok(Vec::new()),
                };
                match self.split {
                    false => tasks.push(task(chunks.clone())),
                    true => tasks.extend(chunks.clone().map(|chunk| task(chunk..chunk + 1))),
                }
            }
        }
        let heads_each = self.heads_each * inputs.group;
        for (line, out) in lines.into_iter().enumerate() {
            let (query, head) = (line / inputs.heads, line % inputs.heads);
            let tile = self.places[query].0 * (inputs.heads / heads_each);
            tasks[tile + head / heads_each].out.push(out);
        }
        // Long ones first, so that threads end together; those of a key head follow each other, for
        // its keys are in a cache then.
        let place = |task: &Task<'_>| (task.sequence, task.queries.start, task.kv_heads.start);
        if !self.split {
            tasks.sort_unstable_by_key(|task| {
                let (sequence, query, head) = place(task);
                (sequence, head, Reverse(query))
            });
        }
        let run = |_: usize, tasks: &mut [Task<'_>]| {
            for task in tasks {
                task.result = Work::lend(|work| inputs.run(task, !self.split, work));
            }
        };
        // Of chunks of a context those that follow each other: what is asked for ahead is for the
        // thread that asks.
        let each = if self.split { tasks.len() / (TASKS * launch.workers.threads()) } else { 1 };
        match self.products < SEQUENTIAL {
            true => run(0, &mut tasks),
            false => launch.workers.chunks_mut(&mut tasks, each, run),
        }
        let mut states: Vec<State> = room(self.tiles.len() * self.kv_heads)?;
        let mut last = None;
        if !self.split {
            tasks.sort_unstable_by_key(place);
        }
        for task in tasks {
            let place = Some(place(&task));
            if !self.split {
                states.extend(task.result?);
                continue;
            }
            if last != place {
                for head in task.kv_heads.clone() {
                    let mut state = State::empty(task.queries.len() * inputs.group, inputs.d_v)?;
                    inputs.start(head, &mut state);
                    states.push(state);
                }
                last = place;
            }
            let first = states.len() - self.heads_each;
            for (state, later) in states[first..].iter_mut().zip(&task.result?) {
                state.join(inputs.level, later);
            }
        }
        Ok(states)
    }
}

/// Writes the results: a line for each query and head where they are not `written`, and of log-sums
/// for each query.
fn store(
    op: &Attention,
    launch: &Launch<'_>,
    inputs: &Inputs<'_>,
    plan: &Plan,
    states: &[State],
    written: bool,
) -> Result<()> {
    let (heads, group) = (inputs.heads, inputs.group);
    let find = |query: usize, head: usize| {
        let (tile, i) = plan.places[query];
        (&states[plan.tiles[tile].first + head / group], i * group + head % group)
    };
    let writing = Writing { cost: 1, ..Writing::default() };
    if !written {
        write_lines(launch, &op.out, writing, |piece, out, _| {
            let (state, row) = find(piece.line / heads, piece.line % heads);
            state.finish(inputs.level, row, out);
            Ok(())
        })?;
    }
    let Some(lse) = &op.lse else { return Ok(()) };
    write_lines(launch, lse, writing, |piece, out, _| {
        for (head, out) in out.iter_mut().enumerate() {
            let (state, row) = find(piece.line, head);
            *out = state.gathered[row].log_sum();
        }
        Ok(())
    })
}
