//! Picking by index.

use super::dense::Tensor;
use super::matmul::require_same_device;
use super::scaled::ScaledTensor;
use crate::device::Device;
use crate::error::Result;
use crate::format::BlockFormat;
use crate::num::{Element, Float, Scalar};
use crate::op::{Gather, Op, Operand};

/// A type that indices can have: u32, i32 or i64.
pub trait IndexElement: Scalar + Ord {}

impl IndexElement for u32 {}
impl IndexElement for i32 {}
impl IndexElement for i64 {}

/// Runs a gather into a new tensor.
fn gather_into<O: Element, I: IndexElement, const Q: usize, const S: usize>(
    device: &Device,
    table: Operand,
    axis: usize,
    indices: &Tensor<I, Q>,
) -> Result<Tensor<O, S>> {
    require_same_device(device, &indices.device)?;
    let indices = indices.operand();
    let dims = Gather::output_dims(&table, &indices, axis)?;
    let out = Tensor::for_result(device, dims.to_array()?)?;
    device.run(&Op::Gather(Gather { table, indices, axis, out: out.operand() }))?;
    Ok(out)
}

impl<E: Element, const R: usize> Tensor<E, R> {
    /// The slices at `indices` of dimension `axis`, which the dimensions of `indices` replace:
    /// `S` is `R + Q − 1`. Elements are moved bit for bit.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// let x = Tensor::from_host(&device, [2, 3], &[1, 2, 3, 4, 5, 6])?;
    /// let at = Tensor::from_host(&device, [2, 1], &[2u32, 0])?;
    /// let y: Tensor<i32, 3> = x.gather(1, &at)?;
    /// assert_eq!(y.shape(), [2, 2, 1]);
    /// assert_eq!(y.to_vec()?, [3, 1, 6, 4]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) for an index out of range, with its position;
    /// [`Error::Shape`](crate::Error::Shape) for a missing axis or another `S`.
    pub fn gather<I: IndexElement, const Q: usize, const S: usize>(
        &self,
        axis: usize,
        indices: &Tensor<I, Q>,
    ) -> Result<Tensor<E, S>> {
        gather_into(&self.device, self.operand(), axis, indices)
    }

    /// The slices at `indices` of dimension `axis`, in their order.
    ///
    /// # Errors
    /// Those of [`Tensor::gather`].
    pub fn index_select<I: IndexElement>(
        &self,
        axis: usize,
        indices: &Tensor<I, 1>,
    ) -> Result<Self> {
        self.gather(axis, indices)
    }
}

impl<E: Element> Tensor<E, 2> {
    /// The row of this table for each index: `S` is `Q + 1`.
    ///
    /// # Errors
    /// Those of [`Tensor::gather`].
    pub fn embed<I: IndexElement, const Q: usize, const S: usize>(
        &self,
        indices: &Tensor<I, Q>,
    ) -> Result<Tensor<E, S>> {
        self.gather(0, indices)
    }
}

impl<E: Float> Tensor<E, 2> {
    /// [`Tensor::embed`] with each element rounded once to `O`.
    ///
    /// # Errors
    /// Those of [`Tensor::gather`].
    pub fn embed_as<O: Float, I: IndexElement, const Q: usize, const S: usize>(
        &self,
        indices: &Tensor<I, Q>,
    ) -> Result<Tensor<O, S>> {
        gather_into(&self.device, self.operand(), 0, indices)
    }
}

impl<F: BlockFormat> ScaledTensor<F, 2> {
    /// The row of this table for each index, dequantised and rounded once to `O`: `S` is `Q + 1`.
    ///
    /// # Errors
    /// Those of [`Tensor::gather`].
    pub fn embed<O: Float, I: IndexElement, const Q: usize, const S: usize>(
        &self,
        indices: &Tensor<I, Q>,
    ) -> Result<Tensor<O, S>> {
        gather_into(self.device(), self.operand(), 0, indices)
    }
}
