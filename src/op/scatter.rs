//! Rows, or other slices, put where indices say: keys and values into caches.

use super::check::require_dims;
use super::indices::{indices, require_index};
use super::operand::{Operand, Use};
use crate::error::{Error, Result};

const OP: &str = "scatter";

/// Moves slices along one dimension to places that are data:
///
/// ```text
/// out[.., indices[i], ..] = src[.., i, ..]
/// ```
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `src` | `[before.., n, after..]`, `n` at `axis` | any |
/// | `indices` | `[n]` | u32, i32 or i64 |
/// | `out` | `[before.., size, after..]`, `size` at `axis` | `src`'s |
///
/// Elements are moved as they are, bit for bit. What no index names in `out` is left as it is, and
/// of several slices with the same index the last one stays. An index below 0 or not below `size`
/// is an error ([`Error::Value`]) that only the data can show; the slices that are named then hold
/// anything.
#[derive(Clone, Debug)]
pub struct Scatter {
    /// What is moved.
    pub src: Operand,
    /// Where each slice goes.
    pub indices: Operand,
    /// The dimension that the indices run along.
    pub axis: usize,
    /// The memory that receives them.
    pub out: Operand,
}

impl Scatter {
    /// The place of each slice, from the values of `indices`.
    ///
    /// # Errors
    /// [`Error::Value`] for one that is not in `out`.
    pub fn places(&self, values: &[i64]) -> Result<Vec<usize>> {
        indices(OP, "indices", values, self.out.dims()[self.axis])
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        vec![
            Use::read("src", &self.src),
            Use::read("indices", &self.indices),
            Use::write("out", &self.out),
        ]
    }

    pub(super) fn validate(&self) -> Result<()> {
        let (src, mut expected) = (self.src.dims(), self.out.dims());
        let Some(n) = src.get(self.axis).filter(|_| self.axis < expected.len()) else {
            let rank = expected.len();
            let problem = format!("{} is not one of the {rank} dimensions of out", self.axis);
            return Err(Error::shape(OP, "axis", format!("{problem}, {}", self.out)));
        };
        require_index(OP, "indices", &self.indices, &[*n])?;
        expected[self.axis] = *n;
        require_dims(OP, "src", &self.src, &expected)?;
        if self.src.dtype().is_some() && self.src.dtype() == self.out.dtype() {
            return Ok(());
        }
        let problem = "plain elements of one type are moved; convert src first";
        Err(Error::dtype(OP, "src", format!("src is {}, out is {}: {problem}", self.src, self.out)))
    }
}
