//! Functions of one or two tensors, element by element.

use super::dense::Tensor;
use super::matmul::require_same_device;
use crate::error::{Error, Result};
use crate::num::Float;
use crate::op::{Activation, Elementwise, Function, Op};

/// Methods without arguments, one a function.
macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $function:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(&self) -> Result<Self> {
            self.map($function)
        }
    )*};
}

/// Methods with another tensor, one a function.
macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident => $function:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// [`Error::Shape`] when the shapes do not broadcast to one of this rank,
        /// [`Error::Device`] across devices.
        pub fn $name<const S: usize>(&self, other: &Tensor<E, S>) -> Result<Self> {
            self.zip($function, other)
        }
    )*};
}

/// Arithmetic. Results have the type of the operands, rounded once; FP8 saturates. NaN and
/// infinities follow IEEE arithmetic: see [`Function`].
///
/// Two shapes broadcast: aligned at the last dimension, sizes are equal, or 1 (or missing on the
/// right) where shared.
///
/// ```
/// use ferrocerium::{Device, Tensor};
/// let device = Device::cpu();
/// let x = Tensor::from_host(&device, [2, 2], &[1.0f32, 2.0, 3.0, 4.0])?;
/// let row = Tensor::from_host(&device, [2], &[10.0f32, 20.0])?;
/// assert_eq!(x.add(&row)?.to_vec()?, [11.0, 22.0, 13.0, 24.0]);
/// assert_eq!(x.mul(&x)?.scale(0.5)?.to_vec()?, [0.5, 2.0, 4.5, 8.0]);
/// # Ok::<(), ferrocerium::Error>(())
/// ```
impl<E: Float, const R: usize> Tensor<E, R> {
    binary! {
        /// `self + other`
        add => Function::Add;
        /// `self − other`
        sub => Function::Sub;
        /// `self · other`, element by element.
        mul => Function::Mul;
        /// `self / other`
        div => Function::Div;
        /// The larger of each pair; NaN if either is.
        maximum => Function::Max;
        /// The smaller of each pair; NaN if either is.
        minimum => Function::Min;
    }

    unary! {
        /// `−x`
        neg => Function::Neg;
        /// `|x|`
        abs => Function::Abs;
        /// `e^x`
        exp => Function::Exp;
        /// `ln x`
        ln => Function::Ln;
        /// `√x`
        sqrt => Function::Sqrt;
        /// `1 / √x`
        rsqrt => Function::Rsqrt;
        /// `1 / x`
        recip => Function::Recip;
        /// `tanh x`
        tanh => Function::Tanh;
        /// `1 / (1 + e^−x)`
        sigmoid => Function::Sigmoid;
        /// `max(x, 0)`; NaN stays NaN.
        relu => Function::Activation(Activation::Relu);
        /// `x / (1 + e^−x)`
        silu => Function::Activation(Activation::Silu);
        /// `x · Φ(x)`
        gelu => Function::Activation(Activation::Gelu);
        /// GELU by its tanh approximation: see [`Activation::GeluTanh`].
        gelu_tanh => Function::Activation(Activation::GeluTanh);
    }

    /// `factor · x`
    pub fn scale(&self, factor: f64) -> Result<Self> {
        self.map(Function::Affine { scale: factor, shift: 0.0 })
    }

    /// `x + number`
    pub fn add_scalar(&self, number: f64) -> Result<Self> {
        self.map(Function::Affine { scale: 1.0, shift: number })
    }

    /// `silu(self) · up`: the gate of SwiGLU, gate and value in two tensors.
    ///
    /// # Errors
    /// Those of [`Tensor::mul`].
    pub fn silu_mul<const S: usize>(&self, up: &Tensor<E, S>) -> Result<Self> {
        self.zip(Function::Gate(Activation::SwiGlu), up)
    }

    /// Any function of one operand, with the result in a type to choose.
    ///
    /// # Errors
    /// [`Error::Value`] for a function of two operands.
    pub fn map<O: Float>(&self, function: Function) -> Result<Tensor<O, R>> {
        let out = Tensor::for_result(&self.device, self.shape)?;
        let op = Elementwise::unary(function, self.operand(), out.operand());
        self.device.run(&Op::Elementwise(op))?;
        Ok(out)
    }

    /// Any function of two operands, of any types, with the result in a type to choose.
    ///
    /// # Errors
    /// [`Error::Value`] for a function of one operand; those of [`Tensor::add`].
    pub fn zip<B: Float, O: Float, const S: usize>(
        &self,
        function: Function,
        other: &Tensor<B, S>,
    ) -> Result<Tensor<O, R>> {
        require_same_device(&self.device, &other.device)?;
        let (a, b) = (self.operand(), other.operand());
        let dims = Elementwise::output_dims(&a, Some(&b))?;
        let shape = dims.to_array().map_err(|_| {
            Error::shape(
                "elementwise",
                "other",
                format!(
                    "{a} with {b} gives {dims}, of more dimensions than the left; \
                     swap them, or unsqueeze the left"
                ),
            )
        })?;
        let out = Tensor::for_result(&self.device, shape)?;
        self.device.run(&Op::Elementwise(Elementwise::binary(function, a, b, out.operand())))?;
        Ok(out)
    }
}
