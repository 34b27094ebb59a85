//! Copies, casts and blocks decoded: `kernels/convert.cu`.

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, require_readable, require_writable};
use super::gpu::Program;
use super::rows::{RowKernel, RowSizes, Rows, Run, THREADS, in_long_rows, other_op};
use super::source::{Scales, Source};
use crate::caps::Caps;
use crate::error::Result;
use crate::op::{Dense, Dims, Op, OpKind, Operand, Scaled};
use crate::registry::Unsupported;

/// Elements of a tile each way, as in the source.
const TILE: usize = 32;

/// Dimensions as short as this are not worth a tile.
const SHORT: usize = 8;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    src: Matrix,
    dst: Matrix,
    scales: Scales,
    sizes: RowSizes,
    pieces: i32,
    n: i32,
    bytes: i32,
    rows: i32,
    reserved: i32,
    of_matrix: i64,
}

/// `cuda.convert`
pub(super) const CONVERT: RowKernel = RowKernel {
    name: "cuda.convert",
    summary: "eight elements a thread; transposed through shared memory",
    op: OpKind::Convert,
    supports,
    launch,
};

pub(super) fn program() -> Program {
    let source = include_str!("../../../kernels/convert.cu");
    Program { name: "convert.cu", source, defines: Vec::new() }
}

fn supports(op: &Op, caps: &Caps) -> Result<(), Unsupported> {
    let Op::Convert(op) = op else { return Err(Unsupported::because("not a conversion")) };
    match &op.src {
        Operand::Dense(src) if op.dst.dtype() == Some(src.dtype) => return Ok(()),
        Operand::Dense(_) => require_readable(&op.src)?,
        Operand::Scaled(_) => {}
    }
    require_writable(&op.dst, caps)
}

fn launch(op: &Op, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let Op::Convert(op) = op else { return Err(other_op(CONVERT.name)) };
    match (&op.src, &op.dst) {
        (Operand::Dense(_), Operand::Dense(_)) => convert(&op.src, &op.dst, run),
        (Operand::Scaled(src), Operand::Dense(dst)) => dequantize(src, dst, run),
        _ => Err(other_op(CONVERT.name)),
    }
}

fn convert(src: &Operand, dst: &Operand, run: &mut Run<'_, '_, '_>) -> Result<()> {
    let (dst, src) = in_long_rows(dst, &[src]);
    let (Operand::Dense(dst), Some(Operand::Dense(src))) = (dst, src.into_iter().next()) else {
        return Err(other_op(CONVERT.name));
    };
    let (order, turned) = order(&src, &dst);
    let (src, dst) = (ordered(&src, &order)?, ordered(&dst, &order)?);
    let bytes = if src.dtype == dst.dtype { src.dtype.size() as i32 } else { 0 };
    let (src, dst) = (Operand::from(src), Operand::from(dst));
    let rows = Rows::of(dst.dims());
    let mut args = Args {
        src: run.read("src", Some(&src), &rows)?,
        dst: run.write("dst", Some(&dst), &rows)?,
        scales: Scales::NONE,
        sizes: rows.sizes,
        pieces: rows.pieces,
        n: rows.n,
        bytes,
        rows: 1,
        reserved: 0,
        of_matrix: 0,
    };
    if !turned {
        return run.run(&program(), "convert", rows.blocks(), &args);
    }
    let dims = dst.dims();
    let [across, down] = [1, 2].map(|from_end| dims[dims.len() - from_end].div_ceil(TILE));
    args.pieces = across as i32;
    let matrices = rows.count / dims[dims.len() - 2];
    run.run(&program(), "turn", matrices * across * down, &args)
}

/// The order of dimensions that makes neighbours of `dst` neighbours in rows, and whether those of
/// `src` are neighbours in columns then.
fn order(src: &Dense, dst: &Dense) -> (Vec<usize>, bool) {
    let rank = dst.dims.len();
    let fastest = |dense: &Dense| {
        let long = (0..rank).filter(|&axis| dense.dims[axis] > 1 && dense.strides[axis] > 0);
        long.min_by_key(|&axis| dense.strides[axis])
    };
    let last = fastest(dst).unwrap_or(rank - 1);
    let second = fastest(src).filter(|&axis| axis != last);
    let long = |axis: usize| dst.dims[axis] >= SHORT;
    let second = second.filter(|&axis| long(axis) && long(last));
    let rest = (0..rank).filter(|&axis| axis != last && Some(axis) != second);
    let order = rest.chain(second).chain([last]).collect();
    (order, second.is_some())
}

/// An operand with its dimensions in another order.
fn ordered(dense: &Dense, order: &[usize]) -> Result<Dense> {
    let pick = |from: &Dims| Dims::new(&order.iter().map(|&axis| from[axis]).collect::<Vec<_>>());
    let (dims, strides) = (pick(&dense.dims)?, pick(&dense.strides)?);
    Ok(Dense { dims, strides, ..dense.clone() })
}

fn dequantize(src: &Scaled, dst: &Dense, run: &mut Run<'_, '_, '_>) -> Result<()> {
    // Along rows as they are stored.
    let rank = dst.dims.len();
    let mut order: Vec<usize> = (0..rank).collect();
    if src.transposed && rank >= 2 {
        order.swap(rank - 2, rank - 1);
    }
    let dst = Operand::from(ordered(dst, &order)?);
    let layout = src.layout()?;
    let rows = Rows::of(dst.dims());
    let stored = Operand::from(Scaled { transposed: false, ..src.clone() });
    let Source { matrix, scales } = Source::bind(run.call, "src", &stored, &dst.dims())?;
    let args = Args {
        src: matrix,
        dst: run.write("dst", Some(&dst), &rows)?,
        scales,
        sizes: rows.sizes,
        pieces: rows.pieces,
        n: rows.n,
        bytes: 0,
        rows: layout.rows() as i32,
        reserved: 0,
        of_matrix: (layout.scales_bytes() / layout.batch()) as i64,
    };
    run.run(&program(), "dequantize", rows.blocks(), &args)
}

const _: () =
    assert!((THREADS as usize).is_multiple_of(TILE), "a tile's rows are moved by whole warps");
