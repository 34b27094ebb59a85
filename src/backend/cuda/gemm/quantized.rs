//! Results that are blocks.

use std::fmt;

use super::plan::Plan;
use super::product::Product;
use crate::backend::cuda::args::Matrix;
use crate::backend::cuda::gpu::Call;
use crate::backend::cuda::quantize::{Blocks, Quantizing};
use crate::backend::cuda::rows::{Rows, Run};
use crate::error::Result;
use crate::op::Scaled;

/// How the result of a product becomes blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quantized<'o> {
    quantizing: Quantizing,
    to: &'o Scaled,
    /// In the tiles, or from their values in f32 by another kernel.
    in_tiles: bool,
}

impl<'o> Quantized<'o> {
    /// That of a product, if it is one of blocks.
    pub fn of(product: &Product<'o>, plan: &Plan) -> Option<Self> {
        let to = product.d.as_scaled()?;
        let quantizing = product.quantizing(to);
        Some(Quantized { quantizing, to, in_tiles: plan.quantizes(quantizing) })
    }

    /// Binds it.
    pub fn bind(&self, call: &mut Call<'_, '_>) -> Result<BoundBlocks> {
        let Quantized { quantizing, to, in_tiles } = *self;
        let blocks = quantizing.bind(&mut Run { call }, "d", to)?;
        Ok(BoundBlocks { quantizing, blocks, in_tiles, rows: Rows::of(to.dims) })
    }
}

impl fmt::Display for Quantized<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.in_tiles { ", d quantised with it" } else { ", d quantised after it" })
    }
}

/// A result that is blocks, bound.
pub(super) struct BoundBlocks {
    quantizing: Quantizing,
    blocks: Blocks,
    in_tiles: bool,
    rows: Rows,
}

impl BoundBlocks {
    /// The blocks that tiles are quantised to, if they are.
    pub fn of_tiles(&self) -> Option<Blocks> {
        self.in_tiles.then_some(self.blocks)
    }

    /// What the sources of tiles are compiled with for that.
    pub fn defines(&self) -> Vec<(&'static str, u32)> {
        if self.in_tiles { self.quantizing.defines() } else { Vec::new() }
    }

    /// Where the product's kernels note the largest magnitude of their values, or 0.
    pub fn amax(&self) -> u64 {
        if self.is_noted() { self.blocks.amax } else { 0 }
    }

    fn is_noted(&self) -> bool {
        !self.in_tiles && self.quantizing.has_one_largest()
    }

    /// Quantises the values that tiles left, if they left values.
    pub fn quantize(&self, values: Matrix, call: &mut Call<'_, '_>) -> Result<()> {
        let run = &mut Run { call };
        match (self.in_tiles, self.is_noted()) {
            (true, _) => Ok(()),
            (_, true) => self.quantizing.noted_rows(run, values, self.blocks, &self.rows),
            (_, false) => self.quantizing.rows(run, values, self.blocks, &self.rows),
        }
    }
}
