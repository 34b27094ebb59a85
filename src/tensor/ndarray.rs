//! From and to arrays of the `ndarray` crate.

use ndarray::{
    Array, ArrayBase, ArrayView, ArrayViewMut, Data, Dimension, IntoDimension, ShapeBuilder,
};

use super::dense::Tensor;
use super::host::{HostView, HostViewMut};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::num::Element;

/// The `ndarray` dimension of a rank.
type Dim<const R: usize> = <[usize; R] as IntoDimension>::Dim;

impl<E: Element, const R: usize> Tensor<E, R> {
    /// A copy of an array or view, of any strides.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let array = ndarray::array![[1.0f32, 2.0], [3.0, 4.0]];
    /// let x: Tensor<f32, 2> = Tensor::from_ndarray(&Device::cpu(), &array.t())?;
    /// assert_eq!(x.to_vec()?, [1.0, 3.0, 2.0, 4.0]);
    /// assert_eq!(x.to_ndarray()?, array.t());
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] for an array of another rank; those of [`Tensor::zeros`].
    pub fn from_ndarray<S, D>(device: &Device, array: &ArrayBase<S, D>) -> Result<Self>
    where
        S: Data<Elem = E>,
        D: Dimension,
    {
        let shape = array.shape().try_into().map_err(|_| {
            let found = array.shape();
            Error::shape(
                "from_ndarray",
                "array",
                format!("its shape is {found:?}, of {} dimensions, not {R}", found.len()),
            )
        })?;
        let data: Vec<E> = array.iter().copied().collect();
        Self::from_host(device, shape, &data)
    }

    /// A copy as an array in row-major order.
    ///
    /// # Errors
    /// Those of [`Tensor::host`].
    pub fn to_ndarray(&self) -> Result<Array<E, Dim<R>>>
    where
        [usize; R]: IntoDimension,
    {
        let shape = self.shape().into_dimension();
        Array::from_shape_vec(shape, self.to_vec()?).map_err(|e| refused("to_ndarray", e))
    }
}

impl<E: Element, const R: usize> HostView<'_, E, R> {
    /// The elements as an `ndarray` view: nothing is copied.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let x = Tensor::from_host(&Device::cpu(), [2, 2], &[1.0f32, 2.0, 3.0, 4.0])?;
    /// let host = x.host()?;
    /// assert_eq!(host.view()?.sum_axis(ndarray::Axis(0)), ndarray::array![4.0, 6.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Layout`] for strides that `ndarray` does not take.
    pub fn view(&self) -> Result<ArrayView<'_, E, Dim<R>>>
    where
        [usize; R]: IntoDimension,
    {
        let shape = self.shape().into_dimension().strides(strides(self.shape(), self.strides()));
        ArrayView::from_shape(shape, self.span()).map_err(|e| refused("view", e))
    }
}

impl<E: Element, const R: usize> HostViewMut<'_, E, R> {
    /// The elements as a mutable `ndarray` view: nothing is copied.
    ///
    /// # Errors
    /// [`Error::Layout`] for strides that `ndarray` does not take.
    pub fn view_mut(&mut self) -> Result<ArrayViewMut<'_, E, Dim<R>>>
    where
        [usize; R]: IntoDimension,
    {
        let shape = self.shape().into_dimension().strides(strides(self.shape(), self.strides()));
        ArrayViewMut::from_shape(shape, self.span_mut()).map_err(|e| refused("view_mut", e))
    }
}

/// Strides as `ndarray` takes them: those of an empty view must not reach past its first element.
fn strides<const R: usize>(shape: [usize; R], strides: [usize; R]) -> Dim<R>
where
    [usize; R]: IntoDimension,
{
    let strides = if shape.contains(&0) { [0; R] } else { strides };
    strides.into_dimension()
}

fn refused(op: &'static str, error: ndarray::ShapeError) -> Error {
    Error::layout(op, "strides", format!("ndarray refuses them ({error}); make a copy first"))
}
