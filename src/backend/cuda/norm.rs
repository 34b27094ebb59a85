//! Norms of rows: `kernels/norm.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, require_readable, require_writable};
use super::gpu::Program;
use super::quantize::Quantizing;
use super::rows::{EIGHT, RowKernel, RowSizes, Rows, Run, other_op};
use crate::caps::Caps;
use crate::error::Result;
use crate::op::{NormKind, Op, OpKind, Operand};
use crate::registry::Unsupported;

/// `Args`, or what it begins with where the result is quantised.
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
    summary: "a block a row, which stays in its registers, sums in f32",
    op: OpKind::Norm,
    supports,
    launch,
};

/// A block's threads, and how many times eight elements each holds.
#[derive(Clone, Copy)]
struct Shape {
    threads: u32,
    held: u32,
}

impl Shape {
    /// The shape of a block that quantises what it normalises.
    const QUANTIZING: Shape = Shape { threads: 256, held: 0 };

    /// For rows of `n` elements.
    fn new(n: usize) -> Self {
        let eights = n.div_ceil(EIGHT);
        let threads = eights.next_power_of_two().clamp(32, 1024);
        let held = match eights.div_ceil(threads) {
            held @ 0..=2 => held.max(1),
            _ => 0,
        };
        Shape { threads: threads as u32, held: held as u32 }
    }

    /// Every one for plain outputs.
    fn all() -> impl Iterator<Item = Self> {
        let one = [32, 64, 128, 256, 512, 1024].map(|threads| Shape { threads, held: 1 });
        one.into_iter().chain([0, 2].map(|held| Shape { threads: 1024, held }))
    }
}

fn program(shape: Shape, quantizing: Option<Quantizing>) -> Program {
    let source = include_str!("../../../kernels/norm.cu");
    let mut defines = vec![("THREADS", shape.threads), ("HELD", shape.held)];
    defines.extend(quantizing.into_iter().flat_map(Quantizing::defines));
    Program { name: "norm.cu", source, defines }
}

/// Every program.
pub(super) fn programs() -> Vec<Program> {
    let plain = Shape::all().map(|shape| program(shape, None));
    let quantizing = Quantizing::all().map(|q| program(Shape::QUANTIZING, Some(q)));
    plain.chain(quantizing).collect()
}

fn supports(op: &Op, caps: &Caps) -> Result<(), Unsupported> {
    let Op::Norm(op) = op else { return Err(Unsupported::because("not a norm")) };
    let added = [op.residual.as_ref(), op.weight.as_ref(), op.bias.as_ref()];
    added.into_iter().flatten().chain([&op.x]).try_for_each(require_readable)?;
    op.sum.iter().try_for_each(|operand| require_writable(operand, caps))?;
    match &op.out {
        Operand::Dense(_) => require_writable(&op.out, caps),
        Operand::Scaled(to) => Quantizing::new(to, op.quantizer, None).supports(to, caps),
    }
}

fn launch(op: &Op, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let Op::Norm(op) = op else { return Err(other_op(NORM.name)) };
    let rows = Rows::of(op.x.dims());
    let mut read = |arg, operand: Option<&Operand>| run.read(arg, operand, &rows);
    let args = Args {
        x: read("x", Some(&op.x))?,
        residual: read("residual", op.residual.as_ref())?,
        weight: read("weight", op.weight.as_ref())?,
        bias: read("bias", op.bias.as_ref())?,
        sum: run.write("sum", op.sum.as_ref(), &rows)?,
        out: match &op.out {
            Operand::Dense(_) => run.write("out", Some(&op.out), &rows)?,
            Operand::Scaled(_) => Matrix::default(),
        },
        sizes: rows.sizes,
        n: rows.n,
        layer: (op.kind == NormKind::Layer).into(),
        eps: op.eps,
        weight_offset: op.weight_offset,
        reserved: 0,
    };
    let Operand::Scaled(to) = &op.out else {
        let shape = Shape::new(rows.n as usize);
        let threads = [shape.threads, 0];
        return run.run_threads(&program(shape, None), "norm_rows", rows.count, threads, &args);
    };
    let quantizing = Quantizing::new(to, op.quantizer, None);
    let to = quantizing.bind(run, "out", to)?;
    let program = program(Shape::QUANTIZING, Some(quantizing));
    let shape = [rows.count, Shape::QUANTIZING.threads as usize];
    quantizing.run(run, &program, "quantize_norms", shape, args, to)
}
