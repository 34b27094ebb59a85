//! Tensors in block-scaled formats.

use std::fmt;
use std::marker::PhantomData;

use super::show;
use crate::caps::MemoryKind;
use crate::device::Device;
use crate::error::Result;
use crate::format::{BlockFormat, Format, ScaleLayout};
use crate::memory::{Buffer, Region};
use crate::op::{Operand, Scaled, ScaledData};

/// An `R`-dimensional array in the block-scaled format `F`: codes, block scales and, for formats
/// that have one, a tensor scale. Blocks run along the last dimension as stored.
///
/// Cheap to clone; clones and transposes share the bytes.
///
/// ```
/// use ferrocerium::{Device, Tensor, format::Nvfp4};
/// let device = Device::cpu();
/// let w = Tensor::from_fn(&device, [8, 32], |[i, j]| (i * 32 + j) as f32 * 0.01)?;
/// let q = w.quantize::<Nvfp4>()?;
/// assert_eq!(q.bytes(), 8 * 32 / 2 + 8 * 32 / 16 + 4);
/// let back: Tensor<f32, 2> = q.dequantize()?;
/// assert!((back.host()?[[7, 31]] - 2.55).abs() < 0.2);
/// # Ok::<(), ferrocerium::Error>(())
/// ```
pub struct ScaledTensor<F: BlockFormat, const R: usize> {
    pub(super) device: Device,
    pub(super) scaled: Scaled,
    pub(super) format: PhantomData<F>,
}

impl<F: BlockFormat, const R: usize> Clone for ScaledTensor<F, R> {
    fn clone(&self) -> Self {
        let (device, scaled) = (self.device.clone(), self.scaled.clone());
        ScaledTensor { device, scaled, format: PhantomData }
    }
}

impl<F: BlockFormat, const R: usize> ScaledTensor<F, R> {
    /// Zero codes under zero scale bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) over the device's budget, [`Error::Shape`](crate::Error::Shape) when the size can not be
    /// addressed.
    pub fn zeros(device: &Device, shape: [usize; R]) -> Result<Self> {
        Self::zeros_with(device, shape, ScaleLayout::RowMajor)
    }

    /// [`ScaledTensor::zeros`] with a scale layout.
    pub fn zeros_with(
        device: &Device,
        shape: [usize; R],
        scale_layout: ScaleLayout,
    ) -> Result<Self> {
        let mut scaled = Scaled::spec(F::FORMAT, &shape)?;
        scaled.scale_layout = scale_layout;
        scaled.allocate(|bytes, label| device.allocate(bytes, label))?;
        Ok(ScaledTensor { device: device.clone(), scaled, format: PhantomData })
    }

    /// Codes and scales that lie in buffers already: the bytes are shared, not copied.
    ///
    /// Codes are row-major with rows padded to whole blocks; scales lie as `scale_layout` says;
    /// the tensor scale is one little-endian f32.
    ///
    /// # Errors
    /// [`Error::Layout`](crate::Error::Layout) when a region is too small or the tensor scale is missing.
    pub fn from_parts(
        device: &Device,
        shape: [usize; R],
        scale_layout: ScaleLayout,
        data: ScaledData,
    ) -> Result<Self> {
        let mut scaled = Scaled::spec(F::FORMAT, &shape)?;
        scaled.scale_layout = scale_layout;
        scaled.data = Some(data);
        Operand::Scaled(scaled.clone()).validate(
            "from_parts",
            "data",
            crate::memory::Access::Read,
        )?;
        Ok(ScaledTensor { device: device.clone(), scaled, format: PhantomData })
    }

    /// The format as a value.
    pub fn format(&self) -> Format {
        F::FORMAT
    }

