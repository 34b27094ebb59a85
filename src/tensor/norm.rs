//! Normalisation of rows.

use std::marker::PhantomData;

use super::dense::Tensor;
use super::matmul::require_same_device;
use super::scaled::ScaledTensor;
use crate::device::Device;
use crate::error::Result;
use crate::format::{BlockFormat, Quantizer};
use crate::num::{DType, Float};
use crate::op::{Dense, Norm, NormKind, Op, Operand};
use crate::registry::Request;

impl<E: Float, const R: usize> Tensor<E, R> {
    /// `x / √(mean(x²) + eps) · weight` over the last dimension, rounded once.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// let x = Tensor::from_host(&device, [1, 2], &[3.0f32, 4.0])?;
    /// let weight = Tensor::from_host(&device, [2], &[1.0f32, 2.0])?;
    /// let y = x.rms_norm(&weight, 0.0)?.to_vec()?;
    /// let rms = 12.5f32.sqrt();
    /// assert!((y[0] - 3.0 / rms).abs() < 1e-6 && (y[1] - 8.0 / rms).abs() < 1e-6);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) unless `weight` has one element for each column.
    pub fn rms_norm<W: Float>(&self, weight: &Tensor<W, 1>, eps: f32) -> Result<Self> {
        self.norm(NormKind::Rms, eps).weight(weight).run()
    }

    /// `(x − mean(x)) / √(var(x) + eps) · weight + bias` over the last dimension, rounded once.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) unless `weight` and `bias` have one element for each
    /// column.
    pub fn layer_norm<W: Float>(
        &self,
        weight: &Tensor<W, 1>,
        bias: &Tensor<W, 1>,
        eps: f32,
    ) -> Result<Self> {
        self.norm(NormKind::Layer, eps).weight(weight).bias(bias).run()
    }

    /// A norm with everything to choose: see [`Norm`] for the formula.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, op::NormKind};
    /// let device = Device::cpu();
    /// let x = Tensor::from_host(&device, [1, 2], &[1.0f32, 1.0])?;
    /// let r = Tensor::from_host(&device, [1, 2], &[2.0f32, 3.0])?;
    /// let norm = x.norm(NormKind::Rms, 1e-6).residual(&r);
    /// let (y, sum): (Tensor<f32, 2>, Tensor<f32, 2>) = norm.run_with_sum()?;
    /// assert_eq!(sum.to_vec()?, [3.0, 4.0]);
    /// assert!((y.host()?[[0, 0]] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn norm(&self, kind: NormKind, eps: f32) -> NormBuilder<E, R> {
        // The output is set when its type is known.
        let describe = || Ok(Norm::new(kind, self.operand(), Dense::spec(DType::F32, &[])?, eps));
        NormBuilder {
            device: self.device.clone(),
            shape: self.shape,
            op: describe(),
            element: PhantomData,
        }
    }
}

/// A norm that is being described: see [`Tensor::norm`].
#[must_use = "nothing is computed before `run`"]
pub struct NormBuilder<E: Float, const R: usize> {
    device: Device,
    shape: [usize; R],
    // What is wrong with an operand is reported by the call that ends the description.
    op: Result<Norm>,
    element: PhantomData<E>,
}

impl<E: Float, const R: usize> NormBuilder<E, R> {
    fn edit(mut self, device: &Device, change: impl FnOnce(&mut Norm)) -> Self {
        self.op = self.op.and_then(|mut op| {
            require_same_device(&self.device, device)?;
            change(&mut op);
            Ok(op)
        });
        self
    }

    /// Multiplies each column.
    pub fn weight<W: Float>(self, weight: &Tensor<W, 1>) -> Self {
        self.edit(&weight.device, |op| op.weight = Some(weight.operand()))
    }

    /// Adds a number to the weight: 1 for models whose files hold `weight − 1`.
    pub fn weight_offset(mut self, offset: f32) -> Self {
        if let Ok(op) = &mut self.op {
            op.weight_offset = offset;
        }
        self
    }

    /// Adds to each column.
    pub fn bias<B: Float>(self, bias: &Tensor<B, 1>) -> Self {
        self.edit(&bias.device, |op| op.bias = Some(bias.operand()))
    }

    /// Adds a tensor first.
    pub fn residual<A: Float>(self, residual: &Tensor<A, R>) -> Self {
        self.edit(&residual.device, |op| op.residual = Some(residual.operand()))
    }

    /// Chooses the kernel as `request` says.
    pub fn request(mut self, request: Request) -> Self {
        self.device = self.device.with_request(request);
        self
    }

    fn finish(self, out: Operand, set: impl FnOnce(&mut Norm)) -> Result<()> {
        let mut op = self.op?;
        op.out = out;
        set(&mut op);
        self.device.run(&Op::Norm(op))
    }

    /// Computes into a new tensor of `O`.
    pub fn run<O: Float>(self) -> Result<Tensor<O, R>> {
        let out = Tensor::for_result(&self.device, self.shape)?;
        self.finish(out.operand(), |_| ())?;
        Ok(out)
    }

    /// Computes into the memory of `out`.
    pub fn run_into<O: Float>(self, out: &Tensor<O, R>) -> Result<()> {
        self.finish(out.operand(), |_| ())
    }

    /// Computes, and returns `x + residual` beside the result. The norm is that of the sum as it
    /// is returned, rounded to `S`.
    pub fn run_with_sum<O: Float, S: Float>(self) -> Result<(Tensor<O, R>, Tensor<S, R>)> {
        let out = Tensor::for_result(&self.device, self.shape)?;
        let sum = Tensor::for_result(&self.device, self.shape)?;
        self.finish(out.operand(), |op| op.sum = Some(sum.operand()))?;
        Ok((out, sum))
    }

    /// Computes and quantises the result to block format `F`.
    pub fn run_quantized<F: BlockFormat>(self, quantizer: Quantizer) -> Result<ScaledTensor<F, R>> {
        let out = ScaledTensor::zeros(&self.device, self.shape)?;
        self.finish(out.operand(), |op| op.quantizer = Some(quantizer))?;
        Ok(out)
    }
}
