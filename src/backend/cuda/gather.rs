//! Rows, or other slices, picked by index: `kernels/gather.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, require_readable, require_writable};
use super::gpu::Program;
use super::rows::{RowKernel, RowSizes, Rows, Run, other_op};
use super::source::{Scales, Source};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::Access;
use crate::op::{Dense, Dims, Gather, MAX_RANK, Op, OpKind, Operand};
use crate::registry::Unsupported;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    table: Matrix,
    indices: Matrix,
    out: Matrix,
    scales: Scales,
    sizes: RowSizes,
    pieces: i32,
    n: i32,
    size: i32,
    bytes: i32,
    in_row: i32,
    step: i64,
    after: i64,
    picks: i64,
    wrong: u64,
}

/// `cuda.gather`
pub(super) const GATHER: RowKernel = RowKernel {
    name: "cuda.gather",
    summary: "a block a piece of a row, eight elements a thread, decoded where they are picked",
    op: OpKind::Gather,
    supports,
    launch,
};

pub(super) fn program() -> Program {
    let source = include_str!("../../../kernels/gather.cu");
    Program { name: "gather.cu", source, defines: Vec::new() }
}

fn supports(op: &Op, caps: &Caps) -> Result<(), Unsupported> {
    let Op::Gather(op) = op else { return Err(Unsupported::because("not a gather")) };
    if op.out.dims().contains(&0) && !op.indices.dims().contains(&0) {
        return Err(Unsupported::because("has nothing to pick, but indices to check"));
    }
    match &op.table {
        Operand::Dense(table) if op.out.dtype() == Some(table.dtype) => return Ok(()),
        Operand::Dense(_) => require_readable(&op.table)?,
        Operand::Scaled(table) if table.transposed || table.dims.len() != 2 || op.axis != 0 => {
            let reason = "of blocks picks rows of matrices as stored, not along";
            return Err(Unsupported(format!("{reason} {} of {}", op.axis, op.table)));
        }
        Operand::Scaled(_) => {}
    }
    require_writable(&op.out, caps)
}

fn launch(op: &Op, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let Op::Gather(op) = op else { return Err(other_op(GATHER.name)) };
    let rows = Rows::of(op.out.dims());
    let size = op.table.dims()[op.axis];
    let asked = op.clone();
    let wrong = run.call.watch(move |word| asked.astray(!word as usize))?;
    let (after, picks) = (op.table.dims().len() - op.axis - 1, op.indices.dims().len());
    let (entry, table, step, bytes) = match &op.table {
        Operand::Dense(table) => {
            let view = seen_from_out(op, table, |axis| match axis {
                Axis::Before(i) => Some(i),
                Axis::Pick(_) => None,
                Axis::After(i) => Some(op.axis + 1 + i),
            })?;
            let step = (table.strides[op.axis] * table.dtype.size()) as i64;
            let same = op.out.dtype() == Some(table.dtype);
            let bytes = if same { table.dtype.size() as i32 } else { 0 };
            let matrix = run.read("table", Some(&view), &rows)?.moved(step);
            ("gather", Source::plain(matrix), step, bytes)
        }
        Operand::Scaled(_) => {
            let source = Source::bind(run.call, "table", &op.table, &op.table.dims())?;
            ("gather_blocks", source, 0, 0)
        }
    };
    let indices = op.indices.as_dense();
    let indices = indices.ok_or_else(|| Error::kernel(GATHER.name, "indices are no integers"))?;
    let indices = seen_from_out(op, indices, |axis| match axis {
        Axis::Pick(i) => Some(i),
        Axis::Before(_) | Axis::After(_) => None,
    })?;
    let args = Args {
        table: table.matrix,
        indices: run.indices("indices", &indices, Access::Read, &rows)?,
        out: run.write("out", Some(&op.out), &rows)?,
        scales: table.scales,
        sizes: rows.sizes,
        pieces: rows.pieces,
        n: rows.n,
        size: size as i32,
        bytes,
        in_row: (after == 0 && picks > 0).into(),
        step,
        after: op.table.dims()[op.axis + 1..].iter().product::<usize>() as i64,
        picks: op.indices.dims().iter().product::<usize>() as i64,
        wrong,
    };
    run.run(&program(), entry, rows.blocks(), &args)
}

/// Where a dimension of the output comes from.
enum Axis {
    /// A dimension of the table before those that are picked from.
    Before(usize),
    /// A dimension of the indices.
    Pick(usize),
    /// A dimension of the table, counted from behind the one that is picked from.
    After(usize),
}

/// An input in the output's sizes, with the stride of the dimension that `from` names, or 0.
fn seen_from_out(
    op: &Gather,
    input: &Dense,
    from: impl Fn(Axis) -> Option<usize>,
) -> Result<Operand> {
    let (dims, picks) = (op.out.dims(), op.indices.dims().len());
    let mut strides = [0; MAX_RANK];
    for (axis, stride) in strides[..dims.len()].iter_mut().enumerate() {
        let axis = match axis.checked_sub(op.axis) {
            None => Axis::Before(axis),
            Some(i) if i < picks => Axis::Pick(i),
            Some(i) => Axis::After(i - picks),
        };
        *stride = from(axis).map_or(0, |own| input.strides[own]);
    }
    let strides = Dims::new(&strides[..dims.len()])?;
    Ok(Dense { dims, strides, ..input.clone() }.into())
}
