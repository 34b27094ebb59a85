//! Sums, extremes, and where they are.

use super::dense::Tensor;
use super::gather::IndexElement;
use crate::error::{Error, Result};
use crate::num::Float;
use crate::op::{ArgReduce, Op, Reduce, Reduction, TopK};

/// Methods over chosen dimensions, one a reduction.
macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident => $function:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// Those of [`Tensor::reduce`].
        pub fn $name<const S: usize>(&self, axes: &[usize]) -> Result<Tensor<E, S>> {
            self.reduce(Reduction::$function, axes)
        }
    )*};
}

/// Reductions. The rank of the result says whether reduced dimensions go or stay with size 1; its
/// type is that of the elements, rounded once.
///
/// ```
/// use ferrocerium::{Device, Tensor};
/// let x = Tensor::from_host(&Device::cpu(), [2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// let rows: Tensor<f32, 1> = x.sum(&[1])?;
/// assert_eq!(rows.to_vec()?, [6.0, 15.0]);
/// let means: Tensor<f32, 2> = x.mean(&[1])?;
/// assert_eq!(x.sub(&means)?.to_vec()?, [-1.0, 0.0, 1.0, -1.0, 0.0, 1.0]);
/// # Ok::<(), ferrocerium::Error>(())
/// ```
impl<E: Float, const R: usize> Tensor<E, R> {
    reductions! {
        /// `Σ x` over `axes`; of none, 0.
        sum => Sum;
        /// `Σ x / n` over `axes`; of none, NaN.
        mean => Mean;
        /// `Π x` over `axes`; of none, 1.
        prod => Prod;
        /// The largest over `axes`; NaN if any is; of none, −inf.
        max => Max;
        /// The smallest over `axes`; NaN if any is; of none, +inf.
        min => Min;
        /// The largest `|x|` over `axes`; NaN if any is; of none, 0.
        abs_max => AbsMax;
    }

    /// Any reduction, with the result in a type to choose.
    ///
    /// # Errors
    /// [`Error::Shape`] when an axis is not there or named twice, or when `S` is neither the
    /// rank nor the rank less the number of axes.
    pub fn reduce<O: Float, const S: usize>(
        &self,
        function: Reduction,
        axes: &[usize],
    ) -> Result<Tensor<O, S>> {
        let x = self.operand();
        let out = Tensor::for_result(&self.device, Reduce::output_dims(&x, axes, S)?.to_array()?)?;
        self.device.run(&Op::Reduce(Reduce::new(function, x, axes, out.operand())))?;
        Ok(out)
    }

    /// The index of the largest element along `axis`, which is dropped: `S` is `R − 1`. The first
    /// of equals; NaN is the largest.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let logits = Tensor::from_host(&Device::cpu(), [2, 3], &[1.0f32, 3.0, 3.0, 0.0, -1.0, -2.0])?;
    /// let best: Tensor<u32, 1> = logits.argmax(1)?;
    /// assert_eq!(best.to_vec()?, [1, 0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when the axis is not there or has no elements, or for another `S`.
    pub fn argmax<I: IndexElement, const S: usize>(&self, axis: usize) -> Result<Tensor<I, S>> {
        self.arg_reduce(axis, true)
    }

    /// The index of the smallest element along `axis`: see [`Tensor::argmax`].
    ///
    /// # Errors
    /// Those of [`Tensor::argmax`].
    pub fn argmin<I: IndexElement, const S: usize>(&self, axis: usize) -> Result<Tensor<I, S>> {
        self.arg_reduce(axis, false)
    }

    fn arg_reduce<I: IndexElement, const S: usize>(
        &self,
        axis: usize,
        largest: bool,
    ) -> Result<Tensor<I, S>> {
        let x = self.operand();
        let out = Tensor::for_result(&self.device, ArgReduce::output_dims(&x, axis)?.to_array()?)?;
        let op = ArgReduce { x, axis, largest, out: out.operand() };
        self.device.run(&Op::ArgReduce(op))?;
        Ok(out)
    }

    /// The `k` largest elements of each row (along the last dimension) and their indices, largest
    /// first; of equals the one with the lower index first; NaN is the largest.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let x = Tensor::from_host(&Device::cpu(), [4], &[1.0f32, 7.0, 7.0, 3.0])?;
    /// let (values, indices) = x.top_k(3)?;
    /// assert_eq!(values.to_vec()?, [7.0, 7.0, 3.0]);
    /// assert_eq!(indices.to_vec()?, [1, 2, 3]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when rows have fewer than `k` elements.
    pub fn top_k(&self, k: usize) -> Result<(Self, Tensor<u32, R>)> {
        let mut shape = self.shape;
        match shape.last_mut() {
            Some(last) if k <= *last => *last = k,
            _ => {
                return Err(Error::shape(
                    "top_k",
                    "k",
                    format!("{k} of the elements of each row of {:?}, which has fewer", self.shape),
                ));
            }
        }
        let values = Tensor::for_result(&self.device, shape)?;
        let indices = Tensor::for_result(&self.device, shape)?;
        let op = TopK::new(self.operand(), values.operand(), indices.operand());
        self.device.run(&Op::TopK(op))?;
        Ok((values, indices))
    }
}
