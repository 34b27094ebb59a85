//! Softmax of rows.

use super::dense::Tensor;
use crate::error::Result;
use crate::num::Float;
use crate::op::{Op, Softmax};

impl<E: Float, const R: usize> Tensor<E, R> {
    /// `e^(x − max x) / Σ e^(x − max x)` over the last dimension; rows of −inf give 0: see
    /// [`Softmax`].
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let x = Tensor::from_host(&Device::cpu(), [1, 3], &[0.0f32, 0.0, f32::NEG_INFINITY])?;
    /// assert_eq!(x.softmax()?.to_vec()?, [0.5, 0.5, 0.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a tensor of no dimensions.
    pub fn softmax(&self) -> Result<Self> {
        self.softmax_as(1.0, false)
    }

    /// `x − max x − ln Σ e^(x − max x)` over the last dimension; rows of −inf stay so.
    ///
    /// # Errors
    /// Those of [`Tensor::softmax`].
    pub fn log_softmax(&self) -> Result<Self> {
        self.softmax_as(1.0, true)
    }

    /// The softmax, or its logarithm, of `scale · x`, with the result in a type to choose.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) for a scale that is not finite; those of
    /// [`Tensor::softmax`].
    pub fn softmax_as<O: Float>(&self, scale: f32, log: bool) -> Result<Tensor<O, R>> {
        let out = Tensor::for_result(&self.device, self.shape)?;
        let op = Softmax { x: self.operand(), out: out.operand(), scale, log };
        self.device.run(&Op::Softmax(op))?;
        Ok(out)
    }
}
