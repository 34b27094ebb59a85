//! Norms of rows: `kernels/norm.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, require_readable, require_writable};
use super::gpu::Program;
use super::rows::{RowKernel, RowSizes, Rows};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::op::{Norm, NormKind, Op, OpKind, Operand};
use crate::registry::Unsupported;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    x: Matrix,
    residual: Matrix,
    weight: Matrix,
    bias: Matrix,
    sum: Matrix,
    out: Matrix,
    sizes: RowSizes,
    n: i32,
    layer: i32,
    eps: f32,
    weight_offset: f32,
    reserved: i32,
}

/// `cuda.norm`
pub(super) const NORM: RowKernel = RowKernel {
    name: "cuda.norm",
    summary: "a block a row, sums in f32",
    op: OpKind::Norm,
    entry: "norm_rows",
    program,
    rows: |op| match op {
        Op::Norm(op) => Some(&op.x),
        _ => None,
    },
    supports,
    bind,
};

pub(super) fn program() -> Program {
    let source = include_str!("../../../kernels/norm.cu");
    Program { name: "norm.cu", source, defines: Vec::new() }
}

fn supports(op: &Op, caps: &Caps) -> Result<(), Unsupported> {
    let Op::Norm(op) = op else { return Err(Unsupported::because("not a norm")) };
    let added = [op.residual.as_ref(), op.weight.as_ref(), op.bias.as_ref()];
    added.into_iter().flatten().chain([&op.x]).try_for_each(require_readable)?;
    op.sum.iter().chain([&op.out]).try_for_each(|operand| require_writable(operand, caps))
}

fn bind(op: &Op, rows: &mut Rows<'_, '_, '_>) -> Result<Vec<u8>> {
    let Op::Norm(op) = op else { return Err(Error::kernel(NORM.name, "not a norm")) };
    Ok(bytemuck::bytes_of(&args(op, rows)?).to_vec())
}

fn args(op: &Norm, rows: &mut Rows<'_, '_, '_>) -> Result<Args> {
    let mut read = |arg, operand: Option<&Operand>| rows.read(arg, operand);
    Ok(Args {
        x: read("x", Some(&op.x))?,
        residual: read("residual", op.residual.as_ref())?,
        weight: read("weight", op.weight.as_ref())?,
        bias: read("bias", op.bias.as_ref())?,
        sum: rows.write("sum", op.sum.as_ref())?,
        out: rows.write("out", Some(&op.out))?,
        sizes: rows.sizes,
        n: rows.n,
        layer: (op.kind == NormKind::Layer).into(),
        eps: op.eps,
        weight_offset: op.weight_offset,
        reserved: 0,
    })
}