    /// The device that runs its operations.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same bytes, with operations run by another handle: see
    /// [`Tensor::on`](super::Tensor::on).
    pub fn on(&self, device: &Device) -> Self {
        ScaledTensor { device: device.clone(), ..self.clone() }
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> [usize; R] {
        let dims = self.scaled.logical_dims();
        std::array::from_fn(|axis| dims[axis])
    }

    /// Whether the last two dimensions are swapped with respect to storage.
    pub fn is_transposed(&self) -> bool {
        self.scaled.transposed
    }

    /// How the block scales lie.
    pub fn scale_layout(&self) -> ScaleLayout {
        self.scaled.scale_layout
    }

    /// The last two dimensions swapped: the same bytes, looked at the other way.
    #[must_use]
    pub fn t(&self) -> Self {
        const { assert!(R >= 2, "a transpose needs two dimensions") };
        let (device, scaled) = (self.device.clone(), self.scaled.clone().transposed());
        ScaledTensor { device, scaled, format: PhantomData }
    }

    /// Bytes of codes and scales together.
    pub fn bytes(&self) -> usize {
        self.buffers().map(|(_, region)| region.len()).sum()
    }

    /// Codes, scales and tensor scale by name.
    pub fn buffers(&self) -> impl Iterator<Item = (&'static str, &Region)> {
        let data = self.scaled.data.as_ref();
        let parts = data.map(|d| [Some(&d.codes), Some(&d.scales), d.tensor_scale.as_ref()]);
        let names = ["codes", "scales", "tensor scale"];
        names.into_iter().zip(parts.unwrap_or_default()).filter_map(|(n, r)| Some((n, r?)))
    }

    /// The operand descriptor, as operations take it.
    pub fn operand(&self) -> Operand {
        self.scaled.clone().into()
    }

    /// A tensor of a checked descriptor that has data.
    pub(super) fn from_scaled(device: &Device, scaled: Scaled) -> Self {
        ScaledTensor { device: device.clone(), scaled, format: PhantomData }
    }

    /// A copy of codes and scales, bit for bit, in memory of another device.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, format::Nvfp4};
    /// let w = Tensor::full(&Device::cpu(), [2, 16], 0.3f32)?.quantize::<Nvfp4>()?;
    /// let there = w.to_device(&Device::reference())?;
    /// assert_eq!(there.dequantize::<f32>()?.to_vec()?, w.dequantize::<f32>()?.to_vec()?);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory) over that device's budget.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let copy = |region: &Region| -> Result<Region> {
            region.copy_to(device.allocate(region.len(), region.buffer().label())?)
        };
        self.with_copies(device, copy)
    }

    /// The same codes and scales in memory of another kind; what is there already is shared, the
    /// rest copied.
    ///
    /// # Errors
    /// Those of [`Device::allocate_kind`].
    pub fn to_kind(&self, kind: MemoryKind) -> Result<Self> {
        let copy = |region: &Region| super::convert::to_kind(&self.device, region, kind);
        self.with_copies(&self.device, copy)
    }

    fn with_copies(
        &self,
        device: &Device,
        copy: impl Fn(&Region) -> Result<Region>,
    ) -> Result<Self> {
        Ok(Self::from_scaled(device, self.scaled.with_copies(copy)?))
    }

    /// The same codes with the scales in another layout: the codes are shared, the scales copied.
    ///
    /// # Errors
    /// [`Error::Layout`](crate::Error::Layout) when the format does not have that layout.
    pub fn with_scale_layout(&self, scale_layout: ScaleLayout) -> Result<Self> {
        let from = self.scaled.layout()?;
        let mut scaled = Scaled { scale_layout, ..self.scaled.clone() };
        let to = scaled.layout()?;
        let Some(data) = &mut scaled.data else { return Ok(self.clone()) };
        let label = format!("{} scales", F::FORMAT);
        let scales: Buffer = self.device.allocate(to.scales_bytes(), label)?;
        let source = data.scales.to_host()?;
        scales.fill(|scales| crate::format::convert_scales(&from, &to, &source, scales))?;
        drop(source);
        data.scales = Region::whole(scales);
        Ok(ScaledTensor { device: self.device.clone(), scaled, format: PhantomData })
    }
}

impl<F: BlockFormat, const R: usize> fmt::Debug for ScaledTensor<F, R> {
    /// Type, device and a summary of the dequantised values. Never fails: what is busy is said to be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show::summary(f, "ScaledTensor", &self.device, &self.operand())
    }
}

impl<F: BlockFormat, const R: usize> fmt::Display for ScaledTensor<F, R> {
    /// Sizes and type: `[4, 64] nvfp4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operand().fmt(f)
    }
}
