//! Tensors whose type is known at run time only, as loaders find them.

use std::collections::BTreeMap;

use super::dense::Tensor;
use super::scaled::ScaledTensor;
use crate::caps::MemoryKind;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::format::{BlockFormat, Format, Quantizer};
use crate::memory::{Buffer, HOST_ALIGNMENT, Region, prefer_huge_pages};
use crate::num::{DType, Element};
use crate::op::{Convert, Dense, Operand, Scaled};

/// A tensor of any element type or block format, of any rank.
///
/// ```
/// use ferrocerium::{AnyTensor, Device, Tensor};
/// let device = Device::cpu();
/// let any = AnyTensor::from(Tensor::from_host(&device, [2, 2], &[1.0f32, 2.0, 3.0, 4.0])?);
/// assert_eq!(any.to_string(), "[2, 2] f32");
/// assert!(any.tensor::<f32, 2>().is_ok());
/// assert!(any.tensor::<ferrocerium::bf16, 2>().is_err());
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[derive(Clone)]
pub struct AnyTensor {
    device: Device,
    operand: Operand,
}

impl AnyTensor {
    /// Row-major elements that lie in a buffer already: the bytes are shared, not copied.
    ///
    /// # Errors
    /// [`Error::Shape`] when they reach past the buffer or the rank is too large.
    pub fn from_buffer(
        device: &Device,
        dtype: DType,
        shape: &[usize],
        buffer: Buffer,
        offset: usize,
    ) -> Result<Self> {
        let mut dense = Dense::spec(dtype, shape)?;
        let bytes = dense.dims.numel()?.checked_mul(dtype.size());
        let bytes = bytes.ok_or_else(|| {
            Error::shape("from_buffer", "shape", format!("{shape:?} can not be addressed"))
        })?;
        dense.data = Some(Region::new(buffer, offset, bytes)?);
        Ok(AnyTensor { device: device.clone(), operand: dense.into() })
    }

    /// An operand with data, as operations take it.
    pub(crate) fn from_operand(device: &Device, operand: Operand) -> Self {
        AnyTensor { device: device.clone(), operand }
    }

