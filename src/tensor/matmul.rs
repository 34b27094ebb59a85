//! Matrix products.

use super::any::AnyTensor;
use super::dense::Tensor;
use super::scaled::ScaledTensor;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::format::{BlockFormat, Quantizer};
use crate::num::{F8E4M3, F8E5M2, Float, bf16, f16};
use crate::op::{Activation, Dense, Gemm, Op, Operand};
use crate::registry::Request;

/// Anything that can stand in a matrix product of rank `R`.
pub trait MatOperand<const R: usize> {
    /// Its descriptor.
    fn mat_operand(&self) -> Operand;
    /// Its device.
    fn mat_device(&self) -> &Device;
}

impl<E: Float, const R: usize> MatOperand<R> for Tensor<E, R> {
    fn mat_operand(&self) -> Operand {
        self.operand()
    }

    fn mat_device(&self) -> &Device {
        &self.device
    }
}

impl<F: BlockFormat, const R: usize> MatOperand<R> for ScaledTensor<F, R> {
    fn mat_operand(&self) -> Operand {
        self.operand()
    }

    fn mat_device(&self) -> &Device {
        self.device()
    }
}

impl<const R: usize> MatOperand<R> for AnyTensor {
    fn mat_operand(&self) -> Operand {
        self.operand().clone()
    }

    fn mat_device(&self) -> &Device {
        self.device()
    }
}

/// The type in which a product of `Self` elements is returned by [`MatMul`]: the type itself,
/// except that FP8 products come as f32.
pub trait ProductElement: Float {
    /// That type.
    type Product: Float;
}

macro_rules! product_element {
    ($($e:ty => $product:ty),*) => {$(
        impl ProductElement for $e {
            type Product = $product;
        }
    )*};
}

product_element!(f64 => f64, f32 => f32, bf16 => bf16, f16 => f16, F8E4M3 => f32, F8E5M2 => f32);

