//! Index operands as integers.

use super::launch::Launch;
use crate::caps::MemoryKind;
use crate::error::{Error, Result};
use crate::num::{DType, Element};
use crate::op::Operand;

impl Launch<'_> {
    /// The values of a u32, i32 or i64 input in row-major order. Operations check them:
    /// [`Attention::sequences`](crate::op::Attention::sequences), for one, takes this as its
    /// reader.
    ///
    /// Where the host can not touch them, they are copied.
    ///
    /// # Errors
    /// [`Error::DType`] for another type.
    pub fn read_indices(&self, operand: &Operand) -> Result<Vec<i64>> {
        match operand.dtype() {
            Some(DType::I32) => self.indices_of::<i32>(operand),
            Some(DType::I64) => self.indices_of::<i64>(operand),
            Some(DType::U32) => self.indices_of::<u32>(operand),
            _ => Err(Error::dtype(
                self.op.kind().name(),
                "index",
                format!("it is {operand}; u32, i32 or i64 is expected"),
            )),
        }
    }

    fn indices_of<E: Element + Into<i64>>(&self, operand: &Operand) -> Result<Vec<i64>> {
        let region = operand.as_dense().and_then(|dense| dense.data.as_ref());
        let Some(region) = region.filter(|r| r.buffer().kind() == MemoryKind::Device) else {
            return Ok(in_order(operand, self.read_dense::<E>(operand)?));
        };
        let mut elements = vec![E::zeroed(); region.len() / size_of::<E>()];
        self.copy(region, bytemuck::cast_slice_mut(&mut elements))?;
        Ok(in_order(operand, &elements))
    }

    /// Whether a kernel had better read an index operand itself: the operation is recorded, and run
    /// again for other values, or the host would have to wait and to copy it.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn defers(&self, operand: &Operand) -> bool {
        let mut regions = operand.regions();
        self.locks().are_recorded()
            || regions.any(|region| region.buffer().kind() == MemoryKind::Device)
    }
}

/// Strided elements in row-major order.
fn in_order<E: Copy + Into<i64>>(operand: &Operand, elements: &[E]) -> Vec<i64> {
    let Operand::Dense(dense) = operand else { return Vec::new() };
    if dense.is_contiguous() {
        let len = dense.dims.iter().product();
        return elements.iter().take(len).map(|&element| element.into()).collect();
    }
    dense.offsets().into_iter().map(|at| elements[at].into()).collect()
}
