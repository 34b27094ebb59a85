//! What one block of threads computes.

use std::fmt;

use crate::op::GemmSizes;

/// Bytes along k of a slice, as in the source.
const SLICE: usize = 128;

/// Instructions along k of a slice, as in the source.
const STEPS: usize = 4;

/// Shared memory that a block has on every target.
const SHARED_MEMORY: usize = 99 << 10;

/// The most slices along k that are under way: more than hide the latency of memory.
const MOST_STAGES: usize = 4;

/// A tile of D, and the warps that share it.
///
/// The order of additions along k is the same in all of them: which one is chosen does not
/// change a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    m: usize,
    n: usize,
    warps_m: usize,
    warps_n: usize,
}

impl Tile {
    /// For a few rows: one fragment of them, so that little is computed in vain.
    const FLAT: Tile = Tile { m: 16, n: 64, warps_m: 1, warps_n: 4 };
    /// For products that large tiles would not spread over all multiprocessors.
    const SMALL: Tile = Tile { m: 64, n: 64, warps_m: 2, warps_n: 2 };
    /// Two or three slices fill shared memory.
    const LARGE: Tile = Tile { m: 128, n: 128, warps_m: 2, warps_n: 4 };

    pub const ALL: [Tile; 3] = [Self::FLAT, Self::SMALL, Self::LARGE];

    /// The tile for these sizes on a machine of `units` multiprocessors.
    pub fn choose(sizes: &GemmSizes, units: usize) -> Tile {
        if sizes.m <= Self::FLAT.m {
            Self::FLAT
        } else if Self::LARGE.blocks(sizes) >= units {
            Self::LARGE
        } else {
            Self::SMALL
        }
    }

    /// Blocks for a product; the largest number where it is beyond all.
    pub fn blocks(&self, sizes: &GemmSizes) -> usize {
        let tiles = [sizes.m.div_ceil(self.m), sizes.n.div_ceil(self.n), sizes.batch];
        tiles.into_iter().fold(1, usize::saturating_mul)
    }

    pub fn threads(&self) -> u32 {
        (32 * self.warps_m * self.warps_n) as u32
    }

    /// Bytes of a slice of A and B; an instruction takes `step_scales` block scales of a row.
    fn stage(&self, step_scales: usize) -> usize {
        (self.m + self.n) * (SLICE + STEPS * step_scales)
    }

    /// How many slices along k are under way.
    fn stages(&self, step_scales: usize) -> usize {
        (SHARED_MEMORY / self.stage(step_scales)).min(MOST_STAGES)
    }

    /// Bytes of shared memory of a block.
    pub fn shared_memory(&self, step_scales: usize) -> usize {
        self.stage(step_scales) * self.stages(step_scales)
    }

    /// The tile for the source.
    pub fn defines(&self, step_scales: usize) -> [(&'static str, u32); 5] {
        [
            ("TILE_M", self.m as u32),
            ("TILE_N", self.n as u32),
            ("WARPS_M", self.warps_m as u32),
            ("WARPS_N", self.warps_n as u32),
            ("STAGES", self.stages(step_scales) as u32),
        ]
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.m, self.n)
    }
}
