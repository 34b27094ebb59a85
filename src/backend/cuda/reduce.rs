//! Sums, extremes and the like: `kernels/reduce.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{code, require_readable, require_writable, sizes_fit};
use super::gpu::Program;
use super::rows::{RowKernel, Run, THREADS, other_op};
use super::views::{Dimensions, bind};
use crate::caps::Caps;
use crate::error::Result;
use crate::memory::Access;
use crate::op::{Dense, Op, OpKind, Reduction};
use crate::registry::Unsupported;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    x: u64,
    out: u64,
    x_kept: Dimensions,
    x_gathered: Dimensions,
    out_kept: Dimensions,
    dtype: i32,
    out_dtype: i32,
    count: i32,
    n: i32,
}

/// `cuda.reduce`
pub(super) const REDUCE: RowKernel = RowKernel {
    name: "cuda.reduce",
    summary: "a block or a thread a result, in f32",
    op: OpKind::Reduce,
    supports,
    launch,
};

fn program(function: Reduction) -> Program {
    let number = match function {
        Reduction::Sum => 0,
        Reduction::Mean => 1,
        Reduction::Prod => 2,
        Reduction::Max => 3,
        Reduction::Min => 4,
        Reduction::AbsMax => 5,
    };
    let source = include_str!("../../../kernels/reduce.cu");
    Program { name: "reduce.cu", source, defines: vec![("FUNCTION", number)] }
}

/// Every program.
pub(super) fn programs() -> Vec<Program> {
    Reduction::ALL.map(program).to_vec()
}

fn supports(op: &Op, caps: &Caps) -> Result<(), Unsupported> {
    let Op::Reduce(op) = op else { return Err(Unsupported::because("not a reduction")) };
    require_readable(&op.x)?;
    require_writable(&op.out, caps)?;
    // There may be results of no elements.
    for operand in [&op.x, &op.out] {
        sizes_fit(&[operand.dims().numel().map_err(|e| Unsupported(e.to_string()))?])?;
    }
    Ok(())
}

fn launch(op: &Op, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let Op::Reduce(op) = op else { return Err(other_op(REDUCE.name)) };
    let (x, x_address) = bind(run.call, "x", &op.x, Access::Read)?;
    let (out, out_address) = bind(run.call, "out", &op.out, Access::Write)?;
    let axes = |gathered: bool| (0..x.dims.len()).filter(move |a| op.axes.contains(a) == gathered);
    let size = |gathered: bool| axes(gathered).map(|axis| x.dims[axis]).product::<usize>();
    let (count, n) = (size(false), size(true));
    let args = Args {
        x: x_address,
        out: out_address,
        x_kept: Dimensions::new(x, axes(false)),
        x_gathered: Dimensions::new(x, axes(true)),
        out_kept: Dimensions::new(out, 0..out.dims.len()),
        dtype: code(x.dtype),
        out_dtype: code(out.dtype),
        count: count as i32,
        n: n as i32,
    };
    let program = program(op.function);
    if gathers_neighbours(x, &op.axes) {
        return run.run(&program, "reduce_block", count, &args);
    }
    run.run(&program, "reduce_thread", count.div_ceil(THREADS as usize), &args)
}

/// Whether elements that lie side by side become one.
fn gathers_neighbours(x: &Dense, axes: &[usize]) -> bool {
    let long = (0..x.dims.len()).filter(|&axis| x.dims[axis] > 1);
    long.min_by_key(|&axis| x.strides[axis]).is_some_and(|axis| axes.contains(&axis))
}
