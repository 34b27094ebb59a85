//! What one warp of the streaming kernel has under way.

use super::tile::{MOST_STAGES, SHARED_MEMORY};

/// Columns of a block, as in the source.
pub(super) const COLS: usize = 16;

/// Bytes of a column in a stage, as in the source.
const BYTES: usize = 64;

/// Stages of a warp for a few rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stages {
    /// Rows that there is room for.
    pub rows: usize,
    /// How many stages.
    pub count: usize,
    /// Bytes of one.
    size: usize,
}

impl Stages {
    /// How many rows there is room for.
    pub const ROWS: [usize; 3] = [1, 8, 16];

    /// The most rows.
    pub const MOST_ROWS: usize = 16;

    /// For `m` rows of 16-bit elements, columns of as many half bytes an element, and scale bytes
    /// of a column in a stage.
    pub fn new(m: usize, nibbles: usize, scales: usize) -> Self {
        let rows = Self::ROWS.into_iter().find(|&rows| m <= rows).unwrap_or(Self::MOST_ROWS);
        let elements = 2 * BYTES / nibbles;
        let size = COLS * (BYTES + scales) + rows * elements * 2;
        let count = (SHARED_MEMORY / (super::MOST_PARTS * size)).min(MOST_STAGES);
        Stages { rows, count, size }
    }

    /// Bytes of shared memory of a block of so many warps.
    pub fn shared_memory(&self, warps: usize) -> usize {
        warps * self.count * self.size
    }
}
