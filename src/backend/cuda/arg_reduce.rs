//! Where the largest or smallest element is: `kernels/arg_reduce.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{index_code, require_readable, sizes_fit};
use super::gpu::Program;
use super::rows::{RowKernel, Run, other_op};
use super::shares::{self, DTYPES, Plan, Shares};
use super::views::{Dimensions, bind};
use crate::caps::Caps;
use crate::error::Result;
use crate::memory::Access;
use crate::num::DType;
use crate::op::{Op, OpKind};
use crate::registry::Unsupported;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    shares: Shares,
    out: u64,
    out_kept: Dimensions,
    out_type: i32,
    largest: i32,
}

/// `cuda.arg_reduce`
pub(super) const ARG_REDUCE: RowKernel = RowKernel {
    name: "cuda.arg_reduce",
    summary: "threads share results, blocks parts of long ones, elements and places in one number",
    op: OpKind::ArgReduce,
    supports,
    launch,
};

fn program(dtype: DType) -> Program {
    let source = include_str!("../../../kernels/arg_reduce.cu");
    Program { name: "arg_reduce.cu", source, defines: vec![shares::of_dtype(dtype)] }
}

/// Every program.
pub(super) fn programs() -> Vec<Program> {
    DTYPES.map(program).to_vec()
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
    let mut plan = Plan::new(x, x_address, &[op.axis]);
    plan.bind(run, size_of::<u64>())?;
    let of_out = plan.kept.iter().map(|&axis| axis - usize::from(axis > op.axis));
    let args = Args {
        shares: plan.shares,
        out: out_address,
        out_kept: Dimensions::new(out, of_out),
        out_type: index_code(out.dtype),
        largest: op.largest.into(),
    };
    plan.run(run, &program(x.dtype), "arg_reduce", &args)
}
