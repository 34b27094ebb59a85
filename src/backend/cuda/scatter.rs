//! Rows, or other slices, put where indices say: `kernels/scatter.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::Matrix;
use super::gpu::Program;
use super::rows::{EIGHT, RowKernel, RowSizes, Rows, Run, THREADS, other_op};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::Access;
use crate::op::{Dense, Op, OpKind};
use crate::registry::Unsupported;

/// Bytes of `Entry`.
const ENTRY_BYTES: usize = 8;

/// Slices that have no table, but are compared with each other: two by each thread of a block.
const FEW: usize = 2 * THREADS as usize;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    src: Matrix,
    out: Matrix,
    indices: Matrix,
    sizes: RowSizes,
    pieces: i32,
    n: i32,
    size: i32,
    slices: i32,
    rows: i32,
    bytes: i32,
    reserved: i32,
    step: i64,
    wrong: u64,
    table: u64,
    table_bits: i32,
    reserved_too: i32,
}

/// `cuda.scatter`
pub(super) const SCATTER: RowKernel = RowKernel {
    name: "cuda.scatter",
    summary: "a block a piece of a row, eight elements a thread, moved as they are",
    op: OpKind::Scatter,
    supports,
    launch,
};

pub(super) fn program() -> Program {
    let source = include_str!("../../../kernels/scatter.cu");
    Program { name: "scatter.cu", source, defines: Vec::new() }
}

fn supports(op: &Op, _caps: &Caps) -> Result<(), Unsupported> {
    let Op::Scatter(op) = op else { return Err(Unsupported::because("not a scatter")) };
    let dims = op.src.dims();
    if dims.contains(&0) && dims.get(op.axis) != Some(&0) {
        return Err(Unsupported::because("has nothing to move, but indices to check"));
    }
    Ok(())
}

fn launch(op: &Op, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let Op::Scatter(op) = op else { return Err(other_op(SCATTER.name)) };
    let missing = || Error::kernel(SCATTER.name, "an operand has no plain elements");
    let out = op.out.as_dense().ok_or_else(missing)?;
    let (dims, size) = (op.src.dims(), out.dims[op.axis]);
    if dims.contains(&0) {
        return Ok(());
    }
    let rows = Rows::of(dims);
    // Without elements there is nowhere to go; every index is astray.
    let mut seen = Dense { dims, ..out.clone() };
    seen.strides[op.axis] = 0;
    let bytes = out.dtype.size();
    let step = (out.strides[op.axis] * bytes) as i64;
    let wrong = run.call.watch(move |word| {
        let problem = format!("element {} is not an index below {size}", !word);
        Error::value("scatter", "indices", problem)
    })?;
    let last = dims.len() - 1;
    let between: usize = dims[..last].iter().skip(op.axis + 1).product();
    let (slices, along_rows) = (dims[op.axis], op.axis == last);
    // Where indices run along rows, a thread looks for eight of them by itself.
    let few = if along_rows { FEW / EIGHT } else { FEW };
    let table_bits = (2 * slices).next_power_of_two().ilog2();
    let table = match slices > few {
        true => run.call.zeros(ENTRY_BYTES << table_bits, "indices and their last slices")?,
        false => 0,
    };
    let args = Args {
        src: run.read("src", Some(&op.src), &rows)?,
        out: run.write("out", Some(&seen.into()), &rows)?.moved(step),
        indices: {
            let dims = op.indices.dims();
            Matrix::bind_indices(run.call, "indices", &op.indices, Access::Read, &dims)?
        },
        sizes: rows.sizes,
        pieces: rows.pieces,
        n: rows.n,
        size: size as i32,
        slices: slices as i32,
        rows: if along_rows { 0 } else { between as i32 },
        bytes: bytes as i32,
        reserved: 0,
        step,
        wrong,
        table,
        table_bits: table_bits as i32,
        reserved_too: 0,
    };
    if table != 0 {
        run.run(&program(), "scatter_table", slices.div_ceil(THREADS as usize), &args)?;
    }
    run.run(&program(), "scatter", rows.blocks(), &args)
}
