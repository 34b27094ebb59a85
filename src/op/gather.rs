//! Rows, or other slices, picked by index: embeddings.

use super::check::require_dims;
use super::dims::Dims;
use super::operand::{Operand, Use};
use crate::error::{Error, Result};
use crate::num::DType;

const OP: &str = "gather";

/// `out[.., i.., ..] = table[.., indices[i..], ..]`: the indices run along dimension `axis`.
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `table` | `[before.., size, after..]`, `size` at `axis` | any |
/// | `indices` | any sizes | u32, i32 or i64 |
/// | `out` | `[before.., sizes of indices.., after..]` | `table`'s, or any float for a float or block format |
///
/// With equal types elements are moved as they are, bit for bit; else each is rounded once, to
/// nearest even. An index below 0 or not below `size` is an error ([`Error::Value`]) that only the
/// data can show; `out` then holds anything.
#[derive(Clone, Debug)]
pub struct Gather {
    /// What is picked from.
    pub table: Operand,
    /// What is picked.
    pub indices: Operand,
    /// The dimension of `table` that the indices run along.
    pub axis: usize,
    /// The result.
    pub out: Operand,
}

impl Gather {
    /// The types that indices may have.
    pub const INDEX_TYPES: [DType; 3] = [DType::U32, DType::I32, DType::I64];

    /// `out[i.., ..] = table[indices[i..], ..]`.
    pub fn new(
        table: impl Into<Operand>,
        indices: impl Into<Operand>,
        out: impl Into<Operand>,
    ) -> Self {
        Gather { table: table.into(), indices: indices.into(), axis: 0, out: out.into() }
    }

    /// Sizes of the output for operands of these sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is no such axis, or the output has too many dimensions.
    pub fn output_dims(table: &Operand, indices: &Operand, axis: usize) -> Result<Dims> {
        let (dims, picked) = (table.dims(), indices.dims());
        if axis >= dims.len() {
            return Err(Error::shape(
                OP,
                "axis",
                format!("{axis} is not one of the {} dimensions of table, {table}", dims.len()),
            ));
        }
        Dims::new(&[&dims[..axis], &picked[..], &dims[axis + 1..]].concat())
    }

    /// The position in the table that an index stands for. For kernels: the error names the place
    /// of the index (its row-major position in `indices`), its value and the valid range.
    ///
    /// # Errors
    /// [`Error::Value`] when the index is not in `0..size`.
    pub fn check_index(&self, position: usize, index: i64, size: usize) -> Result<usize> {
        match usize::try_from(index) {
            Ok(at) if at < size => Ok(at),
            _ => Err(Error::value(
                OP,
                "indices",
                format!(
                    "index {index} at position {position} of indices, {}, is not in 0..{size}, \
                     the size of dimension {} of table, {}",
                    self.indices, self.axis, self.table
                ),
            )),
        }
    }

    /// What is wrong with an index that a kernel found not to be in range, at its row-major position
    /// in `indices`.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn astray(&self, position: usize) -> Error {
        Error::value(
            OP,
            "indices",
            format!(
                "the index at position {position} of indices, {}, is not in the range of dimension \
                 {} of table, {}",
                self.indices, self.axis, self.table
            ),
        )
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        vec![
            Use::read("table", &self.table),
            Use::read("indices", &self.indices),
            Use::write("out", &self.out),
        ]
    }

    pub(super) fn validate(&self) -> Result<()> {
        let expected = Self::output_dims(&self.table, &self.indices, self.axis)?;
        self.indices.require_dtype(OP, "indices", &Self::INDEX_TYPES)?;
        require_dims(OP, "out", &self.out, &expected)?;
        let float = |o: &Operand| o.dtype().is_none_or(DType::is_float);
        let same = self.table.dtype().is_some() && self.table.dtype() == self.out.dtype();
        let converts = float(&self.table) && self.out.dtype().is_some_and(DType::is_float);
        if same || converts {
            return Ok(());
        }
        Err(Error::dtype(
            OP,
            "out",
            format!(
                "out is {}, table is {}: the table's own type, or a float for a table of floats or \
                 of a block format, is expected",
                self.out, self.table
            ),
        ))
    }
}
