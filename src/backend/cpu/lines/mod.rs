//! Operands as lines along their last dimension: read as f32, computed, written in the output's
//! type.
//!
//! ```text
//! pieces of lines of the output, spread over the threads:
//!     f(piece) gives it in f32, mostly by reading the same piece of the inputs
//!     one rounding to the output's type, or the blocks of its format
//! ```

mod read;
mod write;

use std::ops::Range;

pub(super) use read::{Lines, vector};
pub(super) use write::{Writing, lines_of, write_lines};

/// A stretch of a line, counted in row-major order of the leading sizes.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub line: usize,
    pub cols: Range<usize>,
}
