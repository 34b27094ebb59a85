//! Parts of k that blocks of their own add up, where tiles are too few for a machine.

use std::fmt;

use bytemuck::{Pod, Zeroable};

use super::product::{Args, Product};
use crate::backend::cuda::driver::Grid;
use crate::backend::cuda::gpu::{Call, Program};
use crate::backend::cuda::quantize::Blocks;
use crate::error::Result;

/// How the blocks of a tile share the parts of k.
///
/// It does not change a result: parts are what they are without it, and so is the order in which
/// they are added, by one more kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Blocks of a tile.
    blocks: usize,
    /// Parts of a block: the last ones can have fewer.
    pub parts: usize,
}

impl Split {
    /// A block has all parts.
    pub const NONE: Split = Split { blocks: 1, parts: usize::MAX };

    /// For blocks that have one part each, or all.
    pub fn of_tiles(tiles: usize, parts: usize, units: usize) -> Self {
        if Self::pays(tiles, units) { Self::into(parts, 1) } else { Self::into(parts, parts) }
    }

    /// For blocks of as many warps as they have parts: as few blocks as fill the machine.
    pub fn of_warps(tiles: usize, parts: usize, units: usize) -> Self {
        let blocks = if Self::pays(tiles, units) { units.div_ceil(tiles.max(1)) } else { 1 };
        Self::into(parts, parts.div_ceil(blocks))
    }

    /// Whether more than a quarter of the multiprocessors have nothing to do.
    fn pays(tiles: usize, units: usize) -> bool {
        tiles.saturating_mul(4) < units.saturating_mul(3)
    }

    fn into(parts: usize, of_block: usize) -> Self {
        Split { blocks: parts.div_ceil(of_block), parts: of_block }
    }

    fn is_split(self) -> bool {
        self.blocks > 1
    }

    /// Binds memory for the sums of a product's parts.
    pub fn bind(self, product: &Product<'_>, call: &mut Call<'_, '_>) -> Result<SplitArgs> {
        let mut sums = 0;
        if self.is_split() {
            let sizes = [product.parts(), product.batch, product.m, product.n];
            let bytes = sizes.into_iter().fold(size_of::<f32>(), usize::saturating_mul);
            sums = call.scratch(bytes, "sums of parts of k")?;
        }
        Ok(SplitArgs { sums, blocks: self.blocks as i32, reserved: 0 })
    }

    /// Blocks that share all of so many tiles.
    pub fn of_all(self, tiles: usize) -> usize {
        tiles.saturating_mul(self.blocks)
    }

    /// Runs a kernel for tiles, and the one that adds what it leaves, with a block for each tile.
    pub fn run(
        self,
        call: &mut Call<'_, '_>,
        (program, entry, grid): (&Program, &str, Grid),
        tiles: usize,
        args: &Args,
        to: Option<Blocks>,
    ) -> Result<()> {
        args.pass(to, |args| call.run(program, entry, grid, args))?;
        if !self.is_split() {
            return Ok(());
        }
        let mut args = *args;
        args.split.blocks = 1;
        // Checked by `supports`.
        let grid = Grid { blocks: tiles as u32, shared_memory: 0, ..grid };
        args.pass(to, |args| call.run(program, "add_parts", grid, args))
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_split() {
            true => write!(f, ", k over {} blocks each", self.blocks),
            false => Ok(()),
        }
    }
}

/// `Split`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct SplitArgs {
    sums: u64,
    blocks: i32,
    reserved: i32,
}
