//! The largest elements of rows: `kernels/top_k.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, require_readable, require_writable};
use super::gpu::Program;
use super::rows::{RowKernel, RowSizes, Rows, Run, other_op};
use crate::caps::Caps;
use crate::error::Result;
use crate::memory::Access;
use crate::op::{Op, OpKind};
use crate::registry::Unsupported;

/// Threads of a block: one for each value of a digit.
const THREADS: u32 = 256;

/// Elements of a row that are sorted in shared memory.
const MOST: usize = 2048;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    x: Matrix,
    values: Matrix,
    indices: Matrix,
    sizes: RowSizes,
    n: i32,
    k: i32,
    width: i32,
}

/// `cuda.top_k`
pub(super) const TOP_K: RowKernel = RowKernel {
    name: "cuda.top_k",
    summary: "a block a row, the k-th found digit by digit, those above sorted",
    op: OpKind::TopK,
    supports,
    launch,
};

pub(super) fn program() -> Program {
    let source = include_str!("../../../kernels/top_k.cu");
    Program { name: "top_k.cu", source, defines: vec![("THREADS", THREADS)] }
}

fn supports(op: &Op, caps: &Caps) -> Result<(), Unsupported> {
    let Op::TopK(op) = op else { return Err(Unsupported::because("not a search")) };
    require_readable(&op.x)?;
    require_writable(&op.values, caps)?;
    match op.values.dims().last() {
        Some(&k) if k > MOST => {
            Err(Unsupported(format!("sorts up to {MOST} elements of a row, not {k}")))
        }
        _ => Ok(()),
    }
}

fn launch(op: &Op, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let Op::TopK(op) = op else { return Err(other_op(TOP_K.name)) };
    let (rows, picked) = (Rows::of(op.x.dims()), Rows::of(op.values.dims()));
    let width = (picked.n as u32).next_power_of_two();
    let args = Args {
        x: run.read("x", Some(&op.x), &rows)?,
        values: run.write("values", Some(&op.values), &picked)?,
        indices: run.indices("indices", &op.indices, Access::Write, &picked)?,
        sizes: rows.sizes,
        n: rows.n,
        k: picked.n,
        width: width as i32,
    };
    let shared_memory = width * size_of::<u64>() as u32;
    run.run_threads(&program(), "top_k", rows.count, [THREADS, shared_memory], &args)
}
