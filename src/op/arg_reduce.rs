//! Where the largest or smallest element is.

use super::check::require_dims;
use super::dims::Dims;
use super::operand::{Operand, Use};
use crate::error::{Error, Result};
use crate::num::DType;

const OP: &str = "arg_reduce";

/// `out` = the index, along dimension `axis`, of the largest (or smallest) element of `x`.
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `x` | any | any float or block format |
/// | `out` | `x`'s without that of `axis` | u32, i32 or i64 |
///
/// Of equal elements (+0 and −0 are) the first counts. NaN is larger than any number, and equal
/// to NaN. A dimension of size 0 has no largest element: an error, unless `out` is empty.
#[derive(Clone, Debug)]
pub struct ArgReduce {
    /// What is searched.
    pub x: Operand,
    /// The dimension that is searched.
    pub axis: usize,
    /// Whether the largest is sought, not the smallest.
    pub largest: bool,
    /// The result.
    pub out: Operand,
}

impl ArgReduce {
    /// The types that `out` may have.
    pub const INDEX_TYPES: [DType; 3] = [DType::U32, DType::I32, DType::I64];

    /// `out` = index of the largest element along `axis`.
    pub fn max(x: impl Into<Operand>, axis: usize, out: impl Into<Operand>) -> Self {
        ArgReduce { x: x.into(), axis, largest: true, out: out.into() }
    }

    /// `out` = index of the smallest element along `axis`.
    pub fn min(x: impl Into<Operand>, axis: usize, out: impl Into<Operand>) -> Self {
        ArgReduce { x: x.into(), axis, largest: false, out: out.into() }
    }

    /// Sizes of the output.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is no such axis.
    pub fn output_dims(x: &Operand, axis: usize) -> Result<Dims> {
        let dims = x.dims();
        if axis >= dims.len() {
            return Err(Error::shape(
                OP,
                "axis",
                format!("{axis} is not one of the {} dimensions of x, {x}", dims.len()),
            ));
        }
        Dims::new(&[&dims[..axis], &dims[axis + 1..]].concat())
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        vec![Use::read("x", &self.x), Use::write("out", &self.out)]
    }

    pub(super) fn validate(&self) -> Result<()> {
        self.x.require_float(OP, "x")?;
        let expected = Self::output_dims(&self.x, self.axis)?;
        require_dims(OP, "out", &self.out, &expected)?;
        self.out.require_dtype(OP, "out", &Self::INDEX_TYPES)?;
        if self.x.dims()[self.axis] == 0 && !expected.contains(&0) {
            return Err(Error::shape(
                OP,
                "x",
                format!("x is {}: dimension {} has no elements to search", self.x, self.axis),
            ));
        }
        Ok(())
    }
}