    /// The device that runs its operations.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        self.operand.dims().to_vec()
    }

    /// The element type, or `None` for a block format.
    pub fn dtype(&self) -> Option<DType> {
        self.operand.dtype()
    }

    /// The block format, or `None` for plain elements.
    pub fn format(&self) -> Option<Format> {
        self.operand.as_scaled().map(|scaled| scaled.format)
    }

    /// The operand descriptor.
    pub fn operand(&self) -> &Operand {
        &self.operand
    }

    /// The same tensor with its type, which is checked.
    ///
    /// # Errors
    /// [`Error::DType`] for another element type, [`Error::Shape`] for another rank,
    /// [`Error::Layout`] when the bytes are not aligned for `E`.
    pub fn tensor<E: Element, const R: usize>(&self) -> Result<Tensor<E, R>> {
        match &self.operand {
            Operand::Dense(dense) if dense.dtype == E::DTYPE => {
                let shape = dense.dims.to_array::<R>().map_err(|_| self.wrong_rank(R))?;
                let strides = dense.strides.to_array::<R>()?;
                let Some(region) = &dense.data else {
                    return Err(Error::layout("tensor", "self", "a specification has no data"));
                };
                let (buffer, offset) = (region.buffer().clone(), region.offset());
                Tensor::from_buffer_strided(&self.device, buffer, offset, shape, strides)
            }
            _ => Err(Error::dtype(
                "tensor",
                "E",
                format!("it is {self}, not {}; ask for its own type, then cast", E::DTYPE),
            )),
        }
    }

    /// The same tensor with its block format, which is checked.
    ///
    /// # Errors
    /// [`Error::DType`] for another format or plain elements, [`Error::Shape`] for another rank.
    pub fn scaled<F: BlockFormat, const R: usize>(&self) -> Result<ScaledTensor<F, R>> {
        match &self.operand {
            Operand::Scaled(scaled) if scaled.format == F::FORMAT => {
                let scaled: Scaled = scaled.clone();
                if scaled.dims.len() != R {
                    return Err(self.wrong_rank(R));
                }
                Ok(ScaledTensor::from_scaled(&self.device, scaled))
            }
            _ => Err(Error::dtype(
                "scaled",
                "F",
                format!("it is {self}, not {}; ask for its own type, then convert", F::FORMAT),
            )),
        }
    }

    /// The last two dimensions swapped: the same bytes, looked at the other way.
    ///
    /// # Errors
    /// [`Error::Shape`] for fewer than two dimensions.
    pub fn t(&self) -> Result<Self> {
        let mut any = self.clone();
        match &mut any.operand {
            Operand::Dense(dense) if dense.dims.len() >= 2 => {
                let last = dense.dims.len() - 1;
                dense.dims.swap(last - 1, last);
                dense.strides.swap(last - 1, last);
            }
            Operand::Scaled(scaled) if scaled.dims.len() >= 2 => {
                scaled.transposed = !scaled.transposed;
            }
            _ => return Err(Error::shape("t", "self", format!("it is {self}: no two dimensions"))),
        }
        Ok(any)
    }

    /// The same bytes, with operations run by another handle: see [`Tensor::on`].
    pub fn on(&self, device: &Device) -> Self {
        AnyTensor { device: device.clone(), ..self.clone() }
    }

    /// A copy, bit for bit and with the same strides, in memory of another device.
    ///
    /// ```
    /// # use ferrocerium::{AnyTensor, Device, Tensor};
    /// let any = AnyTensor::from(Tensor::from_host(&Device::cpu(), [2], &[1.0f32, 2.0])?);
    /// let there = any.to_device(&Device::reference())?;
    /// assert_eq!(there.tensor::<f32, 1>()?.to_vec()?, [1.0, 2.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] over that device's budget.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let copy = |region: &Region| -> Result<Region> {
            region.copy_to(device.allocate(region.len(), region.buffer().label())?)
        };
        let operand = match &self.operand {
            Operand::Dense(dense) => {
                let data = dense.data.as_ref().map(copy).transpose()?;
                Dense { data, ..dense.clone() }.into()
            }
            Operand::Scaled(scaled) => scaled.with_copies(copy)?.into(),
        };
        Ok(AnyTensor { device: device.clone(), operand })
    }

    /// Moves tensors into one new buffer of the device, which is in large pages where the system has
    /// them: many small weights are then read as one large one is, and are locked as one. What
    /// shares bytes does so afterwards; what lies in mapped files stays there.
    ///
    /// ```
    /// # use ferrocerium::{AnyTensor, Device, Tensor};
    /// let device = Device::cpu();
    /// let mut a = AnyTensor::from(Tensor::full(&device, [2, 3], 1.0f32)?);
    /// let mut b = AnyTensor::from(Tensor::full(&device, [4], 2.0f32)?);
    /// AnyTensor::into_one_buffer(&device, &mut [&mut a, &mut b], "weights")?;
    /// assert_eq!(device.memory().buffers, 1);
    /// assert_eq!(b.tensor::<f32, 1>()?.to_vec()?, [2.0; 4]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]: meanwhile there are two copies; [`Error::Memory`] and
    /// [`Error::Busy`] where a buffer can not be read.
    pub fn into_one_buffer(
        device: &Device,
        tensors: &mut [&mut AnyTensor],
        label: impl Into<String>,
    ) -> Result<()> {
        let (mut places, mut len) = (BTreeMap::<u64, (Buffer, usize)>::new(), 0usize);
        for region in tensors.iter().flat_map(|tensor| tensor.operand.regions()) {
            let buffer = region.buffer();
            if buffer.kind() != MemoryKind::Mapped && !places.contains_key(&buffer.id()) {
                places.insert(buffer.id(), (buffer.clone(), len));
                len = len.saturating_add(buffer.len().next_multiple_of(HOST_ALIGNMENT));
            }
        }
        let all = device.allocate(len, label)?;
        all.fill(|bytes| {
            prefer_huge_pages(bytes);
            places.values().try_for_each(|(buffer, at)| {
                buffer.copy_to_host(0, &mut bytes[*at..at + buffer.len()])
            })
        })?;
        let moved = |region: &Region| match places.get(&region.buffer().id()) {
            Some((_, at)) => Region::new(all.clone(), at + region.offset(), region.len()),
            None => Ok(region.clone()),
        };
        for tensor in tensors {
            tensor.operand = match &tensor.operand {
                Operand::Dense(dense) => {
                    let data = dense.data.as_ref().map(moved).transpose()?;
                    Dense { data, ..dense.clone() }.into()
                }
                Operand::Scaled(scaled) => scaled.with_copies(moved)?.into(),
            };
            tensor.device = device.clone();
        }
        Ok(())
    }

    /// The same values as elements of another type: see [`Tensor::cast`] and
    /// [`ScaledTensor::dequantize`].
    ///
    /// # Errors
    /// Those of a cast between these types; [`Error::OutOfMemory`].
    pub fn cast(&self, dtype: DType) -> Result<Self> {
        let shape = self.operand.dims();
        let mut dense = Dense::spec(dtype, &shape)?;
        let bytes = shape.numel()?.checked_mul(dtype.size()).ok_or_else(|| {
            Error::shape("cast", "shape", format!("{shape} of {dtype} can not be addressed"))
        })?;
        dense.data = Some(Region::whole(self.device.allocate(bytes, dtype.name())?));
        self.convert_into(Convert::new(self.operand.clone(), dense))
    }

    /// The same values in a block format: see [`Tensor::quantize_with`].
    ///
    /// # Errors
    /// Those of quantising this type to that format; [`Error::OutOfMemory`].
    pub fn quantize(&self, format: Format, quantizer: Quantizer) -> Result<Self> {
        let mut scaled = Scaled::spec(format, &self.operand.dims())?;
        scaled.allocate(|bytes, label| self.device.allocate(bytes, label))?;
        let mut op = Convert::new(self.operand.clone(), scaled);
        op.quantizer = Some(quantizer);
        self.convert_into(op)
    }

    fn convert_into(&self, op: Convert) -> Result<Self> {
        let operand = op.dst.clone();
        self.device.run(&op.into())?;
        Ok(AnyTensor { device: self.device.clone(), operand })
    }

    /// Bytes of elements, or of codes and scales together.
    pub fn bytes(&self) -> usize {
        self.operand.regions().map(Region::len).sum()
    }

    fn wrong_rank(&self, rank: usize) -> Error {
        Error::shape(
            "tensor",
            "R",
            format!("it is {self}, of {} dimensions, not {rank}", self.operand.dims().len()),
        )
    }
}

impl std::fmt::Debug for AnyTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        super::show::summary(f, "AnyTensor", &self.device, &self.operand)
    }
}

impl std::fmt::Display for AnyTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.operand.fmt(f)
    }
}

impl<E: Element, const R: usize> From<Tensor<E, R>> for AnyTensor {
    fn from(tensor: Tensor<E, R>) -> Self {
        AnyTensor { device: tensor.device.clone(), operand: tensor.operand() }
    }
}

impl<F: BlockFormat, const R: usize> From<ScaledTensor<F, R>> for AnyTensor {
    fn from(tensor: ScaledTensor<F, R>) -> Self {
        AnyTensor { device: tensor.device().clone(), operand: tensor.operand() }
    }
}
