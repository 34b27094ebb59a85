//! Other ways to look at the same bytes.

use std::marker::PhantomData;
use std::ops::Range;

use super::dense::Tensor;
use super::shape::{check_axis, row_major};
use crate::error::{Error, Result};
use crate::memory::Region;
use crate::num::Element;
use crate::op::{Dense, Dims};

impl<E: Element, const R: usize> Tensor<E, R> {
    /// The same bytes with other sizes and strides.
    fn with_layout<const S: usize>(
        &self,
        region: Region,
        shape: [usize; S],
        strides: [usize; S],
    ) -> Tensor<E, S> {
        Tensor { device: self.device.clone(), region, shape, strides, element: PhantomData }
    }

    /// Dimensions in another order: size `i` of the result is size `axes[i]` of this.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let x = Tensor::<f32, 3>::zeros(&Device::cpu(), [2, 3, 4])?;
    /// assert_eq!(x.permute([2, 0, 1])?.shape(), [4, 2, 3]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] unless each axis is named once.
    pub fn permute(&self, axes: [usize; R]) -> Result<Self> {
        let mut seen = [false; R];
        for axis in axes {
            check_axis::<R>("permute", axis)?;
            if std::mem::replace(&mut seen[axis], true) {
                return Err(Error::shape(
                    "permute",
                    "axes",
                    format!("{axes:?} names {axis} twice; each dimension is needed once"),
                ));
            }
        }
        let (shape, strides) = (axes.map(|a| self.shape[a]), axes.map(|a| self.strides[a]));
        Ok(self.with_layout(self.region.clone(), shape, strides))
    }

