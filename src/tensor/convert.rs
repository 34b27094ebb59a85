//! The same values in another type, format or place.

use super::dense::Tensor;
use super::matmul::require_same_device;
use super::scaled::ScaledTensor;
use crate::caps::MemoryKind;
use crate::device::Device;
use crate::error::Result;
use crate::format::{BlockFormat, QuantizeOptions, Quantizer};
use crate::memory::Region;
use crate::num::{Element, Float};
use crate::op::{Convert, Op};

impl<F: BlockFormat, const R: usize> ScaledTensor<F, R> {
    /// `code · scale · g` for each element, rounded once to `E`.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, bf16, format::Mxfp4};
    /// let x = Tensor::from_host(&Device::cpu(), [1, 3], &[0.5f32, -3.0, 2.2])?;
    /// let back: Tensor<bf16, 2> = x.quantize::<Mxfp4>()?.dequantize()?;
    /// assert_eq!(back.to_vec()?, [0.5, -3.0, 2.0].map(bf16::from_f32));
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn dequantize<E: Float>(&self) -> Result<Tensor<E, R>> {
        let out = Tensor::for_result(&self.device, self.shape())?;
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
    /// The values in block format `F`, scales chosen by the format's default quantiser. Blocks
    /// run along the last dimension; a tail is padded in storage, never in the shape.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, format::Nvfp4};
    /// let w = Tensor::from_fn(&Device::cpu(), [4, 20], |[_, j]| j as f32)?;
    /// let q = w.quantize::<Nvfp4>()?;
    /// assert_eq!(q.shape(), [4, 20]);
    /// assert_eq!(q.bytes(), 4 * (32 / 2 + 2) + 4);           // codes, scales, tensor scale
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) when a value is NaN or infinite.
    pub fn quantize<F: BlockFormat>(&self) -> Result<ScaledTensor<F, R>> {
        self.quantize_with(Quantizer::default_for(F::FORMAT))
    }

    /// The values in block format `F`, scales chosen by `quantizer`.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, format::{Mxfp4, Nvfp4, Quantizer}};
    /// let w = Tensor::from_fn(&Device::cpu(), [4, 32], |[i, j]| ((i * 32 + j) as f32).sin())?;
    /// let q = w.quantize_with::<Nvfp4>(Quantizer::FourOverSix)?;
    /// let refused = w.quantize_with::<Mxfp4>(Quantizer::FourOverSix).unwrap_err().to_string();
    /// assert!(refused.contains("does not make mxfp4"));
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
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
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let x = Tensor::from_host(&Device::cpu(), [2, 2], &[1, 2, 3, 4])?;
    /// assert!(x.t().reshape([4]).is_err());
    /// assert_eq!(x.t().contiguous()?.reshape([4])?.to_vec()?, [1, 3, 2, 4]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Tensor::copy`].
    pub fn contiguous(&self) -> Result<Self> {
        if self.is_contiguous() {
            return Ok(self.clone());
        }
        self.copy()
    }

    /// A copy in memory of its own, row-major.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn copy(&self) -> Result<Self> {
        self.to_device(&self.device)
    }

    /// A copy in memory of another device, row-major.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let x = Tensor::from_host(&Device::cpu(), [2], &[1.0f32, 2.0])?;
    /// let reference = Device::reference();
    /// let y = x.to_device(&reference)?;
    /// assert!(y.device().is_same(&reference));
    /// assert_eq!(y.to_vec()?, [1.0, 2.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) over that device's budget; those of
    /// [`Tensor::copy_from`].
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let out = Tensor::zeros(device, self.shape())?;
        if self.is_contiguous() {
            self.region.copy_to(out.region.buffer().clone())?;
        } else if device.reaches(self.region.buffer()) {
            out.copy_from(self)?;
        } else {
            out.region.buffer().copy_from_host(0, bytemuck::cast_slice(&self.to_vec()?))?;
        }
        Ok(out)
    }

    /// The same elements in memory of another kind on the same device: shared where they are there
    /// already, else copied, with the same strides.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, caps::MemoryKind};
    /// let x = Tensor::from_host(&Device::cpu(), [2], &[1.0f32, 2.0])?;
    /// assert_eq!(x.to_kind(MemoryKind::Host)?.to_vec()?, [1.0, 2.0]);
    /// let refused = x.to_kind(MemoryKind::Device).unwrap_err().to_string();
    /// assert!(refused.contains("cpu allocates no device memory"), "{refused}");
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Device::allocate_kind`].
    pub fn to_kind(&self, kind: MemoryKind) -> Result<Self> {
        let region = to_kind(&self.device, &self.region, kind)?;
        Ok(Tensor { region, ..self.clone() })
    }

    /// Writes the elements of `src` into this tensor's memory; clones and views see them. `src`
    /// may be another device's, in memory that this tensor's device can read.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// let cache = Tensor::<f32, 2>::zeros(&device, [3, 2])?;
    /// let row = Tensor::from_host(&device, [1, 2], &[1.0f32, 2.0])?;
    /// cache.slice(0, 1..2)?.copy_from(&row)?;
    /// assert_eq!(cache.to_vec()?, [0.0, 0.0, 1.0, 2.0, 0.0, 0.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the shapes differ; [`Error::Layout`](crate::Error::Layout) when both lie in one buffer.
    pub fn copy_from(&self, src: &Tensor<E, R>) -> Result<()> {
        self.device.run(&Op::Convert(Convert::new(src.operand(), self.operand())))
    }

    /// Each element as an `O`: exact, or rounded to nearest even once. Types without infinities
    /// saturate; integers truncate toward 0.
    ///
    /// ```
    /// use ferrocerium::{Device, F8E4M3, Tensor};
    /// let x = Tensor::from_host(&Device::cpu(), [3], &[0.3f32, -1000.0, 17.0])?;
    /// let narrow: Tensor<F8E4M3, 1> = x.cast()?;
    /// assert_eq!(narrow.cast::<f32>()?.to_vec()?, [0.3125, -448.0, 16.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DType`](crate::Error::DType) for scales and packed codes, which are only copied;
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn cast<O: Element>(&self) -> Result<Tensor<O, R>> {
        let out = Tensor::for_result(&self.device, self.shape())?;
        self.device.run(&Op::Convert(Convert::new(self.operand(), out.operand())))?;
        Ok(out)
    }
}

/// A region in memory of another kind: itself where it is there already, else a copy.
pub(super) fn to_kind(device: &Device, region: &Region, kind: MemoryKind) -> Result<Region> {
    if region.buffer().kind() == kind {
        return Ok(region.clone());
    }
    region.copy_to(device.allocate_kind(kind, region.len(), region.buffer().label())?)
}
