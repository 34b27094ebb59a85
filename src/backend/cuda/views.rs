//! Elements of operands by their row-major position: `kernels/include/views.cuh`.

use bytemuck::{Pod, Zeroable};

use crate::error::{Error, Result};
use crate::memory::Access;
use crate::op::{Dense, MAX_RANK, Operand};

use super::gpu::Call;

/// `Dimensions`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Dimensions {
    count: i32,
    size: [i32; MAX_RANK],
    reserved: i32,
    stride: [i64; MAX_RANK],
}

impl Dimensions {
    /// Some dimensions of an operand, outermost first; neighbours that are one in memory are one
    /// here. Positions in them must fit an `i32`.
    pub fn new(dense: &Dense, axes: impl DoubleEndedIterator<Item = usize>) -> Self {
        let mut merged: Vec<(i32, i64)> = Vec::new();
        for axis in axes.rev().filter(|&axis| dense.dims[axis] != 1) {
            let (size, stride) = (dense.dims[axis], dense.strides[axis] * dense.dtype.size());
            let (size, stride) = (size as i32, stride as i64);
            match merged.last_mut() {
                Some((inner, step)) if stride == *step * i64::from(*inner) => *inner *= size,
                _ => merged.push((size, stride)),
            }
        }
        let mut dimensions =
            Dimensions { count: merged.len() as i32, size: [1; MAX_RANK], ..Self::zeroed() };
        for (i, (size, stride)) in merged.into_iter().rev().enumerate() {
            (dimensions.size[i], dimensions.stride[i]) = (size, stride);
        }
        dimensions
    }

    /// Each dimension's stride, in bytes, outermost first.
    pub fn strides(&self) -> &[i64] {
        &self.stride[..self.count as usize]
    }

    /// The innermost dimension's size and stride, and the strides of the others.
    pub fn innermost(&self) -> Option<((usize, i64), &[i64])> {
        let (&step, outer) = self.strides().split_last()?;
        Some(((self.size[outer.len()] as usize, step), outer))
    }
}

/// A plain operand and the address of its first element; 0 where there is none.
pub(super) fn bind<'o>(
    call: &mut Call<'_, '_>,
    arg: &'static str,
    operand: &'o Operand,
    access: Access,
) -> Result<(&'o Dense, u64)> {
    let missing = || Error::layout("launch", arg, format!("{operand} has no plain elements"));
    let dense = operand.as_dense().ok_or_else(missing)?;
    let region = dense.data.as_ref().ok_or_else(missing)?;
    let address = match access {
        Access::Read => call.input(region)?,
        Access::Write => call.output(region)?,
    };
    Ok((dense, address))
}
