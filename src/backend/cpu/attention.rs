//! Attention, a stretch of queries of one head at a time.
//!
//! ```text
//! each key head of each sequence: its keys and values are decoded to f32 rows once
//! each task, QUERIES queries of one head:
//!     scores against all keys that any of them sees, as register tiles of dot products
//!     row by row: scale, softcap, bias; softmax over the keys that this query sees; sum of values
//! ```

use super::rows::{RowSource, batch_offsets, row_source, with_small_float};
use super::simd::{self, LANES, Level, Rows};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::{Attention, Op, OpKind, Operand, Sequence};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};

/// Queries that a task scores at once.
const QUERIES: usize = 32;

/// Products below which handing work to other threads costs more than it saves.
const SEQUENTIAL: usize = 1 << 17;

/// `cpu.attention`
pub(super) struct AttentionKernel(KernelInfo);

impl AttentionKernel {
    pub(super) fn new() -> Self {
        let summary = "scores in register tiles, softmax and sums of values in f32";
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
        const PRODUCTS_PER_SECOND: f64 = 5e9;
        Cost { seconds: op.work() / PRODUCTS_PER_SECOND / caps.units as f64 }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Attention(op) => attention(op, launch),
            _ => Err(Error::kernel(&self.0.name, "not attention")),
        }
    }
}

/// Keys and values of one key head of one sequence, rows padded to whole vectors.
struct Head {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// A stretch of queries of one head, and what comes out.
struct Task {
    sequence: usize,
    head: usize,
    /// First query, counted within the sequence.
    first: usize,
    len: usize,
    out: Vec<f32>,
    lse: Vec<f32>,
    failure: Option<Error>,
}

/// What the tasks read.
struct Inputs<'a> {
    op: &'a Attention,
    level: Level,
    sequences: Vec<Sequence>,
    /// `[sequence, key head]`
    heads: Vec<Head>,
    q: Box<dyn RowSource + 'a>,
    sinks: Vec<f32>,
    slopes: Vec<f32>,
    kv_heads: usize,
    group: usize,
    d: usize,
    d_v: usize,
}

fn attention(op: &Attention, launch: &Launch<'_>) -> Result<()> {
    let sizes = op.sizes()?;
    if sizes.heads == 0 || sizes.kv_heads == 0 {
        return Ok(());
    }
    let sequences = op.sequences(|operand| launch.read_indices(operand))?;
    let rows = |operand: &Operand| {
        let dims = operand.dims();
        row_source(launch, operand, false, dims.leading(2))
    };
    let (k, v) = (rows(&op.k)?, rows(&op.v)?);
    let mut heads = Vec::with_capacity(sequences.len() * sizes.kv_heads);
    for sequence in &sequences {
        for head in 0..sizes.kv_heads {
            heads.push(Head {
                keys: decode(k.as_ref(), sequence, head, sizes.d.next_multiple_of(LANES))?,
                values: decode(v.as_ref(), sequence, head, sizes.d_v)?,
            });
        }
    }
    let inputs = Inputs {
        op,
        level: Level::of(&launch.caps.isa),
        heads,
        q: rows(&op.q)?,
        sinks: vector(launch, op.sinks.as_ref())?,
        slopes: vector(launch, op.alibi.as_ref())?,
        kv_heads: sizes.kv_heads,
        group: sizes.heads / sizes.kv_heads,
        d: sizes.d,
        d_v: sizes.d_v,
        sequences,
    };

    let (mut tasks, mut products) = (Vec::new(), 0);
    for (index, sequence) in inputs.sequences.iter().enumerate() {
        let queries = sequence.queries.len();
        products += queries * sequence.kv_len * sizes.heads * (sizes.d + sizes.d_v);
        for head in 0..sizes.heads {
            for first in (0..queries).step_by(QUERIES) {
                let len = QUERIES.min(queries - first);
                let (out, lse) = (vec![0.0; len * sizes.d_v], vec![0.0; len]);
                tasks.push(Task { sequence: index, head, first, len, out, lse, failure: None });
            }
        }
    }
    let run = |_: usize, tasks: &mut [Task]| {
        for task in tasks {
            task.failure = inputs.run(task).err();
        }
    };
    if products < SEQUENTIAL {
        run(0, &mut tasks);
    } else {
        launch.workers.chunks_mut(&mut tasks, 1, run);
    }
    if let Some(error) = tasks.iter_mut().find_map(|task| task.failure.take()) {
        return Err(error);
    }
    let place = |task: &Task| inputs.sequences[task.sequence].queries.start + task.first;
    store(launch, &op.out, &tasks, Some(sizes.d_v), |t| &t.out, place)?;
    if let Some(lse) = &op.lse {
        store(launch, lse, &tasks, None, |t| &t.lse, place)?;
    }
    Ok(())
}

/// The rows of one key head of a sequence, `width` apart.
fn decode(
    rows: &dyn RowSource,
    sequence: &Sequence,
    head: usize,
    width: usize,
) -> Result<Vec<f32>> {
    let mut values = vec![0.0; sequence.kv_len * width];
    if width > 0 {
        for (j, row) in values.chunks_mut(width).enumerate() {
            rows.decode(sequence.key_row(j), head, row)?;
        }
    }
    Ok(values)
}

