//! Rotary position embedding: `kernels/rope.cu`.

use std::f64::consts::PI;

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, require_readable, require_writable};
use super::gpu::Program;
use super::rows::{RowKernel, RowSizes, Rows, Run, other_op};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::Access;
use crate::op::{Dense, Dims, Op, OpKind, Operand, Positions, RopeStyle};
use crate::registry::Unsupported;

/// Threads of a block, as in the source.
const THREADS: u32 = 32;

/// Pairs whose frequencies the kernel's parameter has room for.
const MOST_PAIRS: usize = 256;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    x: Matrix,
    out: Matrix,
    positions: Matrix,
    sizes: RowSizes,
    n: i32,
    pairs: i32,
    step: i32,
    apart: i32,
    amplitude: f32,
    start: i64,
    half_turns: [f64; MOST_PAIRS],
}

/// `cuda.rope`
pub(super) const ROPE: RowKernel = RowKernel {
    name: "cuda.rope",
    summary: "a warp a head, angles in f64, rotation in f32",
    op: OpKind::Rope,
    supports,
    launch,
};

pub(super) fn program() -> Program {
    let source = include_str!("../../../kernels/rope.cu");
    Program { name: "rope.cu", source, defines: Vec::new() }
}

fn supports(op: &Op, caps: &Caps) -> Result<(), Unsupported> {
    let Op::Rope(op) = op else { return Err(Unsupported::because("not a rotation")) };
    require_readable(&op.x)?;
    require_writable(&op.out, caps)?;
    let pairs = op.frequencies.per_pair().len();
    if pairs > MOST_PAIRS {
        return Err(Unsupported(format!("rotates {MOST_PAIRS} pairs of a head, not {pairs}")));
    }
    Ok(())
}

fn launch(op: &Op, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let Op::Rope(op) = op else { return Err(other_op(ROPE.name)) };
    let rows = Rows::of(op.x.dims());
    let pairs = op.frequencies.per_pair();
    let mut half_turns = [0.0; MOST_PAIRS];
    for (to, frequency) in half_turns.iter_mut().zip(pairs) {
        *to = frequency / PI;
    }
    let (positions, start) = match &op.positions {
        Positions::From(start) => (Matrix::default(), *start as i64),
        Positions::Given(operand) => {
            let for_heads = for_heads(operand)?;
            (run.indices("positions", &for_heads, Access::Read, &rows)?, 0)
        }
    };
    let (step, apart) = match op.style {
        RopeStyle::HalfSplit => (1, pairs.len() as i32),
        RopeStyle::Interleaved => (2, 1),
    };
    let args = Args {
        x: run.read("x", Some(&op.x), &rows)?,
        out: run.write("out", Some(&op.out), &rows)?,
        positions,
        sizes: rows.sizes,
        n: rows.n,
        pairs: pairs.len() as i32,
        step,
        apart,
        amplitude: op.frequencies.amplitude() as f32,
        start,
        half_turns,
    };
    run.run_threads(&program(), "rope", rows.count, [THREADS, 0], &args)
}

/// Positions `[.., seq]` as `[.., seq, 1, 1]`, the same for every element of every head.
fn for_heads(positions: &Operand) -> Result<Operand> {
    let dense = positions.as_dense();
    let dense = dense.ok_or_else(|| Error::kernel(ROPE.name, "positions are no integers"))?;
    let with = |values: &Dims, one: usize| Dims::new(&[&values[..], &[one, one]].concat());
    let (dims, strides) = (with(&dense.dims, 1)?, with(&dense.strides, 0)?);
    Ok(Dense { dims, strides, ..dense.clone() }.into())
}
