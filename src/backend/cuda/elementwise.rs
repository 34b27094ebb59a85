//! Functions of elements: `kernels/elementwise.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, activation_code, require_readable, require_writable};
use super::gpu::Program;
use super::quantize::Quantizing;
use super::rows::{RowKernel, RowSizes, Rows, Run, THREADS, in_long_rows, other_op};
use crate::caps::Caps;
use crate::error::Result;
use crate::op::{Activation, Function, Op, OpKind, Operand};
use crate::registry::Unsupported;

/// `Args`, or what it begins with where the result is quantised.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    a: Matrix,
    b: Matrix,
    out: Matrix,
    sizes: RowSizes,
    pieces: i32,
    n: i32,
    scale: f32,
    shift: f32,
    reserved: i32,
}

/// `cuda.elementwise`
pub(super) const ELEMENTWISE: RowKernel = RowKernel {
    name: "cuda.elementwise",
    summary: "a block a piece of a row, eight elements a thread, in f32",
    op: OpKind::Elementwise,
    supports,
    launch,
};

fn program(function: Function, quantizing: Option<Quantizing>) -> Program {
    let activation = match function {
        Function::Activation(f) | Function::Gate(f) => f,
        _ => Activation::Identity,
    };
    let source = include_str!("../../../kernels/elementwise.cu");
    let mut defines =
        vec![("FUNCTION", code(function)), ("ACTIVATION", activation_code(activation) as u32)];
    defines.extend(quantizing.into_iter().flat_map(Quantizing::defines));
    Program { name: "elementwise.cu", source, defines }
}

/// Every program.
pub(super) fn programs() -> Vec<Program> {
    let plain = [
        Function::Neg,
        Function::Abs,
        Function::Exp,
        Function::Ln,
        Function::Sqrt,
        Function::Rsqrt,
        Function::Recip,
        Function::Tanh,
        Function::Sigmoid,
        Function::Add,
        Function::Sub,
        Function::Mul,
        Function::Div,
        Function::Max,
        Function::Min,
        Function::Affine { scale: 1.0, shift: 0.0 },
    ];
    let pointwise = Activation::ALL.into_iter().filter(|f| !f.is_gated());
    let pointwise = pointwise.map(Function::Activation);
    let gates = Activation::ALL.into_iter().filter(|f| f.is_gated()).map(Function::Gate);
    let all = plain.into_iter().chain(pointwise).chain(gates.clone());
    let quantized = gates.flat_map(|gate| Quantizing::all().map(move |q| program(gate, Some(q))));
    all.map(|function| program(function, None)).chain(quantized).collect()
}

fn supports(op: &Op, caps: &Caps) -> Result<(), Unsupported> {
    let Op::Elementwise(op) = op else { return Err(Unsupported::because("not elementwise")) };
    op.b.iter().chain([&op.a]).try_for_each(require_readable)?;
    match &op.out {
        Operand::Dense(_) => require_writable(&op.out, caps),
        Operand::Scaled(to) => Quantizing::new(to, op.quantizer, None).supports(to, caps),
    }
}

fn launch(op: &Op, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let Op::Elementwise(op) = op else { return Err(other_op(ELEMENTWISE.name)) };
    let inputs: Vec<_> = [Some(&op.a), op.b.as_ref()].into_iter().flatten().collect();
    let (out, inputs) = in_long_rows(&op.out, &inputs);
    let rows = Rows::of(out.dims());
    let (a, b) = (run.read("a", inputs.first(), &rows)?, run.read("b", inputs.get(1), &rows)?);
    let (scale, shift) = match op.function {
        Function::Affine { scale, shift } => (scale as f32, shift as f32),
        _ => (1.0, 0.0),
    };
    let args = |out| Args {
        a,
        b,
        out,
        sizes: rows.sizes,
        pieces: rows.pieces,
        n: rows.n,
        scale,
        shift,
        reserved: 0,
    };
    let plain = program(op.function, None);
    let Operand::Scaled(to) = &out else {
        let out = run.write("out", Some(&out), &rows)?;
        return run.run(&plain, "elementwise", rows.blocks(), &args(out));
    };
    let quantizing = Quantizing::new(to, op.quantizer, None);
    let dst = quantizing.bind(run, "out", to)?;
    if matches!(op.function, Function::Gate(_)) {
        let program = program(op.function, Some(quantizing));
        let shape = [rows.blocks(), THREADS as usize];
        quantizing.run(run, &program, "quantize_values", shape, args(Matrix::default()), dst)
    } else {
        // Seldom done: by way of memory.
        let bytes = rows.count.saturating_mul(rows.n as usize) * size_of::<f32>();
        let between = Matrix::f32_rows(run.call.scratch(bytes, "values to quantise")?, &to.dims);
        run.run(&plain, "elementwise", rows.blocks(), &args(between))?;
        quantizing.rows(run, between, dst, &rows)
    }
}

/// The number of a function in the source.
fn code(function: Function) -> u32 {
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
