//! Matrix products of row groups with a matrix each.

use super::epilogue::{Finisher, Terms};
use super::factors::Arithmetic;
use super::gemm::{cost, kernel_info, stored_bytes, supports_operands};
use super::outputs::OutputMatrices;
use super::product::{Block, Product};
use std::ops::Range;

use super::rows::{column_source, row_source, with_small_float};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::room;
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::{GroupedGemm, Op, OpKind};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};

/// `cpu.grouped_gemm`, `cpu.grouped_gemm.fp4` and `cpu.grouped_gemm.int8`
pub(super) struct GroupedGemmKernel(KernelInfo, Arithmetic);

impl GroupedGemmKernel {
    pub(super) fn new(arithmetic: Arithmetic) -> Self {
        let info = kernel_info("cpu.grouped_gemm", OpKind::GroupedGemm, arithmetic);
        let like = info.name.replace("grouped_", "");
        let summary =
            format!("as {like} for the rows of each group; matrices without rows are not read");
        GroupedGemmKernel(KernelInfo { summary, ..info }, arithmetic)
    }
}

impl Kernel for GroupedGemmKernel {
    fn info(&self) -> &KernelInfo {
        &self.0
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        let Op::GroupedGemm(op) = op else {
            return Err(Unsupported::because("not a grouped gemm"));
        };
        supports_operands([&op.a, &op.b], None, &op.epilogue, &op.d, caps)?;
        self.1.supports(&op.a, &op.b)
    }

    fn cost(&self, op: &Op, caps: &Caps) -> Cost {
        let Op::GroupedGemm(op) = op else { return Cost { seconds: f64::INFINITY } };
        let products = op.sizes().map_or(0.0, |s| s.total_m as f64 * s.n as f64 * s.k as f64);
        // At most one matrix for each row is read.
        let [rows, groups] = [op.a.dims()[0], op.b.dims()[0]].map(|d| d.max(1) as f64);
        cost(self.1, products, stored_bytes(&op.b) * (rows / groups).min(1.0), caps)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let Op::GroupedGemm(op) = launch.op else {
            return Err(Error::kernel(&self.0.name, "not a grouped gemm"));
        };
        match op.d.dtype() {
            Some(DType::F64) => grouped_as::<f64>(self.1, op, launch),
            Some(dtype) => with_small_float!(dtype, E => grouped_as::<E>(self.1, op, launch)),
            None => Err(Error::kernel(&self.0.name, "does not quantise")),
        }
    }
}

fn grouped_as<E: Scalar>(
    arithmetic: Arithmetic,
    op: &GroupedGemm,
    launch: &Launch<'_>,
) -> Result<()> {
    let sizes = op.sizes()?;
    let groups = op.groups(|operand| launch.read_indices(operand))?;
    if op.d.dims().contains(&0) {
        return Ok(());
    }
    let a = row_source(launch, &op.a, false, &[])?;
    let (b, b_scale) = column_source(launch, &op.b, &[sizes.groups])?;
    let parts = if op.epilogue.activation.is_gated() { 2 } else { 1 };
    let n = sizes.n / parts;
    let terms = Terms { b_scale, alpha: op.alpha, beta: 0.0, c: None };
    let finish = Finisher::new(&op.epilogue, launch, terms, (sizes.total_m, n), &[])?;
    let factors = arithmetic.factors(launch.caps, a.as_ref(), b.as_ref(), sizes.k);
    let factors = factors.as_ref();
    let product = Product { workers: launch.workers, factors, k: sizes.k, n, parts };
    let count = |rows: &Range<usize>| rows.len().div_ceil(product.block_rows(rows.len()).max(1));
    let mut blocks = room(groups.iter().map(count).sum())?;
    for (group, rows) in groups.into_iter().enumerate() {
        let each = product.block_rows(rows.len());
        for first in rows.clone().step_by(each.max(1)) {
            blocks.push(Block { a: 0, b: group, first, len: each.min(rows.end - first) });
        }
    }
    let out = launch.write_dense::<E>(&op.d)?;
    OutputMatrices::new(out, &op.d)?.fill(|out| product.run(&blocks, out, &finish))
}
