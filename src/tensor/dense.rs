//! Tensors of plain elements.

use std::fmt;
use std::marker::PhantomData;

use super::host::{HostView, HostViewMut, indices};
use super::shape::{byte_len, row_major};
use super::show;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::memory::{Buffer, Region};
use crate::num::{DType, Element, Scalar};
use crate::op::{Dense, Dims, Operand};

/// An `R`-dimensional array of `E` on a device.
///
/// Element `[i, j, …]` lies `i·strides[0] + j·strides[1] + …` elements from the first. Clones and
/// views share the bytes.
///
/// ```
/// use ferrocerium::{Device, Tensor, bf16};
/// let device = Device::cpu();
/// let x = Tensor::from_host(&device, [2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!(x.transpose(0, 1)?.host()?[[2, 0]], 3.0);
/// let y: Tensor<bf16, 2> = Tensor::zeros(&device, [2, 3])?;
/// assert_eq!(y.shape(), [2, 3]);
/// # Ok::<(), ferrocerium::Error>(())
/// ```
pub struct Tensor<E: Element, const R: usize> {
    pub(super) device: Device,
    /// The bytes from the first element to the last.
    pub(super) region: Region,
    pub(super) shape: [usize; R],
    pub(super) strides: [usize; R],
    pub(super) element: PhantomData<E>,
}

impl<E: Element, const R: usize> Clone for Tensor<E, R> {
    fn clone(&self) -> Self {
        Tensor {
            device: self.device.clone(),
            region: self.region.clone(),
            shape: self.shape,
            strides: self.strides,
            element: PhantomData,
        }
    }
}

impl<E: Element, const R: usize> Tensor<E, R> {
    /// All-zero bytes.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor, bf16};
    /// let x: Tensor<bf16, 2> = Tensor::zeros(&Device::cpu(), [2, 3])?;
    /// assert_eq!(x.to_vec()?, [bf16::ZERO; 6]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] over the device's budget, [`Error::Shape`] when the size can not be
    /// addressed.
    pub fn zeros(device: &Device, shape: [usize; R]) -> Result<Self> {
        Self::zeros_labelled(device, shape, E::DTYPE.name())
    }

    /// [`Tensor::zeros`] under a label for the device's memory report.
    pub fn zeros_labelled(
        device: &Device,
        shape: [usize; R],
        label: impl Into<String>,
    ) -> Result<Self> {
        Self::in_new_memory(device, shape, |bytes| device.allocate(bytes, label))
    }

    /// Memory for what an operation of the device is about to write, all of it.
    pub(super) fn for_result(device: &Device, shape: [usize; R]) -> Result<Self> {
        let label = E::DTYPE.name();
        Self::in_new_memory(device, shape, |bytes| device.allocate_result(bytes, label))
    }

    fn in_new_memory(
        device: &Device,
        shape: [usize; R],
        allocate: impl FnOnce(usize) -> Result<Buffer>,
    ) -> Result<Self> {
        let (strides, numel) = row_major("zeros", shape)?;
        let bytes = byte_len("zeros", &shape, numel, size_of::<E>())?;
        let region = Region::whole(allocate(bytes)?);
        Ok(Tensor { device: device.clone(), region, shape, strides, element: PhantomData })
    }

    /// A copy of host data in row-major order.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of elements is not that of the shape; those of
    /// [`Tensor::zeros`].
    pub fn from_host(device: &Device, shape: [usize; R], data: &[E]) -> Result<Self> {
        let (_, numel) = row_major("from_host", shape)?;
        if data.len() != numel {
            return Err(Error::shape(
                "from_host",
                "data",
                format!("{} elements for shape {shape:?}, which has {numel}", data.len()),
            ));
        }
        let tensor = Self::zeros(device, shape)?;
        tensor.region.buffer().copy_from_host(0, bytemuck::cast_slice(data))?;
        Ok(tensor)
    }

