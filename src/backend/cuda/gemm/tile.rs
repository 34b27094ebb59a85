//! What one block of threads computes.

use std::fmt;

use super::product::Product;
use super::split::Split;

/// Bytes along k of a slice, as in the source.
pub(super) const SLICE: usize = 128;

/// Instructions along k of a slice, as in the source.
pub(super) const STEPS: usize = 4;

/// Shared memory that every multiprocessor has, and what of it a block takes for itself.
const UNIT_MEMORY: usize = 100 << 10;
const RESERVED: usize = 1 << 10;

/// Shared memory that a block has on every target, alone on a multiprocessor.
pub(super) const SHARED_MEMORY: usize = UNIT_MEMORY - RESERVED;

/// The most slices along k that are under way: more than hide the latency of memory.
pub(super) const MOST_STAGES: usize = 4;

/// A tile of D, and the warps that share it.
///
/// The order of additions along k is the same in all of them: which one is chosen does not
/// change a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub m: usize,
    n: usize,
    warps_m: usize,
    warps_n: usize,
    /// Blocks of a multiprocessor.
    pub resident: usize,
}

impl Tile {
    /// For a few rows: one fragment of them, so that little is computed in vain.
    const FLAT: Tile = Tile { m: 16, n: 64, warps_m: 1, warps_n: 4, resident: 2 };
    /// For products that large tiles would not spread over all multiprocessors.
    const SMALL: Tile = Tile { m: 64, n: 64, warps_m: 2, warps_n: 2, resident: 2 };
    /// Two or three slices fill shared memory.
    const LARGE: Tile = Tile { m: 128, n: 128, warps_m: 2, warps_n: 4, resident: 1 };
    /// Smaller, where threads keep more sums than those of each element.
    const FOLDED: Tile = Tile { m: 128, n: 96, warps_m: 4, warps_n: 2, resident: 1 };

    /// The tiles of products whose sums are folded, or are not.
    pub fn all(folds: bool) -> [Tile; 3] {
        [Self::FLAT, Self::SMALL, if folds { Self::FOLDED } else { Self::LARGE }]
    }

    /// The tile for a product on a machine of `units` multiprocessors.
    pub fn choose(product: &Product<'_>, units: usize, folds: bool) -> Tile {
        let [flat, small, large] = Self::all(folds);
        if Self::is_flat(product) {
            flat
        } else if large.blocks(product) >= units {
            large
        } else {
            small
        }
    }

    /// Whether the tile is for a few rows.
    pub fn is_flat(product: &Product<'_>) -> bool {
        product.rows() <= Self::FLAT.m
    }

    /// Blocks for a product; the largest number where it is beyond all.
    pub fn blocks(&self, product: &Product<'_>) -> usize {
        product.blocks(self.m, self.n)
    }

    /// How those that share a tile share the parts of k.
    pub fn split(&self, product: &Product<'_>, units: usize) -> Split {
        match self.splits() {
            true => Split::of_tiles(self.blocks(product), product.parts(), units),
            false => Split::NONE,
        }
    }

    /// Whether there can be too few of them: large ones are chosen where there are enough.
    fn splits(&self) -> bool {
        self.m < Self::LARGE.m
    }

    pub fn threads(&self) -> u32 {
        (32 * self.warps_m * self.warps_n) as u32
    }

    /// Bytes of a slice of A and B, of whose rows scales take so many.
    fn stage(&self, scales: [usize; 2]) -> usize {
        let of_rows = self.m * (SLICE + scales[0]) + self.n * (SLICE + scales[1]);
        of_rows.next_multiple_of(SLICE)
    }

    /// How many slices along k are under way.
    fn stages(&self, scales: [usize; 2]) -> usize {
        let of_block = UNIT_MEMORY / self.resident - RESERVED;
        (of_block / self.stage(scales)).min(MOST_STAGES)
    }

    /// Bytes of shared memory of a block, where scales take so many of a slice's rows.
    pub fn shared_memory(&self, scales: [usize; 2]) -> usize {
        self.stage(scales) * self.stages(scales)
    }

    /// The tile for the source.
    pub fn defines(&self, scales: [usize; 2]) -> [(&'static str, u32); 7] {
        [
            ("TILE_M", self.m as u32),
            ("TILE_N", self.n as u32),
            ("WARPS_M", self.warps_m as u32),
            ("WARPS_N", self.warps_n as u32),
            ("RESIDENT", self.resident as u32),
            ("STAGES", self.stages(scales) as u32),
            ("SPLITS", self.splits().into()),
        ]
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.m, self.n)
    }
}
