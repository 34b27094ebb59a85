//! The reference kernels as registry entries.

use super::{
    arg_reduce, attention, convert, elementwise, gather, gemm, grouped_gemm, norm, reduce, rope,
    scatter, softmax, top_k,
};
use crate::caps::{Caps, MemoryKind};
use crate::error::Result;
use crate::memory::Region;
use crate::op::{Op, OpKind};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};

/// The reference implementation of one operation.
#[derive(Clone, Debug)]
pub(super) struct Reference(KernelInfo);

impl Reference {
    pub(super) fn new(op: OpKind) -> Self {
        let name = format!("reference.{}", op.name());
        Reference(KernelInfo::new(name, op, "plain loops, f64 accumulation").fallback())
    }
}

impl Kernel for Reference {
    fn info(&self) -> &KernelInfo {
        &self.0
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        // An operand without data would be what results are.
        let kind = |region: Option<&Region>| region.map_or(caps.memory_kind, |r| r.buffer().kind());
        let hidden = op.operands().into_iter().find(|operand| {
            let mut regions = operand.operand.regions().peekable();
            let none = regions.peek().is_none();
            let hidden = |region: Option<&Region>| !kind(region).host_readable();
            (none && hidden(None)) || regions.any(|region| hidden(Some(region)))
        });
        match hidden {
            None => Ok(()),
            Some(operand) => Err(Unsupported(format!(
                "runs on the host, which can not touch {}: it is {} memory",
                operand.name,
                MemoryKind::Device
            ))),
        }
    }

    fn cost(&self, op: &Op, _caps: &Caps) -> Cost {
        // A few nanoseconds for each element touched, and for each product of a matrix product:
        // far more than any kernel written for speed.
        const SECONDS_EACH: f64 = 10e-9;
        Cost { seconds: op.work() * SECONDS_EACH }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Gemm(op) => gemm::gemm(op, launch),
            Op::Convert(op) => convert::convert(op, launch),
            Op::Norm(op) => norm::norm(op, launch),
            Op::Elementwise(op) => elementwise::elementwise(op, launch),
            Op::Gather(op) => gather::gather(op, launch),
            Op::Attention(op) => attention::attention(op, launch),
            Op::GroupedGemm(op) => grouped_gemm::grouped_gemm(op, launch),
            Op::Rope(op) => rope::rope(op, launch),
            Op::Softmax(op) => softmax::softmax(op, launch),
            Op::Reduce(op) => reduce::reduce(op, launch),
            Op::ArgReduce(op) => arg_reduce::arg_reduce(op, launch),
            Op::TopK(op) => top_k::top_k(op, launch),
            Op::Scatter(op) => scatter::scatter(op, launch),
        }
    }
}
