//! Matrix products on tensor cores: `kernels/gemm.cu`.
//!
//! One source, three registry entries: by the instructions that multiply, and so by what they
//! need of the machine and do to the numbers. The order of additions along k depends on the
//! instruction only, not on the tile.

mod plan;
mod tile;

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::args::Matrix;
use super::args::{BATCH_RANK, batch_sizes, sizes_fit};
use super::driver::Grid;
use super::epilogue::Epilogue;
use super::gpu::{Gpu, Program};
use super::source::{Scales, Source};
use crate::caps::{Caps, Isa};
use crate::error::{Error, Result};
use crate::op::{Gemm, GemmSizes, Op, OpKind, Operand};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Numerics, Unsupported};
use plan::Plan;
pub(super) use plan::{CHUNK, Family, Mma, Way};
use tile::Tile;

/// `Args`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Args {
    a: Matrix,
    b: Matrix,
    a_scales: Scales,
    b_scales: Scales,
    epilogue: Epilogue,
    batch: [i32; BATCH_RANK],
    m: i32,
    n: i32,
    units: i32,
    reserved: i32,
}

/// `cuda.gemm`, `cuda.gemm.fp8`, `cuda.gemm.block_scaled`
pub(super) struct GemmKernel {
    info: KernelInfo,
    family: Family,
    gpu: Arc<Gpu>,
}

impl GemmKernel {
    pub(super) fn new(family: Family, gpu: Arc<Gpu>) -> Self {
        let (name, summary) = match family {
            Family::Half => (
                "cuda.gemm",
                "mma.sync on BF16 or F16, FP8 and FP4 operands expanded to them exactly",
            ),
            Family::Fp8 => ("cuda.gemm.fp8", "mma.sync on FP8, scales applied to the sums"),
            Family::BlockScaled => {
                ("cuda.gemm.block_scaled", "mma.sync with block scales on FP4 or FP8")
            }
        };
        let mut info = KernelInfo::new(name, OpKind::Gemm, summary);
        if family == Family::Fp8 && !gpu.arch().isa().contains(&Isa::MmaFp8Full) {
            info.numerics = Numerics::ReducedAccumulation;
        }
        GemmKernel { info, family, gpu }
    }

    fn gemm(&self, op: &Gemm, launch: &Launch<'_>) -> Result<()> {
        let sizes = op.sizes()?;
        let d_dims = op.d.dims();
        if d_dims.contains(&0) {
            return Ok(());
        }
        let plan = self.plan(op).map_err(|u| Error::kernel(&self.info.name, u.0))?;
        let units = plan.mma.units(sizes.k);
        let mut call = self.gpu.call(&self.info.name, launch);
        let batch = d_dims.leading(2);
        let a = Source::bind(&mut call, "a", &op.a, &[batch, &[sizes.m, sizes.k]].concat())?;
        let b = Source::bind(&mut call, "b", &op.b, &[batch, &[sizes.k, sizes.n]].concat())?;
        let b = b.transposed();
        let args = Args {
            a: a.matrix,
            b: b.matrix,
            a_scales: a.scales,
            b_scales: b.scales,
            epilogue: Epilogue::bind(op, sizes.n, &mut call)?,
            batch: batch_sizes(&d_dims),
            m: sizes.m as i32,
            n: sizes.n as i32,
            units: units as i32,
            reserved: 0,
        };
        let tile = Tile::choose(&sizes, launch.caps.units);
        let pieces = if op.epilogue.activation.is_gated() { 2 } else { 1 };
        let rows = [sizes.m, sizes.n, pieces];
        let program = plan.program(tile, [&a.matrix, &b.matrix], rows, units);
        let module = self.gpu.module(&program)?;
        let grid = Grid {
            blocks: tile.blocks(&sizes) as u32,
            threads: tile.threads(),
            shared_memory: tile.shared_memory(plan.mma.step_scales()) as u32,
        };
        call.run(module, "gemm", grid, bytemuck::bytes_of(&args))?;
        call.finish()
    }

    fn plan(&self, op: &Gemm) -> Result<Plan, Unsupported> {
        Plan::new(self.family, &op.a, &op.b)
    }
}

impl Kernel for GemmKernel {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        let Op::Gemm(op) = op else { return Err(Unsupported::because("not a gemm")) };
        if !caps.has(self.family.isa()) {
            return Err(Unsupported(format!("{} has no {}", caps.target, self.family.isa())));
        }
        let plan = self.plan(op)?;
        Epilogue::supports(op, caps)?;
        let sizes = op.sizes().map_err(|e| Unsupported(e.to_string()))?;
        let tile = Tile::choose(&sizes, caps.units);
        sizes_fit(&[sizes.batch, sizes.m, sizes.n, sizes.k, tile.blocks(&sizes)])?;
        let shared_memory = tile.shared_memory(plan.mma.step_scales());
        if shared_memory > caps.shared_memory {
            return Err(Unsupported(format!(
                "a tile of {tile} takes {shared_memory} bytes of shared memory, a block has {}",
                caps.shared_memory
            )));
        }
        Ok(())
    }

    fn cost(&self, op: &Op, caps: &Caps) -> Cost {
        // Half of what a multiprocessor of GB10 multiplies and adds of 16-bit elements at
        // 2.4 GHz, and what all of them read: slower machines are as much slower at everything
        // that is compared.
        const PRODUCTS_PER_SECOND: f64 = 0.6e12;
        const BYTES_PER_SECOND: f64 = 230e9;
        let Op::Gemm(gemm) = op else { return Cost { seconds: f64::INFINITY } };
        let speed = self.plan(gemm).map_or(1.0, |plan| plan.mma.speed());
        let products = gemm.sizes().map_or(0.0, |s: GemmSizes| s.products());
        let bytes = bytes(&gemm.a) + bytes(&gemm.b) + bytes(&gemm.d);
        let rate = PRODUCTS_PER_SECOND * speed * caps.units as f64;
        Cost::roofline(products, rate, bytes, BYTES_PER_SECOND)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Gemm(op) => self.gemm(op, launch),
            _ => Err(Error::kernel(&self.info.name, "not a gemm")),
        }
    }
}

/// Bytes of an operand, without its scales.
fn bytes(operand: &Operand) -> f64 {
    let elements = operand.dims().iter().map(|&d| d as f64).product::<f64>();
    match operand {
        Operand::Dense(dense) => elements * dense.dtype.size() as f64,
        Operand::Scaled(scaled) => elements / scaled.format.spec().codes_per_byte as f64,
    }
}

/// Every program that a machine can run.
pub(super) fn programs(caps: &Caps) -> Vec<Program> {
    let families = Family::ALL.into_iter().filter(|family| caps.has(family.isa()));
    let plans: Vec<Plan> = families.flat_map(Plan::all).collect();
    let mut programs = Vec::new();
    for tile in Tile::ALL {
        programs.extend(plans.iter().flat_map(|plan| plan.programs(tile)));
    }
    programs
}
