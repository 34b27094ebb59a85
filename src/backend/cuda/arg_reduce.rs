//! Where the largest or smallest element is: `kernels/arg_reduce.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{code, index_code, require_readable, sizes_fit};
use super::gpu::Program;
use super::rows::{RowKernel, Run, other_op};
use super::views::{Dimensions, bind};
use crate::caps::Caps;
use crate::error::Result;
use crate::memory::Access;
use crate::op::{Op, OpKind};
use crate::registry::Unsupported;

/// Threads of a block: of a vocabulary each has some hundred elements.
const THREADS: u32 = 512;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    x: u64,
    out: u64,
    x_kept: Dimensions,
    out_kept: Dimensions,
    step: i64,
    dtype: i32,
    out_type: i32,
    n: i32,
    largest: i32,
}

/// `cuda.arg_reduce`
pub(super) const ARG_REDUCE: RowKernel = RowKernel {
    name: "cuda.arg_reduce",
    summary: "a block a result, elements and places in one number",
    op: OpKind::ArgReduce,
    supports,
    launch,
};

/// For long and short dimensions.
fn program(threads: u32) -> Program {
    let source = include_str!("../../../kernels/arg_reduce.cu");
    Program { name: "arg_reduce.cu", source, defines: vec![("THREADS", threads)] }
}

/// Every program.
pub(super) fn programs() -> Vec<Program> {
    vec![program(32), program(THREADS)]
}

fn supports(op: &Op, _caps: &Caps) -> Result<(), Unsupported> {
    let Op::ArgReduce(op) = op else { return Err(Unsupported::because("not a search")) };
    require_readable(&op.x)?;
    let all = op.x.dims().numel().map_err(|e| Unsupported(e.to_string()))?;
    sizes_fit(&[all])
}

fn launch(op: &Op, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let Op::ArgReduce(op) = op else { return Err(other_op(ARG_REDUCE.name)) };
    let (x, x_address) = bind(run.call, "x", &op.x, Access::Read)?;
    let (out, out_address) = bind(run.call, "out", &op.out, Access::Write)?;
    let kept = (0..x.dims.len()).filter(|&axis| axis != op.axis);
    let n = x.dims[op.axis];
    let args = Args {
        x: x_address,
        out: out_address,
        x_kept: Dimensions::new(x, kept),
        out_kept: Dimensions::new(out, 0..out.dims.len()),
        step: (x.strides[op.axis] * x.dtype.size()) as i64,
        dtype: code(x.dtype),
        out_type: index_code(out.dtype),
        n: n as i32,
        largest: op.largest.into(),
    };
    let threads = if n > 1024 { THREADS } else { 32 };
    let count = out.dims.numel()?;
    run.run_threads(&program(threads), "arg_reduce", count, [threads, 0], &args)
}
