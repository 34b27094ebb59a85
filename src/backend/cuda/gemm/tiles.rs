//! Products by tiles: `kernels/gemm.cu`.

use std::sync::Arc;

use super::plan::Family;
use super::product::Product;
use super::quantized::{BoundBlocks, Quantized};
use super::tile::Tile;
use super::{BYTES_PER_SECOND, MOST_PARTS, PRODUCTS_PER_SECOND};
use crate::backend::cuda::args::sizes_fit;
use crate::backend::cuda::driver::Grid;
use crate::backend::cuda::gpu::Gpu;
use crate::caps::{Caps, Isa};
use crate::error::{Error, Result};
use crate::op::{Op, OpKind};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Numerics, Unsupported};

/// `cuda.gemm`, `cuda.gemm.fp8`, `cuda.gemm.block_scaled`, and the same of `cuda.grouped_gemm`.
pub(in crate::backend::cuda) struct TileKernel {
    info: KernelInfo,
    family: Family,
    gpu: Arc<Gpu>,
}

impl TileKernel {
    pub fn new(op: OpKind, family: Family, gpu: Arc<Gpu>) -> Self {
        let (variant, summary) = match family {
            Family::Half => {
                ("", "mma.sync on BF16 or F16, FP8 and FP4 operands expanded to them exactly")
            }
            Family::Fp8 => (".fp8", "mma.sync on FP8, scales applied to the sums"),
            Family::BlockScaled => (".block_scaled", "mma.sync with block scales on FP4 or FP8"),
        };
        let mut info = KernelInfo::new(format!("cuda.{}{variant}", op.name()), op, summary);
        if family == Family::Fp8 && !gpu.arch().isa().contains(&Isa::MmaFp8Full) {
            info.numerics = Numerics::ReducedAccumulation;
        }
        TileKernel { info, family, gpu }
    }

    /// Blocks that do the work of so many in turn: as many as the machine holds at once.
    fn blocks(work: usize, tile: Tile, caps: &Caps) -> usize {
        work.min(caps.units * tile.resident)
    }

    fn run(&self, product: &Product<'_>, launch: &Launch<'_>) -> Result<()> {
        if product.d.dims().contains(&0) {
            return product.check(launch);
        }
        let plan = product.plan(self.family).map_err(|u| Error::kernel(&self.info.name, u.0))?;
        let mut call = self.gpu.call(&self.info.name, launch);
        let tile = Tile::choose(product, launch.caps.units, plan.folds());
        let split = tile.split(product, launch.caps.units);
        let blocks = Quantized::of(product, &plan).map(|q| q.bind(&mut call)).transpose()?;
        let (args, sources) = product.bind(tile.m, blocks.as_ref(), split, &mut call)?;
        let mut program = plan.program(tile, [&sources[0], &sources[1]], product);
        program.defines.extend(blocks.as_ref().map(BoundBlocks::defines).unwrap_or_default());
        let tiles = tile.blocks(product);
        let grid = Grid {
            blocks: Self::blocks(split.of_all(tiles), tile, launch.caps) as u32,
            threads: tile.threads(),
            shared_memory: tile.shared_memory(plan.slice_scales()) as u32,
        };
        let to = blocks.as_ref().and_then(BoundBlocks::of_tiles);
        split.run(&mut call, (&program, "gemm", grid), tiles, &args, to)?;
        if let Some(blocks) = blocks {
            blocks.quantize(args.epilogue.d, &mut call)?;
        }
        call.finish()
    }
}

impl Kernel for TileKernel {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        let product = Product::of(op).map_err(|e| Unsupported(e.to_string()))?;
        if !caps.has(self.family.isa()) {
            return Err(Unsupported(format!("{} has no {}", caps.target, self.family.isa())));
        }
        let plan = product.plan(self.family)?;
        product.supports_epilogue(caps)?;
        let tile = Tile::choose(&product, caps.units, plan.folds());
        let Product { batch, groups, m, n, k, .. } = product;
        sizes_fit(&[batch, groups, m, n, k, tile.blocks(&product).saturating_mul(MOST_PARTS)])?;
        let shared_memory = tile.shared_memory(plan.slice_scales());
        if shared_memory > caps.shared_memory {
            return Err(Unsupported(format!(
                "a tile of {tile} takes {shared_memory} bytes of shared memory, a block has {}",
                caps.shared_memory
            )));
        }
        Ok(())
    }

    fn cost(&self, op: &Op, caps: &Caps) -> Cost {
        // What a block has under way of a few rows' columns is little.
        const FLAT_READS: f64 = 0.6 * BYTES_PER_SECOND;
        let Ok(product) = Product::of(op) else { return Cost { seconds: f64::INFINITY } };
        let speed = product.plan(self.family).map_or(1.0, |plan| plan.mma.speed(caps));
        let rate = PRODUCTS_PER_SECOND * speed * caps.units as f64;
        let reads = if Tile::is_flat(&product) { FLAT_READS } else { BYTES_PER_SECOND };
        Cost::roofline(product.products(), rate, product.traffic(), reads)
    }

    fn variant(&self, op: &Op, caps: &Caps) -> Option<String> {
        let product = Product::of(op).ok()?;
        let plan = product.plan(self.family).ok()?;
        let tile = Tile::choose(&product, caps.units, plan.folds());
        let (tiles, split) = (tile.blocks(&product), tile.split(&product, caps.units));
        let blocks = Self::blocks(split.of_all(tiles), tile, caps);
        let quantized = Quantized::of(&product, &plan).map(|q| q.to_string()).unwrap_or_default();
        Some(format!("{tiles} tiles of {tile}{split}, by {blocks} blocks, {plan}{quantized}"))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.run(&Product::of(launch.op)?, launch)
    }
}
