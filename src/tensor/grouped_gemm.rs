//! Products of row groups with a matrix each.

use super::dense::Tensor;
use super::gather::IndexElement;
use super::matmul::{MatOperand, require_same_device};
use super::scaled::ScaledTensor;
use crate::device::Device;
use crate::error::Result;
use crate::format::{BlockFormat, Quantizer};
use crate::num::{DType, Element, Float};
use crate::op::{Activation, Dense, GroupedGemm, Op, Operand};
use crate::registry::Request;

impl<E: Float> Tensor<E, 2> {
    /// Rows `[total_m, k]`, sorted by group, times the matrix of each group in `b`
    /// `[groups, k, n]`: rows `offsets[e]..offsets[e + 1]` are those of group `e`. See
    /// [`GroupedGemm`] for the formula.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// let x = Tensor::from_host(&device, [3, 1], &[1.0f32, 2.0, 3.0])?;
    /// let experts = Tensor::from_host(&device, [2, 1, 1], &[10.0f32, 100.0])?;
    /// let offsets = Tensor::from_host(&device, [3], &[0, 2, 3])?;
    /// let y: Tensor<f32, 2> = x.grouped_gemm(&experts, &offsets).run()?;
    /// assert_eq!(y.to_vec()?, [10.0, 20.0, 300.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn grouped_gemm<I: IndexElement>(
        &self,
        b: &impl MatOperand<3>,
        offsets: &Tensor<I, 1>,
    ) -> GroupedGemmBuilder {
        GroupedGemmBuilder::new(self, b, offsets)
    }
}

impl<F: BlockFormat> ScaledTensor<F, 2> {
    /// Rows times the matrix of each group: see [`Tensor::grouped_gemm`].
    pub fn grouped_gemm<I: IndexElement>(
        &self,
        b: &impl MatOperand<3>,
        offsets: &Tensor<I, 1>,
    ) -> GroupedGemmBuilder {
        GroupedGemmBuilder::new(self, b, offsets)
    }
}

/// A grouped product that is being described: see [`Tensor::grouped_gemm`].
#[must_use = "nothing is computed before `run`"]
pub struct GroupedGemmBuilder {
    device: Device,
    // What is wrong with an operand is reported by the call that ends the description.
    op: Result<GroupedGemm>,
}

impl GroupedGemmBuilder {
    fn new<I: IndexElement>(
        a: &impl MatOperand<2>,
        b: &impl MatOperand<3>,
        offsets: &Tensor<I, 1>,
    ) -> Self {
        let describe = || {
            require_same_device(a.mat_device(), b.mat_device())?;
            require_same_device(a.mat_device(), offsets.device())?;
            // Sizes and type of the result are set when it is asked for.
            let d = Dense::spec(DType::F32, &[])?;
            Ok(GroupedGemm::new(a.mat_operand(), b.mat_operand(), offsets.operand(), d))
        };
        GroupedGemmBuilder { device: a.mat_device().clone(), op: describe() }
    }

    fn edit(mut self, change: impl FnOnce(&mut GroupedGemm)) -> Self {
        if let Ok(op) = &mut self.op {
            change(op);
        }
        self
    }

    fn with<E: Element>(
        mut self,
        tensor: &Tensor<E, 2>,
        change: impl FnOnce(&mut GroupedGemm, Operand),
    ) -> Self {
        if let Err(error) = require_same_device(&self.device, tensor.device()) {
            self.op = self.op.and(Err(error));
        }
        self.edit(|op| change(op, tensor.operand()))
    }

    /// Factor of the product.
    pub fn alpha(self, alpha: f32) -> Self {
        self.edit(|op| op.alpha = alpha)
    }

    /// Multiplies column j of the products of group `e` by element `[e, j]` of `[groups, n]`.
    pub fn column_scale<S: Float>(self, scale: &Tensor<S, 2>) -> Self {
        self.with(scale, |op, scale| op.epilogue.column_scale = Some(scale))
    }

    /// Adds row `e` of a bias `[groups, n]` to the rows of group `e`.
    pub fn bias<B: Float>(self, bias: &Tensor<B, 2>) -> Self {
        self.with(bias, |op, bias| op.epilogue.bias = Some(bias))
    }

    /// Applies an activation; a gated one halves the columns.
    pub fn activation(self, activation: Activation) -> Self {
        self.edit(|op| op.epilogue.activation = activation)
    }

    /// Adds a tensor after the activation.
    pub fn residual<C: Float>(self, residual: &Tensor<C, 2>) -> Self {
        self.with(residual, |op, residual| op.epilogue.residual = Some(residual))
    }

    /// Chooses the kernel as `request` says.
    pub fn request(mut self, request: Request) -> Self {
        self.device = self.device.with_request(request);
        self
    }

    /// Computes into a new tensor of `O`.
    ///
    /// # Errors
    /// Those of [`Op::validate`]; [`Error::Value`](crate::Error::Value) for offsets that fall or
    /// do not go from 0 to the number of rows; [`Error::Device`](crate::Error::Device) across
    /// devices.
    pub fn run<O: Float>(self) -> Result<Tensor<O, 2>> {
        let op = self.op?;
        let out = Tensor::for_result(&self.device, op.output_dims()?)?;
        run_into(&self.device, op, out.operand())?;
        Ok(out)
    }

    /// Computes into the memory of `out`.
    ///
    /// # Errors
    /// Those of [`GroupedGemmBuilder::run`].
    pub fn run_into<O: Float>(self, out: &Tensor<O, 2>) -> Result<()> {
        run_into(&self.device, self.op?, out.operand())
    }

    /// Computes and quantises the result to block format `F`, blocks along n.
    ///
    /// # Errors
    /// Those of [`GroupedGemmBuilder::run`]; [`Error::Value`](crate::Error::Value) for a result
    /// that holds NaN or inf.
    pub fn run_quantized<F: BlockFormat>(self, quantizer: Quantizer) -> Result<ScaledTensor<F, 2>> {
        let mut op = self.op?;
        op.epilogue.quantizer = Some(quantizer);
        let out = ScaledTensor::zeros(&self.device, op.output_dims()?)?;
        run_into(&self.device, op, out.operand())?;
        Ok(out)
    }

    /// The operation with a result of type `O`, as a specification: for [`Device::explain`].
    ///
    /// # Errors
    /// Those of [`Op::validate`] that concern sizes.
    pub fn spec<O: Float>(self) -> Result<Op> {
        let mut op = self.op?;
        op.d = Dense::spec(O::DTYPE, &op.output_dims()?)?.into();
        Ok(op.into())
    }
}

fn run_into(device: &Device, mut op: GroupedGemm, d: Operand) -> Result<()> {
    op.d = d;
    device.run(&op.into())
}
