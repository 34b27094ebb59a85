//! Products of a few rows, weights read once: `kernels/stream.cu`.

use std::sync::Arc;

use super::plan::Family;
use super::product::Product;
use super::quantized::Quantized;
use super::split::Split;
use super::stages::{COLS, Stages};
use super::{BYTES_PER_SECOND, MOST_PARTS, PRODUCTS_PER_SECOND};
use crate::backend::cuda::args::sizes_fit;
use crate::backend::cuda::driver::Grid;
use crate::backend::cuda::gpu::Gpu;
use crate::caps::{Caps, Isa};
use crate::error::{Error, Result};
use crate::op::{Op, OpKind};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};

/// `cuda.gemm.stream`, `cuda.grouped_gemm.stream`
pub(in crate::backend::cuda) struct StreamKernel {
    info: KernelInfo,
    gpu: Arc<Gpu>,
}

impl StreamKernel {
    pub fn new(op: OpKind, gpu: Arc<Gpu>) -> Self {
        let summary = "up to 16 rows of BF16 or F16; weights read once, unpacked in registers";
        StreamKernel {
            info: KernelInfo::new(format!("cuda.{}.stream", op.name()), op, summary),
            gpu,
        }
    }

    /// How blocks share the parts of k.
    fn split(product: &Product<'_>, stages: Stages, units: usize) -> Split {
        Split::of_warps(product.blocks(stages.rows, COLS), product.parts(), units)
    }

    fn run(&self, product: &Product<'_>, launch: &Launch<'_>) -> Result<()> {
        if product.d.dims().contains(&0) {
            return product.check(launch);
        }
        let plan = product.plan(Family::Half).map_err(|u| Error::kernel(&self.info.name, u.0))?;
        let mut call = self.gpu.call(&self.info.name, launch);
        let stages = plan.stages(product.rows());
        let split = Self::split(product, stages, launch.caps.units);
        let blocks = Quantized::of(product, &plan).map(|q| q.bind(&mut call)).transpose()?;
        let (args, sources) = product.bind(stages.rows, blocks.as_ref(), split, &mut call)?;
        let program = plan.stream_program(stages, [&sources[0], &sources[1]], product);
        let tiles = product.blocks(stages.rows, COLS);
        let grid = Grid {
            blocks: split.of_all(tiles) as u32,
            threads: 32 * split.parts as u32,
            shared_memory: stages.shared_memory(split.parts) as u32,
        };
        split.run(&mut call, (&program, "stream", grid), tiles, &args, None)?;
        if let Some(blocks) = blocks {
            blocks.quantize(args.epilogue.d, &mut call)?;
        }
        call.finish()
    }
}

impl Kernel for StreamKernel {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        let product = Product::of(op).map_err(|e| Unsupported(e.to_string()))?;
        if !caps.has(Isa::Mma) {
            return Err(Unsupported(format!("{} has no {}", caps.target, Isa::Mma)));
        }
        product.plan(Family::Half)?.streams(product.b)?;
        product.supports_epilogue(caps)?;
        if product.rows() > Stages::MOST_ROWS {
            let (most, rows) = (Stages::MOST_ROWS, product.rows());
            return Err(Unsupported(format!("takes {most} rows of a matrix, not {rows}")));
        }
        let Product { batch, groups, m, n, k, .. } = product;
        sizes_fit(&[batch, groups, m, n, k, product.blocks(1, COLS).saturating_mul(MOST_PARTS)])
    }

    fn cost(&self, op: &Op, caps: &Caps) -> Cost {
        let Ok(product) = Product::of(op) else { return Cost { seconds: f64::INFINITY } };
        let rate = PRODUCTS_PER_SECOND * caps.units as f64;
        Cost::roofline(product.products(), rate, product.traffic(), BYTES_PER_SECOND)
    }

    fn variant(&self, op: &Op, caps: &Caps) -> Option<String> {
        let product = Product::of(op).ok()?;
        let plan = product.plan(Family::Half).ok()?;
        let stages = plan.stages(product.rows());
        let blocks = product.blocks(stages.rows, COLS);
        let (parts, split) = (product.parts(), Self::split(&product, stages, caps.units));
        let quantized = Quantized::of(&product, &plan).map(|q| q.to_string()).unwrap_or_default();
        Some(format!(
            "{blocks} blocks of {COLS} columns, k in {parts} parts{split}, {plan}{quantized}"
        ))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.run(&Product::of(launch.op)?, launch)
    }
}