    /// Two dimensions swapped.
    ///
    /// # Errors
    /// [`Error::Shape`] when an axis is not there.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Self> {
        check_axis::<R>("transpose", a)?;
        check_axis::<R>("transpose", b)?;
        let mut axes = std::array::from_fn(|i| i);
        axes.swap(a, b);
        self.permute(axes)
    }

    /// Indices `range` along one dimension.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let x = Tensor::from_host(&Device::cpu(), [2, 3], &[1, 2, 3, 4, 5, 6])?;
    /// assert_eq!(x.slice(1, 1..3)?.to_vec()?, [2, 3, 5, 6]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when the axis is not there or the range reaches past its size.
    pub fn slice(&self, axis: usize, range: Range<usize>) -> Result<Self> {
        check_axis::<R>("slice", axis)?;
        if range.start > range.end || range.end > self.shape[axis] {
            return Err(Error::shape(
                "slice",
                "range",
                format!(
                    "{range:?} is not inside 0..{}, the size of dimension {axis} of {:?}",
                    self.shape[axis], self.shape
                ),
            ));
        }
        let mut shape = self.shape;
        shape[axis] = range.len();
        let dense = Dense { dims: Dims::from_array(shape), ..self.dense() };
        let span = dense.span()?;
        // An empty view may start past the last element: it is moved to the first.
        let skip = if span == 0 { 0 } else { range.start * self.strides[axis] };
        let region = self.region.slice(skip * size_of::<E>(), span * size_of::<E>())?;
        Ok(self.with_layout(region, shape, self.strides))
    }

    /// Cuts one dimension into pieces of the given sizes.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let qkv = Tensor::from_host(&Device::cpu(), [1, 4], &[1, 2, 3, 4])?;
    /// let parts = qkv.split(1, &[2, 1, 1])?;
    /// assert_eq!(parts[0].to_vec()?, [1, 2]);
    /// assert_eq!(parts[2].to_vec()?, [4]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes do not add up to that of the dimension.
    pub fn split(&self, axis: usize, sizes: &[usize]) -> Result<Vec<Self>> {
        check_axis::<R>("split", axis)?;
        let total = sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size));
        if total != Some(self.shape[axis]) {
            return Err(Error::shape(
                "split",
                "sizes",
                format!(
                    "{sizes:?} do not add up to {}, the size of dimension {axis} of {:?}",
                    self.shape[axis], self.shape
                ),
            ));
        }
        let mut start = 0;
        let piece = |&size: &usize| {
            start += size;
            self.slice(axis, start - size..start)
        };
        sizes.iter().map(piece).collect()
    }

    /// Other sizes for the same elements in row-major order.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let x = Tensor::from_host(&Device::cpu(), [2, 6], &[0; 12])?;
    /// assert_eq!(x.reshape([2, 3, 2])?.shape(), [2, 3, 2]);
    /// let error = x.reshape([5]).unwrap_err().to_string();
    /// assert_eq!(error, "reshape: shape: [5] has 5 elements, the tensor of shape [2, 6] has 12");
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of elements differs, [`Error::Layout`] when they are not
    /// contiguous: [`Tensor::contiguous`] makes a copy that is.
    pub fn reshape<const S: usize>(&self, shape: [usize; S]) -> Result<Tensor<E, S>> {
        let (strides, numel) = row_major("reshape", shape)?;
        if numel != self.len() {
            return Err(Error::shape(
                "reshape",
                "shape",
                format!(
                    "{shape:?} has {numel} elements, the tensor of shape {:?} has {}",
                    self.shape,
                    self.len()
                ),
            ));
        }
        if !self.is_contiguous() {
            return Err(Error::layout(
                "reshape",
                "tensor",
                format!(
                    "shape {:?} with strides {:?} is not contiguous; call contiguous() first",
                    self.shape, self.strides
                ),
            ));
        }
        Ok(self.with_layout(self.region.clone(), shape, strides))
    }

    /// The index `at` of one dimension, which is dropped: `S` is `R - 1`. Of a dimension of size 1
    /// it is what others call squeeze.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let x = Tensor::from_host(&Device::cpu(), [2, 3], &[1, 2, 3, 4, 5, 6])?;
    /// let row: Tensor<i32, 1> = x.select(0, 1)?;
    /// assert_eq!(row.to_vec()?, [4, 5, 6]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when the axis or the index is not there, or `S` is another rank.
    pub fn select<const S: usize>(&self, axis: usize, at: usize) -> Result<Tensor<E, S>> {
        check_axis::<R>("select", axis)?;
        if S + 1 != R || at >= self.shape[axis] {
            return Err(Error::shape(
                "select",
                "index",
                format!(
                    "index {at} of dimension {axis} of {:?} as a tensor of {S} dimensions; \
                     the index must be below the size, and one dimension goes",
                    self.shape
                ),
            ));
        }
        let start = self.slice(axis, at..at + 1)?;
        let keep = |i: usize| if i < axis { i } else { i + 1 };
        let shape = std::array::from_fn(|i| self.shape[keep(i)]);
        let strides = std::array::from_fn(|i| self.strides[keep(i)]);
        Ok(start.with_layout(start.region.clone(), shape, strides))
    }

    /// A new dimension of size 1 before `axis`: `S` is `R + 1`.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let x = Tensor::from_host(&Device::cpu(), [3], &[1, 2, 3])?;
    /// let column: Tensor<i32, 2> = x.unsqueeze(1)?;
    /// assert_eq!(column.shape(), [3, 1]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when `axis` is beyond the end, or `S` is another rank.
    pub fn unsqueeze<const S: usize>(&self, axis: usize) -> Result<Tensor<E, S>> {
        if S != R + 1 || axis > R {
            return Err(Error::shape(
                "unsqueeze",
                "axis",
                format!("a dimension before {axis} of {:?} as a tensor of {S}", self.shape),
            ));
        }
        let pick = |values: &[usize; R], new: usize| {
            std::array::from_fn(|i| match i.cmp(&axis) {
                std::cmp::Ordering::Less => values[i],
                std::cmp::Ordering::Equal => new,
                std::cmp::Ordering::Greater => values[i - 1],
            })
        };
        Ok(self.with_layout(self.region.clone(), pick(&self.shape, 1), pick(&self.strides, 0)))
    }

    /// Repeats dimensions of size 1 (and adds leading ones) up to `shape`, by strides of 0: no
    /// element is copied.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor};
    /// let row = Tensor::from_host(&Device::cpu(), [1, 2], &[1, 2])?;
    /// let many = row.broadcast_to([3, 2])?;
    /// assert_eq!(many.to_vec()?, [1, 2, 1, 2, 1, 2]);
    /// assert!(many.host_mut().is_err());                     // one element, three places
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when a size is neither 1 nor the one asked for.
    pub fn broadcast_to<const S: usize>(&self, shape: [usize; S]) -> Result<Tensor<E, S>> {
        let mut strides = [0; S];
        let fits = S >= R
            && (0..R).all(|i| {
                let j = S - R + i;
                strides[j] = if self.shape[i] == shape[j] { self.strides[i] } else { 0 };
                self.shape[i] == shape[j] || self.shape[i] == 1
            });
        if !fits {
            return Err(Error::shape(
                "broadcast_to",
                "shape",
                format!("{:?} does not broadcast to {shape:?}", self.shape),
            ));
        }
        // A size of 1 that becomes 0 leaves no elements.
        let empty = shape.contains(&0);
        let bytes = if empty { 0 } else { self.region.len() };
        Ok(self.with_layout(self.region.slice(0, bytes)?, shape, strides))
    }
}

impl<E: Element> Tensor<E, 2> {
    /// The transpose.
    #[must_use]
    pub fn t(&self) -> Self {
        let ([rows, cols], [by_row, by_col]) = (self.shape, self.strides);
        self.with_layout(self.region.clone(), [cols, rows], [by_col, by_row])
    }
}