/// A vector operand in f32; empty where it is left out.
fn vector(launch: &Launch<'_>, operand: Option<&Operand>) -> Result<Vec<f32>> {
    let Some(Operand::Dense(dense)) = operand else { return Ok(Vec::new()) };
    let operand = Operand::Dense(dense.clone());
    with_small_float!(dense.dtype, E => {
        let data = launch.read_dense::<E>(&operand)?;
        Ok((0..dense.dims[0]).map(|i| data[i * dense.strides[0]].to_f32()).collect())
    })
}

impl Inputs<'_> {
    fn run(&self, task: &mut Task) -> Result<()> {
        let sequence = &self.sequences[task.sequence];
        let head = &self.heads[task.sequence * self.kv_heads + task.head / self.group];
        let k = self.d.next_multiple_of(LANES);
        let seen = |i: usize| {
            let position = sequence.position(task.first + i);
            (position, self.op.mask.keys(position, sequence.kv_len))
        };
        // The keys that any query of the stretch sees.
        let start = (0..task.len).map(|i| seen(i).1.start).min().unwrap_or(0);
        let end = (0..task.len).map(|i| seen(i).1.end).max().unwrap_or(0);
        let width = end.saturating_sub(start);

        let mut queries = vec![0.0; task.len * k];
        if self.d > 0 {
            for (i, row) in queries.chunks_mut(k).enumerate() {
                self.q.decode(sequence.queries.start + task.first + i, task.head, row)?;
            }
        }
        let mut scores = vec![0.0; task.len * width];
        if width > 0 && k > 0 {
            let queries = Rows { data: &queries, stride: k, len: task.len };
            let keys = Rows { data: &head.keys[start * k..end * k], stride: k, len: width };
            simd::dots(self.level, queries, keys, k, &mut scores, width);
        }
        for i in 0..task.len {
            let (position, seen) = seen(i);
            let scores = &mut scores[i * width..][..width];
            // A query that sees nothing may have a range outside the stretch's.
            let scores = match seen.is_empty() {
                true => &mut [][..],
                false => &mut scores[seen.start - start..seen.end - start],
            };
            self.bias(scores, task.head, seen.start as i64 - position);
            let sink = self.sinks.get(task.head).copied();
            task.lse[i] = softmax(scores, sink);
            let out = &mut task.out[i * self.d_v..][..self.d_v];
            for (j, &weight) in seen.zip(scores.iter()) {
                let value = &head.values[j * self.d_v..][..self.d_v];
                out.iter_mut().zip(value).for_each(|(o, x)| *o += weight * x);
            }
        }
        Ok(())
    }

    /// Scale, softcap and linear bias of the scores of keys at distance `first`, `first + 1`, ….
    fn bias(&self, scores: &mut [f32], head: usize, first: i64) {
        let scale = self.op.score_scale() as f32;
        scores.iter_mut().for_each(|s| *s *= scale);
        if let Some(cap) = self.op.softcap {
            scores.iter_mut().for_each(|s| *s = cap * (*s / cap).tanh());
        }
        if let Some(&slope) = self.slopes.get(head) {
            for (s, distance) in scores.iter_mut().zip(first..) {
                *s += slope * distance as f32;
            }
        }
    }
}

/// Turns scores into `e^s / Z`, with `Z = e^sink + Σ e^s`, and gives `ln Z`; all 0 and −inf where
/// Z is 0.
fn softmax(scores: &mut [f32], sink: Option<f32>) -> f32 {
    let largest = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
    let shift = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
    let mut sum = sink.map_or(0.0, |s| (s - shift).exp());
    for s in scores.iter_mut() {
        *s = (*s - shift).exp();
        sum += *s;
    }
    if sum != 0.0 {
        scores.iter_mut().for_each(|s| *s /= sum);
    }
    shift + sum.ln()
}

/// Writes what the tasks computed: `width` values for each query and head to `[.., heads, width]`,
/// or one to `[.., heads]`.
fn store(
    launch: &Launch<'_>,
    operand: &Operand,
    tasks: &[Task],
    width: Option<usize>,
    values: impl Fn(&Task) -> &Vec<f32>,
    place: impl Fn(&Task) -> usize,
) -> Result<()> {
    let Operand::Dense(dense) = operand else {
        return Err(Error::kernel("cpu.attention", format!("{operand} is not plain elements")));
    };
    with_small_float!(dense.dtype, E => {
        let out = launch.write_dense::<E>(operand)?;
        let inner = usize::from(width.is_some());
        let leading = dense.dims.leading(1 + inner);
        let rows = batch_offsets(leading, dense.strides.leading(1 + inner), leading);
        let head_stride = dense.strides[leading.len()];
        let stride = if inner == 1 { dense.strides[leading.len() + 1] } else { 0 };
        for task in tasks {
            for (i, values) in values(task).chunks(width.unwrap_or(1).max(1)).enumerate() {
                let start = rows[place(task) + i] + task.head * head_stride;
                for (j, x) in values.iter().enumerate() {
                    out[start + j * stride] = E::from_f32(*x);
                }
            }
        }
        Ok(())
    })
}
