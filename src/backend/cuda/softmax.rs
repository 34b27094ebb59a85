//! Softmax of rows: `kernels/softmax.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, require_readable, require_writable};
use super::gpu::Program;
use super::rows::{RowKernel, RowSizes, Rows, Run, other_op};
use crate::caps::Caps;
use crate::error::Result;
use crate::op::{Op, OpKind};
use crate::registry::Unsupported;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    x: Matrix,
    out: Matrix,
    sizes: RowSizes,
    n: i32,
    log: i32,
    scale: f32,
}

/// `cuda.softmax`
pub(super) const SOFTMAX: RowKernel = RowKernel {
    name: "cuda.softmax",
    summary: "a block a row, exponentials and sums in f32",
    op: OpKind::Softmax,
    supports,
    launch,
};

pub(super) fn program() -> Program {
    let source = include_str!("../../../kernels/softmax.cu");
    Program { name: "softmax.cu", source, defines: Vec::new() }
}

fn supports(op: &Op, caps: &Caps) -> Result<(), Unsupported> {
    let Op::Softmax(op) = op else { return Err(Unsupported::because("not a softmax")) };
    require_readable(&op.x)?;
    require_writable(&op.out, caps)
}

fn launch(op: &Op, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let Op::Softmax(op) = op else { return Err(other_op(SOFTMAX.name)) };
    let rows = Rows::of(op.x.dims());
    let args = Args {
        x: run.read("x", Some(&op.x), &rows)?,
        out: run.write("out", Some(&op.out), &rows)?,
        sizes: rows.sizes,
        n: rows.n,
        log: op.log.into(),
        scale: op.scale,
    };
    run.run(&program(), "softmax_rows", rows.count, &args)
}
