//! Index operands as integers.

use super::launch::Launch;
use crate::error::{Error, Result};
use crate::num::DType;
use crate::op::Operand;

impl Launch<'_> {
    /// The values of a u32, i32 or i64 input in row-major order. Operations check them:
    /// [`Attention::sequences`](crate::op::Attention::sequences), for one, takes this as its
    /// reader.
    ///
    /// # Errors
    /// [`Error::DType`] for another type.
    pub fn read_indices(&self, operand: &Operand) -> Result<Vec<i64>> {
        match operand.dtype() {
            Some(DType::I32) => Ok(in_order(operand, self.read_dense::<i32>(operand)?)),
            Some(DType::I64) => Ok(in_order(operand, self.read_dense::<i64>(operand)?)),
            Some(DType::U32) => Ok(in_order(operand, self.read_dense::<u32>(operand)?)),
            _ => Err(Error::dtype(
                self.op.kind().name(),
                "index",
                format!("it is {operand}; u32, i32 or i64 is expected"),
            )),
        }
    }
}

/// Strided elements in row-major order.
fn in_order<E: Copy + Into<i64>>(operand: &Operand, elements: &[E]) -> Vec<i64> {
    let Operand::Dense(dense) = operand else { return Vec::new() };
    dense.offsets().into_iter().map(|at| elements[at].into()).collect()
}
