//! Sums, extremes and the like: `kernels/reduce.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{code, require_readable, require_writable, sizes_fit};
use super::gpu::Program;
use super::rows::{RowKernel, Run, other_op};
use super::shares::{self, DTYPES, Plan, Shares};
use super::views::{Dimensions, bind};
use crate::caps::Caps;
use crate::error::Result;
use crate::memory::Access;
use crate::num::DType;
use crate::op::{Op, OpKind, Reduction};
use crate::registry::Unsupported;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    shares: Shares,
    out: u64,
    out_kept: Dimensions,
    out_dtype: i32,
    reserved: i32,
}

/// `cuda.reduce`
pub(super) const REDUCE: RowKernel = RowKernel {
    name: "cuda.reduce",
    summary: "threads share results, blocks parts of long ones, in f32",
    op: OpKind::Reduce,
    supports,
    launch,
};

fn program(function: Reduction, dtype: DType) -> Program {
    let number = match function {
        Reduction::Sum => 0,
        Reduction::Mean => 1,
        Reduction::Prod => 2,
        Reduction::Max => 3,
        Reduction::Min => 4,
        Reduction::AbsMax => 5,
    };
    let source = include_str!("../../../kernels/reduce.cu");
    let defines = vec![("FUNCTION", number), shares::of_dtype(dtype)];
    Program { name: "reduce.cu", source, defines }
}

/// Every program.
pub(super) fn programs() -> Vec<Program> {
    let of_all = |function| DTYPES.map(|dtype| program(function, dtype));
    Reduction::ALL.into_iter().flat_map(of_all).collect()
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
    let mut plan = Plan::new(x, x_address, &op.axes);
    plan.bind(run, size_of::<f32>())?;
    // Reduced dimensions may have stayed.
    let stayed = out.dims.len() == x.dims.len();
    let before = |axis: usize| (0..axis).filter(|a| !op.axes.contains(a)).count();
    let of_out = plan.kept.iter().map(|&axis| if stayed { axis } else { before(axis) });
    let args = Args {
        shares: plan.shares,
        out: out_address,
        out_kept: Dimensions::new(out, of_out),
        out_dtype: code(out.dtype),
        reserved: 0,
    };
    plan.run(run, &program(op.function, x.dtype), "reduce", &args)
}
