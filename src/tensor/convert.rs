//! The same values in another type, format or place.

use super::dense::Tensor;
use super::matmul::require_same_device;
use super::scaled::ScaledTensor;
use crate::error::Result;
use crate::format::{BlockFormat, QuantizeOptions, Quantizer};
use crate::num::{Element, Float};
use crate::op::{Convert, Op};

impl<F: BlockFormat, const R: usize> ScaledTensor<F, R> {
    /// `code · scale · g` for each element, rounded once to `E`.
    pub fn dequantize<E: Float>(&self) -> Result<Tensor<E, R>> {
        let out = Tensor::zeros(&self.device, self.shape())?;
        self.device.run(&Op::Convert(Convert::new(self.operand(), out.operand())))?;
        Ok(out)
    }

    /// [`ScaledTensor::dequantize`] into the memory of `out`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the shapes differ.
    pub fn dequantize_into<E: Float>(&self, out: &Tensor<E, R>) -> Result<()> {
        require_same_device(&self.device, &out.device)?;
        self.device.run(&Op::Convert(Convert::new(self.operand(), out.operand())))
    }
}

impl<E: Float, const R: usize> Tensor<E, R> {
    /// The values in block format `F`, scales chosen by the format's default quantiser.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) when a value is NaN or infinite.
    pub fn quantize<F: BlockFormat>(&self) -> Result<ScaledTensor<F, R>> {
        self.quantize_with(Quantizer::default_for(F::FORMAT))
    }

    /// The values in block format `F`, scales chosen by `quantizer`.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) when a value is NaN or infinite, or the quantiser does not make `F`.
    pub fn quantize_with<F: BlockFormat>(
        &self,
        quantizer: Quantizer,
    ) -> Result<ScaledTensor<F, R>> {
        let out = ScaledTensor::zeros(&self.device, self.shape())?;
        let mut op = Convert::new(self.operand(), out.operand());
        op.quantizer = Some(quantizer);
        self.device.run(&Op::Convert(op))?;
        Ok(out)
    }

    /// The values in block format `F` in the memory of `out`, with a quantiser or with all
    /// options: a fixed tensor scale, say, to write a part of a larger tensor.
    ///
    /// ```
    /// use ferrocerium::{Device, ScaledTensor, Tensor, format::{Nvfp4, Quantizer}};
    /// let device = Device::cpu();
    /// let x = Tensor::full(&device, [1, 16], 3.0f32)?;
    /// let out = ScaledTensor::<Nvfp4, 2>::zeros(&device, [1, 16])?;
    /// x.quantize_into(&out, Quantizer::Amax.with_tensor_scale(0.5))?;
    /// assert_eq!(out.dequantize::<f32>()?.to_vec()?, [3.0; 16]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Tensor::quantize_with`]; [`Error::Shape`](crate::Error::Shape) when the shapes
    /// differ; [`Error::Value`](crate::Error::Value) for a tensor scale that the format has no
    /// place for.
    pub fn quantize_into<F: BlockFormat>(
        &self,
        out: &ScaledTensor<F, R>,
        options: impl Into<QuantizeOptions>,
    ) -> Result<()> {
        require_same_device(&self.device, &out.device)?;
        let QuantizeOptions { quantizer, tensor_scale } = options.into();
        let mut op = Convert::new(self.operand(), out.operand());
        op.quantizer = Some(quantizer);
        op.tensor_scale = tensor_scale;
        self.device.run(&Op::Convert(op))
    }
}

impl<E: Element, const R: usize> Tensor<E, R> {
    /// A tensor whose elements are contiguous: this one (shared) when they are, else a copy.
    pub fn contiguous(&self) -> Result<Self> {
        if self.is_contiguous() {
            return Ok(self.clone());
        }
        self.copy()
    }

    /// A copy in memory of its own, row-major.
    pub fn copy(&self) -> Result<Self> {
        let out = Tensor::zeros(&self.device, self.shape())?;
        out.copy_from(self)?;
        Ok(out)
    }

    /// Writes the elements of `src` into this tensor's memory; clones and views see them. `src`
    /// may be another device's, in memory that this tensor's device can read.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the shapes differ; [`Error::Layout`](crate::Error::Layout) when both lie in one buffer.
    pub fn copy_from(&self, src: &Tensor<E, R>) -> Result<()> {
        self.device.run(&Op::Convert(Convert::new(src.operand(), self.operand())))
    }

    /// Each element as an `O`: exact, or rounded to nearest even once.
    pub fn cast<O: Element>(&self) -> Result<Tensor<O, R>> {
        let out = Tensor::zeros(&self.device, self.shape())?;
        self.device.run(&Op::Convert(Convert::new(self.operand(), out.operand())))?;
        Ok(out)
    }
}
