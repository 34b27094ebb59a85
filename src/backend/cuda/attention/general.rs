//! Attention, one query of one head a block: `kernels/attention.cu`.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::key_runs::{KeyRuns, RunTable};
use super::{Lengths, sequences};
use crate::backend::cuda::args::{Matrix, code, require_readable, require_writable, sizes_fit};
use crate::backend::cuda::driver::Grid;
use crate::backend::cuda::gpu::{Gpu, Program};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::Access;
use crate::num::DType;
use crate::op::{Attention, Op, OpKind, Operand, Sequence};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};

/// Threads of a block, as in the source.
const THREADS: u32 = 128;

/// Lanes of a warp, over which elements are spread.
const LANES: usize = 32;

/// The most elements of a query, key or value: 16 registers each.
const MOST_ELEMENTS: usize = 512;

/// `Query`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Query {
    position: i32,
    kv_len: i32,
    runs: i32,
    reserved: i32,
}

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    q: Matrix,
    k: Matrix,
    v: Matrix,
    sinks: Matrix,
    alibi: Matrix,
    lse: Matrix,
    out: Matrix,
    queries: u64,
    runs: KeyRuns,
    lengths: Lengths,
    ahead: i64,
    window: i64,
    heads: i32,
    group: i32,
    d: i32,
    d_v: i32,
    q_rows: i32,
    scale: f32,
    softcap: f32,
    reserved: i32,
}

/// `cuda.attention`
pub(super) struct AttentionKernel {
    info: KernelInfo,
    gpu: Arc<Gpu>,
}

impl AttentionKernel {
    pub(super) fn new(gpu: Arc<Gpu>) -> Self {
        let summary = "a block for each query and head, softmax online over runs of 32 keys";
        let info = KernelInfo::new("cuda.attention", OpKind::Attention, summary);
        AttentionKernel { info, gpu }
    }

    fn attention(&self, op: &Attention, launch: &Launch<'_>) -> Result<()> {
        let sizes = op.sizes()?;
        let (sequences, lengths) = sequences(op, &sizes, launch)?;
        let (queries, runs) = queries(&sequences, sizes.kv_rows);
        if queries.is_empty() || sizes.heads == 0 {
            return Ok(());
        }
        let mut call = self.gpu.call(&self.info.name, launch);
        let mut read = |arg, operand: Option<&Operand>| {
            let dims = operand.map(Operand::dims).unwrap_or_default();
            Matrix::bind_opt(&mut call, arg, operand, Access::Read, &dims)
        };
        let (q, k, v) = (read("q", Some(&op.q))?, read("k", Some(&op.k))?, read("v", Some(&op.v))?);
        let sinks = read("sinks", op.sinks.as_ref())?;
        let alibi = read("alibi", op.alibi.as_ref())?;
        let mut write = |arg, operand: Option<&Operand>| {
            let dims = operand.map(Operand::dims).unwrap_or_default();
            Matrix::bind_opt(&mut call, arg, operand, Access::Write, &dims)
        };
        let (lse, out) = (write("lse", op.lse.as_ref())?, write("out", Some(&op.out))?);
        // A distance that reaches all; twice of it is still a number.
        let distance = |n: Option<usize>| {
            n.and_then(|n| i64::try_from(n).ok()).unwrap_or(i64::MAX).min(i64::MAX / 2)
        };
        let blocks = queries.len() * sizes.heads;
        sizes_fit(&[blocks]).map_err(|u| Error::kernel(&self.info.name, u.0))?;
        let args = Args {
            q,
            k,
            v,
            sinks,
            alibi,
            lse,
            out,
            queries: call.constants(&queries, "queries")?,
            runs: runs.bind(&mut call)?,
            lengths: match lengths {
                Some(lengths) => Lengths::bind(lengths, &sizes, &mut call)?,
                None => Lengths::default(),
            },
            ahead: distance(op.mask.ahead),
            window: distance(op.mask.window),
            heads: sizes.heads as i32,
            group: (sizes.heads / sizes.kv_heads.max(1)) as i32,
            d: sizes.d as i32,
            d_v: sizes.d_v as i32,
            q_rows: sizes.q_rows.max(1) as i32,
            scale: op.score_scale() as f32,
            softcap: op.softcap.unwrap_or(0.0),
            reserved: 0,
        };
        let types = [&op.k, &op.v].map(|o| o.dtype().map_or(-1, code) as u32);
        let program = program(types, [sizes.d, sizes.d_v]);
        let grid = Grid { blocks: blocks as u32, threads: THREADS, shared_memory: 0 };
        call.run(&program, "attention", grid, bytemuck::bytes_of(&args))?;
        call.finish()
    }
}