/// `self · rhs`, in a type that follows from the operands' types alone.
///
/// | left | right | result |
/// |---|---|---|
/// | `Tensor<E>` | `Tensor<E>` or block format | `E` (f32 for FP8) |
/// | block format | `Tensor<E>` | `E` (f32 for FP8) |
/// | block format | block format | f32, the accumulator's type |
///
/// Other combinations, other result types and fused epilogues: `gemm`.
///
/// ```
/// use ferrocerium::{Device, Tensor, bf16, format::{Mxfp8, Nvfp4}};
/// let device = Device::cpu();
/// let x = Tensor::full(&device, [2, 32], bf16::from_f32(0.5))?;
/// let w = Tensor::full(&device, [3, 32], bf16::from_f32(2.0))?;
/// let y: Tensor<bf16, 2> = x.matmul(&w.t())?;
/// let y: Tensor<bf16, 2> = x.matmul(&w.quantize::<Nvfp4>()?.t())?;
/// let y: Tensor<f32, 2> = x.quantize::<Mxfp8>()?.matmul(&w.quantize::<Nvfp4>()?.t())?;
/// assert_eq!(y.to_vec()?, [32.0; 6]);
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` times `{Rhs}` has no result type of its own",
    note = "say which it is: `a.gemm(&b).run::<f32>()`; both ranks must be the same"
)]
pub trait MatMul<Rhs> {
    /// The result.
    type Output;

    /// The matrix product over the last two dimensions: `[.., m, k] · [.., k, n] → [.., m, n]`,
    /// leading sizes equal, or 1 where shared. Accumulated in f32 or wider, rounded once.
    ///
    /// # Errors
    /// [`Error::Shape`] when inner or batch sizes differ; [`Error::Layout`] when the scales of a
    /// block format do not run along k; [`Error::Device`] across devices.
    fn product(&self, rhs: &Rhs) -> Result<Self::Output>;
}

impl<E: ProductElement, const R: usize> MatMul<Tensor<E, R>> for Tensor<E, R> {
    type Output = Tensor<E::Product, R>;

    fn product(&self, rhs: &Tensor<E, R>) -> Result<Self::Output> {
        self.gemm(rhs).run()
    }
}

impl<E: ProductElement, F: BlockFormat, const R: usize> MatMul<ScaledTensor<F, R>>
    for Tensor<E, R>
{
    type Output = Tensor<E::Product, R>;

    fn product(&self, rhs: &ScaledTensor<F, R>) -> Result<Self::Output> {
        self.gemm(rhs).run()
    }
}

impl<E: ProductElement, F: BlockFormat, const R: usize> MatMul<Tensor<E, R>>
    for ScaledTensor<F, R>
{
    type Output = Tensor<E::Product, R>;

    fn product(&self, rhs: &Tensor<E, R>) -> Result<Self::Output> {
        self.gemm(rhs).run()
    }
}

impl<F: BlockFormat, G: BlockFormat, const R: usize> MatMul<ScaledTensor<G, R>>
    for ScaledTensor<F, R>
{
    type Output = Tensor<f32, R>;

    fn product(&self, rhs: &ScaledTensor<G, R>) -> Result<Self::Output> {
        self.gemm(rhs).run()
    }
}

impl<E: Float, const R: usize> Tensor<E, R> {
    /// The matrix product with a tensor or block-scaled tensor: see [`MatMul`].
    ///
    /// # Errors
    /// Those of [`MatMul::product`].
    pub fn matmul<Rhs>(&self, rhs: &Rhs) -> Result<<Self as MatMul<Rhs>>::Output>
    where
        Self: MatMul<Rhs>,
    {
        self.product(rhs)
    }

    /// A matrix product of any operand types, with an epilogue and a result type to choose:
    /// see [`Gemm`] for the formula.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, bf16, op::Activation};
    /// let device = Device::cpu();
    /// let x = Tensor::from_host(&device, [1, 2], &[1.0f32, -1.0])?;
    /// let w = Tensor::from_host(&device, [2, 2], &[1.0f32, 2.0, 3.0, 4.0])?;
    /// let y: Tensor<bf16, 2> = x.gemm(&w).activation(Activation::Relu).run()?;
    /// assert_eq!(y.to_vec()?, [bf16::ZERO, bf16::ZERO]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    pub fn gemm(&self, rhs: &impl MatOperand<R>) -> GemmBuilder<R> {
        GemmBuilder::new(self, rhs)
    }
}

impl<F: BlockFormat, const R: usize> ScaledTensor<F, R> {
    /// The matrix product with a tensor or block-scaled tensor: see [`MatMul`].
    ///
    /// # Errors
    /// Those of [`MatMul::product`].
    pub fn matmul<Rhs>(&self, rhs: &Rhs) -> Result<<Self as MatMul<Rhs>>::Output>
    where
        Self: MatMul<Rhs>,
    {
        self.product(rhs)
    }

    /// A matrix product of any operand types: see [`Tensor::gemm`].
    pub fn gemm(&self, rhs: &impl MatOperand<R>) -> GemmBuilder<R> {
        GemmBuilder::new(self, rhs)
    }
}

/// A matrix product that is being described: see [`Tensor::gemm`].
#[must_use = "nothing is computed before `run`"]
pub struct GemmBuilder<const R: usize> {
    device: Device,
    // What is wrong with an operand is reported by the call that ends the description.
    op: Result<Gemm>,
}

impl<const R: usize> GemmBuilder<R> {
    fn new(a: &impl MatOperand<R>, b: &impl MatOperand<R>) -> Self {
        let describe = || {
            require_same_device(a.mat_device(), b.mat_device())?;
            let (a, b) = (a.mat_operand(), b.mat_operand());
            // Sizes and type of the result are set when it is asked for.
            let d = Dense::spec(crate::num::DType::F32, &[])?;
            Ok(Gemm::new(a, b, d))
        };
        GemmBuilder { device: a.mat_device().clone(), op: describe() }
    }

    fn edit(mut self, change: impl FnOnce(&mut Gemm)) -> Self {
        if let Ok(op) = &mut self.op {
            change(op);
        }
        self
    }

    /// Factor of the product.
    pub fn alpha(self, alpha: f32) -> Self {
        self.edit(|op| op.alpha = alpha)
    }

    /// Multiplies column j of the product by `scale[j]`: where several matrices are columns of
    /// `rhs`, what each of them is scaled by.
    pub fn column_scale<S: Float>(self, scale: &Tensor<S, 1>) -> Self {
        self.edit(|op| op.epilogue.column_scale = Some(scale.operand()))
    }

    /// Adds `beta · c` to the product.
    pub fn plus<C: Float, const S: usize>(self, beta: f32, c: &Tensor<C, S>) -> Self {
        self.edit(|op| {
            op.beta = beta;
            op.c = Some(c.operand());
        })
    }

    /// Adds a bias to every row.
    pub fn bias<B: Float>(self, bias: &Tensor<B, 1>) -> Self {
        self.edit(|op| op.epilogue.bias = Some(bias.operand()))
    }

    /// Applies an activation; a gated one halves the columns.
    pub fn activation(self, activation: Activation) -> Self {
        self.edit(|op| op.epilogue.activation = activation)
    }

    /// Adds a tensor after the activation.
    pub fn residual<C: Float>(self, residual: &Tensor<C, R>) -> Self {
        self.edit(|op| op.epilogue.residual = Some(residual.operand()))
    }

    /// Chooses the kernel as `request` says.
    pub fn request(mut self, request: Request) -> Self {
        self.device = self.device.with_request(request);
        self
    }

    fn output_shape(op: &Gemm) -> Result<[usize; R]> {
        let dims = Gemm::output_dims(&op.a, &op.b, op.epilogue.activation)?;
        dims.to_array()
    }

    /// Computes into a new tensor of `O`.
    ///
    /// # Errors
    /// Those of [`Op::validate`]; [`Error::Device`] across devices; [`Error::OutOfMemory`].
    pub fn run<O: Float>(self) -> Result<Tensor<O, R>> {
        let op = self.op?;
        let out = Tensor::for_result(&self.device, Self::output_shape(&op)?)?;
        run_into(&self.device, op, out.operand())?;
        Ok(out)
    }

    /// Computes into the memory of `out`, which no operand may share.
    ///
    /// # Errors
    /// Those of [`GemmBuilder::run`]; [`Error::Shape`] when `out` has another shape.
    pub fn run_into<O: Float>(self, out: &Tensor<O, R>) -> Result<()> {
        run_into(&self.device, self.op?, out.operand())
    }

    /// Computes and quantises the result to block format `F`, blocks along n: the next product's
    /// activations in one step.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, format::{Nvfp4, Quantizer}, op::Activation};
    /// let device = Device::cpu();
    /// let x = Tensor::full(&device, [2, 32], 0.5f32)?;
    /// let w = Tensor::full(&device, [64, 32], 0.25f32)?;
    /// let h = x.gemm(&w.t()).activation(Activation::Relu).run_quantized::<Nvfp4>(Quantizer::Amax)?;
    /// assert_eq!(h.dequantize::<f32>()?.host()?[[1, 63]], 4.0);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`GemmBuilder::run`]; [`Error::Value`] when the quantiser does not make `F` or a
    /// result is NaN or infinite.
    pub fn run_quantized<F: BlockFormat>(self, quantizer: Quantizer) -> Result<ScaledTensor<F, R>> {
        let mut op = self.op?;
        op.epilogue.quantizer = Some(quantizer);
        let out = ScaledTensor::zeros(&self.device, Self::output_shape(&op)?)?;
        run_into(&self.device, op, out.operand())?;
        Ok(out)
    }

    /// The operation with a result of type `O`, as a specification: for
    /// [`Device::explain`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the operands' sizes do not fit together.
    pub fn spec<O: Float>(self) -> Result<Op> {
        let mut op = self.op?;
        let dims = Gemm::output_dims(&op.a, &op.b, op.epilogue.activation)?;
        op.d = Dense::spec(O::DTYPE, &dims)?.into();
        Ok(op.into())
    }
}

fn run_into(device: &Device, mut op: Gemm, d: Operand) -> Result<()> {
    op.d = d;
    device.run(&op.into())
}

/// Refuses operands of different devices.
pub(super) fn require_same_device(a: &Device, b: &Device) -> Result<()> {
    if a.is_same(b) {
        return Ok(());
    }
    Err(Error::device(format!(
        "operands live on {} and {}; copy one over with `to_device`, or use `on` where both read \
         the same memory",
        a.name(),
        b.name()
    )))
}
