//! The largest elements of rows.

use super::check::require_dims;
use super::operand::{Operand, Use};
use crate::error::{Error, Result};
use crate::num::DType;

/// The `k` largest elements of each row of `x`, and where they are, largest first.
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `x` | `[.., n]` | any float or block format |
/// | `values` | `[.., k]`, `k ≤ n` | any float |
/// | `indices` | `[.., k]` | u32, i32 or i64 |
///
/// `k` is the last size of `values`. Of equal elements (+0 and −0 are) the one with the lower
/// index comes first. NaN is larger than any number, and equal to NaN.
#[derive(Clone, Debug)]
pub struct TopK {
    /// What is searched.
    pub x: Operand,
    /// The largest elements.
    pub values: Operand,
    /// Their indices in the row.
    pub indices: Operand,
}

impl TopK {
    /// The types that `indices` may have.
    pub const INDEX_TYPES: [DType; 3] = [DType::U32, DType::I32, DType::I64];

    /// The largest elements of the rows of `x`, as many as `values` and `indices` have room for.
    pub fn new(
        x: impl Into<Operand>,
        values: impl Into<Operand>,
        indices: impl Into<Operand>,
    ) -> Self {
        TopK { x: x.into(), values: values.into(), indices: indices.into() }
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        vec![
            Use::read("x", &self.x),
            Use::write("values", &self.values),
            Use::write("indices", &self.indices),
        ]
    }

    pub(super) fn validate(&self) -> Result<()> {
        const OP: &str = "top_k";
        let (dims, found) = (self.x.dims(), self.values.dims());
        let (Some(&n), Some(&k)) = (dims.last(), found.last()) else {
            return Err(Error::shape(
                OP,
                "x, values",
                format!(
                    "x is {}, values is {}: at least 1 dimension is expected",
                    self.x, self.values
                ),
            ));
        };
        self.x.require_float(OP, "x")?;
        self.values.require_dense_float(OP, "values")?;
        if k > n {
            return Err(Error::shape(
                OP,
                "values",
                format!("values is {}, x is {}: {k} of {n} elements", self.values, self.x),
            ));
        }
        let expected = [dims.leading(1), &[k]].concat();
        require_dims(OP, "values", &self.values, &expected)?;
        require_dims(OP, "indices", &self.indices, &expected)?;
        self.indices.require_dtype(OP, "indices", &Self::INDEX_TYPES)
    }
}