/// Where each query stands, and where the keys of its sequence are.
fn queries(sequences: &[Sequence], kv_rows: usize) -> (Vec<Query>, RunTable) {
    let (mut queries, mut runs) = (Vec::new(), RunTable::new(kv_rows));
    for sequence in sequences {
        let first = runs.add(sequence);
        queries.extend((0..sequence.queries.len()).map(|i| Query {
            position: sequence.position(i) as i32,
            kv_len: sequence.kv_len as i32,
            runs: first,
            reserved: 0,
        }));
    }
    (queries, runs)
}

/// The source for types of keys and values, and for elements of keys and values.
fn program(types: [u32; 2], elements: [usize; 2]) -> Program {
    let [d, d_v] = elements.map(|n| n.div_ceil(LANES).next_power_of_two() as u32);
    let source = include_str!("../../../../kernels/attention.cu");
    let defines =
        vec![("K_TYPE", types[0]), ("V_TYPE", types[1]), ("D_REGS", d), ("D_V_REGS", d_v)];
    Program { name: "attention.cu", source, defines }
}

/// Every program.
pub(super) fn programs() -> Vec<Program> {
    let types = [DType::F32, DType::BF16, DType::F16, DType::F8E4M3, DType::F8E5M2];
    let mut programs = Vec::new();
    for pair in types.iter().flat_map(|&k| types.iter().map(move |&v| [k, v])) {
        for elements in [64, 128, 256, MOST_ELEMENTS] {
            programs.push(program(pair.map(|dtype| code(dtype) as u32), [elements; 2]));
        }
    }
    programs
}

impl Kernel for AttentionKernel {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        let Op::Attention(op) = op else { return Err(Unsupported::because("not attention")) };
        if caps.target.arch().is_none() {
            return Err(Unsupported::because("runs on GPUs"));
        }
        let inputs = [Some(&op.q), Some(&op.k), Some(&op.v), op.sinks.as_ref(), op.alibi.as_ref()];
        inputs.into_iter().flatten().try_for_each(require_readable)?;
        for operand in [Some(&op.out), op.lse.as_ref()].into_iter().flatten() {
            require_writable(operand, caps)?;
        }
        let sizes = op.sizes().map_err(|e| Unsupported(e.to_string()))?;
        if sizes.d.max(sizes.d_v) > MOST_ELEMENTS {
            return Err(Unsupported(format!(
                "holds {MOST_ELEMENTS} elements of a query and of a value, not {} and {}",
                sizes.d, sizes.d_v
            )));
        }
        let (q, k) = (op.q.dims(), op.k.dims());
        let rows = |dims: &[usize]| dims.iter().rev().skip(1).product();
        sizes_fit(&[rows(&q), rows(&k)])
    }

    fn cost(&self, op: &Op, caps: &Caps) -> Cost {
        // Products outside of matrix instructions, at half of what a multiprocessor of GB10 does;
        // keys and values are read for each query head.
        const PRODUCTS_PER_SECOND: f64 = 0.15e12;
        const BYTES_PER_SECOND: f64 = 230e9;
        let Op::Attention(attention) = op else { return Cost { seconds: f64::INFINITY } };
        let products = op.work();
        let size = attention.k.dtype().map_or(1, DType::size) as f64;
        let rate = PRODUCTS_PER_SECOND * caps.units as f64;
        Cost::roofline(products, rate, products * size, 4.0 * BYTES_PER_SECOND)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Attention(op) => self.attention(op, launch),
            _ => Err(Error::kernel(&self.info.name, "not attention")),
        }
    }
}
