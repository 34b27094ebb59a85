//! Rows of a table by index: embeddings.

use super::rows::{row_source, with_small_float};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::scratch;
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::{Gather, Op, OpKind, Operand};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};

/// `cpu.gather`
pub(super) struct GatherKernel(KernelInfo);

impl GatherKernel {
    pub(super) fn new() -> Self {
        GatherKernel(KernelInfo::new("cpu.gather", OpKind::Gather, "decodes the picked rows only"))
    }
}

impl Kernel for GatherKernel {
    fn info(&self) -> &KernelInfo {
        &self.0
    }

    fn supports(&self, op: &Op, _caps: &Caps) -> Result<(), Unsupported> {
        let Op::Gather(op) = op else { return Err(Unsupported::because("not a gather")) };
        if op.axis != 0 || op.table.dims().len() != 2 {
            let reason = format!("picks rows of matrices, not along {} of {}", op.axis, op.table);
            return Err(Unsupported(reason));
        }
        if op.table.as_scaled().is_some_and(|table| table.transposed) {
            return Err(Unsupported(format!("decodes along rows as stored, not {}", op.table)));
        }
        for operand in [&op.table, &op.out] {
            if operand.dtype().is_some_and(|dtype| !dtype.fits_f32()) {
                return Err(Unsupported(format!(
                    "goes through f32, which does not hold {operand}"
                )));
            }
        }
        // From blocks f32 is a rounding of its own, which must then be the only one.
        if op.table.as_scaled().is_some() && op.out.dtype() != Some(DType::F32) {
            return Err(Unsupported(format!("decodes {} to f32 only, not {}", op.table, op.out)));
        }
        match &op.out {
            Operand::Dense(out) if out.is_contiguous() => Ok(()),
            _ => Err(Unsupported(format!("writes contiguous elements, not {}", op.out))),
        }
    }

    fn cost(&self, op: &Op, _caps: &Caps) -> Cost {
        const BYTES_PER_SECOND: f64 = 2e9;
        let out: f64 = match op {
            Op::Gather(op) => op.out.dims().iter().map(|&d| d as f64).product(),
            _ => f64::INFINITY,
        };
        Cost { seconds: out * 4.0 / BYTES_PER_SECOND }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Gather(op) => gather(op, launch),
            _ => Err(Error::kernel(&self.0.name, "not a gather")),
        }
    }
}

fn gather(op: &Gather, launch: &Launch<'_>) -> Result<()> {
    let &[size, width] = &op.table.dims()[..] else {
        return Err(Error::kernel("cpu.gather", "the table is not a matrix"));
    };
    let indices = launch.read_indices(&op.indices)?;
    let checked = indices.iter().enumerate().map(|(at, &index)| op.check_index(at, index, size));
    let picked = checked.collect::<Result<Vec<usize>>>()?;
    let Operand::Dense(out) = &op.out else {
        return Err(Error::kernel("cpu.gather", "the output is not plain elements"));
    };
    with_small_float!(out.dtype, E => gather_as::<E>(op, launch, &picked, width))
}

fn gather_as<E: Scalar>(
    op: &Gather,
    launch: &Launch<'_>,
    picked: &[usize],
    width: usize,
) -> Result<()> {
    let out = launch.write_dense::<E>(&op.out)?;
    if width == 0 {
        return Ok(());
    }
    // Elements of the output's own type are copied bit for bit.
    if let Operand::Dense(table) = &op.table
        && table.dtype == E::DTYPE
    {
        let data = launch.read_dense::<E>(&op.table)?;
        for (&row, out) in picked.iter().zip(out.chunks_mut(width)) {
            for (j, x) in out.iter_mut().enumerate() {
                *x = data[row * table.strides[0] + j * table.strides[1]];
            }
        }
        return Ok(());
    }
    let rows = row_source(launch, &op.table, false, &[])?;
    let mut values = scratch(width, 0.0)?;
    for (&row, out) in picked.iter().zip(out.chunks_mut(width)) {
        rows.decode(0, row, &mut values)?;
        E::from_f32_slice(&values, out);
    }
    Ok(())
}
