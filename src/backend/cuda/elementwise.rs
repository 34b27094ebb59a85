//! Functions of elements: `kernels/elementwise.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, activation_code, require_readable, require_writable};
use super::gpu::Program;
use super::rows::{RowKernel, RowSizes, Rows};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::op::{Activation, Function, Op, OpKind};
use crate::registry::Unsupported;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    a: Matrix,
    b: Matrix,
    out: Matrix,
    sizes: RowSizes,
    n: i32,
    function: i32,
    activation: i32,
    scale: f32,
    shift: f32,
}

/// `cuda.elementwise`
pub(super) const ELEMENTWISE: RowKernel = RowKernel {
    name: "cuda.elementwise",
    summary: "a block a row, in f32",
    op: OpKind::Elementwise,
    entry: "elementwise",
    program,
    rows: |op| match op {
        Op::Elementwise(op) => Some(&op.out),
        _ => None,
    },
    supports,
    bind,
};

pub(super) fn program() -> Program {
    let source = include_str!("../../../kernels/elementwise.cu");
    Program { name: "elementwise.cu", source, defines: Vec::new() }
}

fn supports(op: &Op, caps: &Caps) -> Result<(), Unsupported> {
    let Op::Elementwise(op) = op else { return Err(Unsupported::because("not elementwise")) };
    op.b.iter().chain([&op.a]).try_for_each(require_readable)?;
    require_writable(&op.out, caps)
}

fn bind(op: &Op, rows: &mut Rows<'_, '_, '_>) -> Result<Vec<u8>> {
    let Op::Elementwise(op) = op else {
        return Err(Error::kernel(ELEMENTWISE.name, "not elementwise"));
    };
    let (scale, shift) = match op.function {
        Function::Affine { scale, shift } => (scale as f32, shift as f32),
        _ => (1.0, 0.0),
    };
    let activation = match op.function {
        Function::Activation(f) | Function::Gate(f) => f,
        _ => Activation::Identity,
    };
    let args = Args {
        a: rows.read("a", Some(&op.a))?,
        b: rows.read("b", op.b.as_ref())?,
        out: rows.write("out", Some(&op.out))?,
        sizes: rows.sizes,
        n: rows.n,
        function: code(op.function),
        activation: activation_code(activation),
        scale,
        shift,
    };
    Ok(bytemuck::bytes_of(&args).to_vec())
}

/// The number of a function in the source.
fn code(function: Function) -> i32 {
    match function {
        Function::Neg => 0,
        Function::Abs => 1,
        Function::Exp => 2,
        Function::Ln => 3,
        Function::Sqrt => 4,
        Function::Rsqrt => 5,
        Function::Recip => 6,
        Function::Tanh => 7,
        Function::Sigmoid => 8,
        Function::Activation(_) => 9,
        Function::Affine { .. } => 10,
        Function::Add => 11,
        Function::Sub => 12,
        Function::Mul => 13,
        Function::Div => 14,
        Function::Max => 15,
        Function::Min => 16,
        Function::Gate(_) => 17,
    }
}
