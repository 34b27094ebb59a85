//! What stands behind a matrix product: `residual + f(alpha · t + beta · c + bias)`.

use bytemuck::{Pod, Zeroable};

use super::args::{Matrix, activation_code, require_readable, require_writable};
use super::gpu::Call;
use crate::caps::Caps;
use crate::error::Result;
use crate::memory::Access;
use crate::op::{Gemm, Operand};
use crate::registry::Unsupported;

/// `Epilogue`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Epilogue {
    c: Matrix,
    bias: Matrix,
    residual: Matrix,
    d: Matrix,
    alpha: f32,
    beta: f32,
    activation: i32,
    gated: i32,
}

impl Epilogue {
    /// Whether the kernels have the epilogue of this operation.
    pub fn supports(op: &Gemm, caps: &Caps) -> Result<(), Unsupported> {
        let added = [op.c.as_ref(), op.epilogue.bias.as_ref(), op.epilogue.residual.as_ref()];
        added.into_iter().flatten().try_for_each(require_readable)?;
        require_writable(&op.d, caps)
    }

    /// The operands of an operation, for kernels to see.
    pub fn bind(op: &Gemm, n: usize, call: &mut Call<'_, '_>) -> Result<Self> {
        let d_dims = op.d.dims();
        let mut wide = d_dims;
        if let Some(last) = wide.last_mut() {
            *last = n;
        }
        let mut read = |arg, operand: Option<&Operand>, dims: &[usize]| {
            Matrix::bind_opt(call, arg, operand, Access::Read, dims)
        };
        // With beta = 0, C is not read: it may hold anything.
        let c = op.c.as_ref().filter(|_| op.beta != 0.0);
        let c = read("c", c, &wide)?;
        let bias = read("bias", op.epilogue.bias.as_ref(), &wide)?;
        let residual = read("residual", op.epilogue.residual.as_ref(), &d_dims)?;
        Ok(Epilogue {
            c,
            bias,
            residual,
            d: Matrix::bind(call, "d", &op.d, Access::Write, &d_dims)?,
            alpha: op.alpha,
            beta: op.beta,
            activation: activation_code(op.epilogue.activation),
            gated: op.epilogue.activation.is_gated().into(),
        })
    }
}
