//! Slices put where indices say.

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::op::{Dense, Op, OpKind, Operand, Scatter};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};

/// `cpu.scatter`
pub(super) struct ScatterKernel(KernelInfo);

impl ScatterKernel {
    pub(super) fn new() -> Self {
        ScatterKernel(KernelInfo::new("cpu.scatter", OpKind::Scatter, "copies whole slices"))
    }
}

impl Kernel for ScatterKernel {
    fn info(&self) -> &KernelInfo {
        &self.0
    }

    fn supports(&self, op: &Op, _caps: &Caps) -> Result<(), Unsupported> {
        let Op::Scatter(op) = op else { return Err(Unsupported::because("not a scatter")) };
        let contiguous = |operand: &Operand| operand.as_dense().is_some_and(Dense::is_contiguous);
        match [&op.src, &op.out].into_iter().find(|operand| !contiguous(operand)) {
            None => Ok(()),
            Some(operand) => Err(Unsupported(format!("copies contiguous slices, not {operand}"))),
        }
    }

    fn cost(&self, op: &Op, _caps: &Caps) -> Cost {
        const ELEMENTS_PER_SECOND: f64 = 2e9;
        Cost { seconds: op.work() / ELEMENTS_PER_SECOND }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Scatter(op) => scatter(op, launch),
            _ => Err(Error::kernel(&self.0.name, "not a scatter")),
        }
    }
}

fn scatter(op: &Scatter, launch: &Launch<'_>) -> Result<()> {
    let missing = || Error::kernel("cpu.scatter", "an operand has no plain elements");
    let (src, out) =
        (op.src.as_dense().ok_or_else(missing)?, op.out.as_dense().ok_or_else(missing)?);
    let places = op.places(&launch.read_indices(&op.indices)?)?;
    let from = launch.read(src.data.as_ref().ok_or_else(missing)?)?;
    let to = launch.write(out.data.as_ref().ok_or_else(missing)?)?;
    let slice = src.dims[op.axis + 1..].iter().product::<usize>() * src.dtype.size();
    let (n, size) = (src.dims[op.axis], out.dims[op.axis]);
    if slice == 0 || n == 0 {
        return Ok(());
    }
    for (from, to) in from.chunks(n * slice).zip(to.chunks_mut(size * slice)) {
        for (slice_of, &place) in from.chunks(slice).zip(&places) {
            to[place * slice..][..slice].copy_from_slice(slice_of);
        }
    }
    Ok(())
}
