//! The kernels that walk over lines of f32, as registry entries.

use super::{arg_reduce, convert, elementwise, norm, reduce, rope, softmax, top_k};
use crate::caps::{Caps, Target};
use crate::error::{Error, Result};
use crate::op::{Op, OpKind, Use};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};

/// The fast implementation of an operation that goes line by line.
pub(super) struct LineKernel(KernelInfo);

impl LineKernel {
    /// The operations that there is one for.
    pub(super) const OPS: [OpKind; 8] = [
        OpKind::Convert,
        OpKind::Norm,
        OpKind::Elementwise,
        OpKind::Rope,
        OpKind::Softmax,
        OpKind::Reduce,
        OpKind::ArgReduce,
        OpKind::TopK,
    ];

    pub(super) fn new(op: OpKind) -> Self {
        let summary = match op {
            OpKind::Convert => "copies bytes, casts through f32, one rounding",
            OpKind::Norm => "rows in f64 vectors, sums by index mod 16",
            OpKind::Elementwise => "f32 vectors, lines in pieces",
            OpKind::Rope => "sines and cosines once for each position, rotation in f32",
            OpKind::Softmax => "f32 exponentials, sum in f64 by index mod 16",
            OpKind::Reduce => "f64 sums and products, f32 extremes, by index mod 16",
            OpKind::ArgReduce => "extreme first, then where it is",
            _ => "partial selection of rows",
        };
        LineKernel(KernelInfo::new(format!("cpu.{}", op.name()), op, summary))
    }
}

impl Kernel for LineKernel {
    fn info(&self) -> &KernelInfo {
        &self.0
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        if op.kind() != self.0.op {
            return Err(Unsupported(format!("not {}", self.0.op.name())));
        }
        if caps.target != Target::Cpu {
            return Err(Unsupported::because("runs on CPUs"));
        }
        if let Op::Convert(op) = op {
            return convert::supports(op);
        }
        for Use { operand, .. } in op.operands() {
            if operand.dtype().is_some_and(|dtype| dtype.is_float() && !dtype.fits_f32()) {
                let reason = format!("computes in f32, which does not hold {operand}");
                return Err(Unsupported(reason));
            }
            if operand.as_scaled().is_some_and(|scaled| scaled.transposed) {
                return Err(Unsupported(format!("reads along rows as stored, not {operand}")));
            }
        }
        match op {
            Op::Reduce(op) => reduce::supports(op),
            Op::ArgReduce(op) => arg_reduce::supports(op),
            Op::TopK(op) => top_k::supports(op),
            _ => Ok(()),
        }
    }

    fn cost(&self, op: &Op, _caps: &Caps) -> Cost {
        // Reading and writing an element, with a few instructions for it.
        const SECONDS_EACH: f64 = 1e-9;
        Cost { seconds: op.work() * SECONDS_EACH }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Convert(op) => convert::convert(op, launch),
            Op::Norm(op) => norm::norm(op, launch),
            Op::Elementwise(op) => elementwise::elementwise(op, launch),
            Op::Rope(op) => rope::rope(op, launch),
            Op::Softmax(op) => softmax::softmax(op, launch),
            Op::Reduce(op) => reduce::reduce(op, launch),
            Op::ArgReduce(op) => arg_reduce::arg_reduce(op, launch),
            Op::TopK(op) => top_k::top_k(op, launch),
            other => Err(Error::kernel(&self.0.name, format!("can not run {other}"))),
        }
    }
}
