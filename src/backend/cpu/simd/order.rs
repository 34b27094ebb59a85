//! In what order weights are read, and so what to ask memory for ahead.

use super::stream::{AHEAD, NEAR, chunk};
use super::unpack::Storage;
use super::weights::Weights;

/// The order that a block of rows is read in: all rows of a chunk, then those of the next.
pub(super) struct Order {
    rows: usize,
    chunks: usize,
    row_bytes: usize,
    chunk_bytes: usize,
    /// How many rows of a chunk are read between asking for one and its use; 0 to leave that to the
    /// processor.
    later: usize,
}

impl Order {
    pub fn new<U: Storage>(weights: &Weights<'_>, rows: usize, at_once: usize) -> Self {
        let (k, row_bytes) = (weights.k(), weights.row_bytes());
        let chunks = k.div_ceil(chunk(k));
        let chunk_bytes = U::code_bytes(chunk(k));
        // Of rows that are read to their end all that are read at once.
        let whole = if rows <= at_once { at_once * chunks } else { 0 };
        let later = AHEAD.div_ceil(chunk_bytes).next_multiple_of(at_once).max(whole);
        let later = if at_once * row_bytes <= NEAR { later } else { 0 };
        Order { rows, chunks, row_bytes, chunk_bytes, later }
    }

    /// Bytes from a chunk of a row to what is to be asked for when it is read: 0 for nothing.
    pub fn ahead(&self, row: usize, chunk: usize) -> isize {
        let (place, passed) = ((row + self.later) % self.rows, (row + self.later) / self.rows);
        let (to_chunk, blocks) = ((chunk + passed) % self.chunks, (chunk + passed) / self.chunks);
        let rows = (blocks * self.rows + place) as isize - row as isize;
        let chunks = to_chunk as isize - chunk as isize;
        rows * self.row_bytes as isize + chunks * self.chunk_bytes as isize
    }
}
