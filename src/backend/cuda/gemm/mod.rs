//! Matrix products on tensor cores: `kernels/gemm.cu` and `kernels/stream.cu`.
//!
//! Registry entries are told apart by the instructions that multiply, and so by what they need of
//! the machine and do to the numbers; another one is for a few rows, that are multiplied with
//! weights as fast as memory gives them. Each has a twin for groups of rows with a matrix each.
//!
//! The order of additions along k depends on the instruction and on k only, not on the tile and
//! not on which of the sources runs: k is cut into parts, each part is added up in order, and then
//! their sums are. Where tiles are few, parts are summed by blocks of their own, and then added by
//! another kernel.

mod plan;
mod product;
mod quantized;
mod split;
mod stages;
mod stream;
mod tile;
mod tiles;

use super::gpu::Program;
use crate::caps::Caps;
use plan::Plan;
pub(super) use plan::{CHUNK, DECODE_NVFP4, Family, Mma, Way};
pub(super) use stream::StreamKernel;
use tile::Tile;
pub(super) use tiles::TileKernel;

/// The most parts that k is cut into.
const MOST_PARTS: usize = 8;

/// A part is at least as long.
const SHORTEST_PART: usize = 512;

/// What parts are a multiple of: every source's slices.
const PART_STEP: usize = 256;

/// What all GPUs' estimates assume: half of what a multiprocessor of GB10 multiplies and adds of
/// 16-bit elements at 2.4 GHz, and what all of them read. Slower machines are as much slower at
/// everything that is compared.
const PRODUCTS_PER_SECOND: f64 = 0.6e12;
const BYTES_PER_SECOND: f64 = 230e9;

/// Every program that a machine can run.
pub(super) fn programs(caps: &Caps) -> Vec<Program> {
    let families = Family::ALL.into_iter().filter(|family| caps.has(family.isa()));
    let plans: Vec<Plan> = families.flat_map(Plan::all).collect();
    let of_tiles = plans
        .iter()
        .flat_map(|plan| Tile::all(plan.folds()).into_iter().flat_map(|tile| plan.programs(tile)));
    let quantizing = plans.iter().flat_map(|plan| {
        Tile::all(false).into_iter().flat_map(|tile| plan.quantizing_programs(tile))
    });
    let half = plans.iter().filter(|plan| plan.is_half());
    of_tiles.chain(quantizing).chain(half.flat_map(Plan::stream_programs)).collect()
}
