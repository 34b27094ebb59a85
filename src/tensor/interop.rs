//! From and to `Vec`, single elements, and counting.

use std::ops::Range;

use super::any::AnyTensor;
use super::dense::Tensor;
use super::host::HostView;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::num::{DType, Element, Scalar};

impl<E: Element> Tensor<E, 1> {
    /// The elements of a vector, copied to the device.
    ///
    /// # Errors
    /// Those of [`Tensor::zeros`].
    pub fn from_vec(device: &Device, data: Vec<E>) -> Result<Self> {
        Self::from_host(device, [data.len()], &data)
    }
}

impl<E: Scalar> Tensor<E, 1> {
    /// The whole numbers of a range, each rounded once where `E` does not have it.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let x: Tensor<f32, 1> = Tensor::arange(&Device::cpu(), -1..3)?;
    /// assert_eq!(x.to_vec()?, [-1.0, 0.0, 1.0, 2.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Tensor::zeros`].
    pub fn arange(device: &Device, range: Range<i32>) -> Result<Self> {
        let data: Vec<E> = range.map(|i| E::from_f64(f64::from(i))).collect();
        Self::from_vec(device, data)
    }
}

impl<E: Element> Tensor<E, 0> {
    /// The element of a tensor without dimensions.
    ///
    /// # Errors
    /// Those of [`Tensor::host`].
    pub fn item(&self) -> Result<E> {
        Ok(HostView::copied(self)?[[]])
    }
}

impl<E: Element, const R: usize> TryFrom<&Tensor<E, R>> for Vec<E> {
    type Error = Error;

    /// A copy of the elements in row-major order: [`Tensor::to_vec`].
    fn try_from(tensor: &Tensor<E, R>) -> Result<Self> {
        tensor.to_vec()
    }
}

impl AnyTensor {
    /// The values as f32 in row-major order, rounded once where they are not.
    ///
    /// ```
    /// use ferrocerium::{AnyTensor, Device, Tensor, bf16, format::Mxfp8, F8E4M3};
    /// let x = Tensor::full(&Device::cpu(), [2, 16], bf16::from_f32(1.5))?;
    /// assert_eq!(AnyTensor::from(x.clone()).to_f32_vec()?, [1.5; 32]);
    /// assert_eq!(AnyTensor::from(x.quantize::<Mxfp8<F8E4M3>>()?).to_f32_vec()?, [1.5; 32]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`AnyTensor::cast`].
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        let cast = self.cast(DType::F32)?;
        let bytes = cast
            .operand()
            .regions()
            .next()
            .map(|region| Ok(bytemuck::cast_slice(&region.to_host()?).to_vec()));
        bytes.unwrap_or_else(|| Ok(Vec::new()))
    }
}
