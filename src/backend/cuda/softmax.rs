//! Softmax of rows: `kernels/softmax.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, require_readable, require_writable};
use super::gpu::Program;
use super::rows::{RowKernel, RowSizes, Rows};
use crate::caps::Caps;
use crate::error::{Error, Result};
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
    entry: "softmax_rows",
    program,
    rows: |op| match op {
        Op::Softmax(op) => Some(&op.x),
        _ => None,
    },
    supports,
    bind,
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

fn bind(op: &Op, rows: &mut Rows<'_, '_, '_>) -> Result<Vec<u8>> {
    let Op::Softmax(op) = op else { return Err(Error::kernel(SOFTMAX.name, "not a softmax")) };
    let args = Args {
        x: rows.read("x", Some(&op.x))?,
        out: rows.write("out", Some(&op.out))?,
        sizes: rows.sizes,
        n: rows.n,
        log: op.log.into(),
        scale: op.scale,
    };
    Ok(bytemuck::bytes_of(&args).to_vec())
}