    /// Each element computed from its index.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let eye = Tensor::from_fn(&Device::cpu(), [3, 3], |[i, j]| if i == j { 1.0f32 } else { 0.0 })?;
    /// assert_eq!(eye.to_vec()?, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn from_fn(
        device: &Device,
        shape: [usize; R],
        mut f: impl FnMut([usize; R]) -> E,
    ) -> Result<Self> {
        let tensor = Self::zeros(device, shape)?;
        tensor.region.buffer().fill(|bytes| {
            let elements: &mut [E] = bytemuck::cast_slice_mut(bytes);
            elements.iter_mut().zip(indices(shape)).for_each(|(e, index)| *e = f(index));
            Ok(())
        })?;
        Ok(tensor)
    }

    /// Elements that lie in a buffer already, a mapped file say: the bytes are shared, not copied.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// let buffer = device.allocate(16, "two halves")?;
    /// let upper: Tensor<f32, 1> = Tensor::from_buffer(&device, buffer.clone(), 8, [2])?;
    /// upper.host_mut()?[[0]] = 1.0;
    /// assert_eq!(buffer.read()?[8..12], 1.0f32.to_le_bytes());
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when they reach past the buffer, [`Error::Layout`] when `offset` (in
    /// bytes) is not a multiple of the element's alignment.
    pub fn from_buffer(
        device: &Device,
        buffer: Buffer,
        offset: usize,
        shape: [usize; R],
    ) -> Result<Self> {
        let (strides, _) = row_major("from_buffer", shape)?;
        Self::from_buffer_strided(device, buffer, offset, shape, strides)
    }

    /// [`Tensor::from_buffer`] with strides, in elements.
    ///
    /// # Errors
    /// Those of [`Tensor::from_buffer`].
    pub fn from_buffer_strided(
        device: &Device,
        buffer: Buffer,
        offset: usize,
        shape: [usize; R],
        strides: [usize; R],
    ) -> Result<Self> {
        let (dims, strides_dims) = (Dims::from_array(shape), Dims::from_array(strides));
        let dense = Dense { dtype: E::DTYPE, dims, strides: strides_dims, data: None };
        let bytes = byte_len("from_buffer", &shape, dense.span()?, size_of::<E>())?;
        let region = Region::new(buffer, offset, bytes)?;
        if !offset.is_multiple_of(align_of::<E>()) {
            return Err(Error::layout(
                "from_buffer",
                "offset",
                format!(
                    "{offset} is not a multiple of {}, the alignment of {}; copy the bytes",
                    align_of::<E>(),
                    E::DTYPE
                ),
            ));
        }
        Ok(Tensor { device: device.clone(), region, shape, strides, element: PhantomData })
    }

    /// The device that runs its operations.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same bytes, with operations run by another handle: see [`Device::with_request`]. The
    /// handle must be to a device that can read this memory, as all CPU devices can.
    pub fn on(&self, device: &Device) -> Self {
        Tensor { device: device.clone(), ..self.clone() }
    }

    /// The bytes from the first element to the last.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> [usize; R] {
        self.shape
    }

    /// Strides in elements, outermost first.
    pub fn strides(&self) -> [usize; R] {
        self.strides
    }

    /// The element type as a value.
    pub fn dtype(&self) -> DType {
        E::DTYPE
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        // A zero anywhere makes it zero, even beside sizes whose product would overflow.
        if self.is_empty() { 0 } else { self.shape.iter().product() }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Whether the elements lie densely in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.dense().is_contiguous()
    }

    /// The elements, borrowed, once device work that writes them is done.
    ///
    /// # Errors
    /// [`Error::Busy`] while a [`HostViewMut`] of the same bytes is alive; [`Error::Memory`] for
    /// memory that the host can not touch; what went wrong with that work.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let x = Tensor::from_host(&Device::cpu(), [2, 2], &[1, 2, 3, 4])?;
    /// let host = x.host()?;
    /// assert_eq!((host[[1, 0]], host.get([2, 0])), (3, None));
    /// assert_eq!(host.as_slice(), Some(&[1, 2, 3, 4][..]));
    /// assert_eq!(host.iter().sum::<i32>(), 10);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn host(&self) -> Result<HostView<'_, E, R>> {
        HostView::new(self)
    }

    /// The elements, borrowed mutably, once device work that uses them is done. Clones and views
    /// see the changes.
    ///
    /// # Errors
    /// [`Error::Busy`] while any other host view of the same bytes is alive, or when the memory is
    /// read-only; [`Error::Layout`] when the strides overlap; [`Error::Memory`] for memory that the
    /// host can not touch; what went wrong with that work.
    pub fn host_mut(&self) -> Result<HostViewMut<'_, E, R>> {
        HostViewMut::new(self)
    }

    /// A copy of the elements in row-major order, from any kind of memory.
    ///
    /// # Errors
    /// Those of [`Tensor::host`], but for the kind.
    pub fn to_vec(&self) -> Result<Vec<E>> {
        Ok(HostView::copied(self)?.iter().collect())
    }

    /// The descriptor of these elements.
    pub(super) fn dense(&self) -> Dense {
        Dense {
            dtype: E::DTYPE,
            dims: Dims::from_array(self.shape),
            strides: Dims::from_array(self.strides),
            data: Some(self.region.clone()),
        }
    }

    /// The operand descriptor, as operations take it.
    pub fn operand(&self) -> Operand {
        self.dense().into()
    }
}

impl<E: Scalar, const R: usize> Tensor<E, R> {
    /// Every element the same.
    ///
    /// # Errors
    /// Those of [`Tensor::zeros`].
    pub fn full(device: &Device, shape: [usize; R], value: E) -> Result<Self> {
        Self::from_fn(device, shape, |_| value)
    }
}

impl<E: Element, const R: usize> fmt::Debug for Tensor<E, R> {
    /// Type, device and a summary of the elements. Never fails: what is busy is said to be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show::summary(f, "Tensor", &self.device, &self.operand())
    }
}

impl<E: Element, const R: usize> fmt::Display for Tensor<E, R> {
    /// Sizes and type: `[4, 64] bf16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operand().fmt(f)
    }
}
