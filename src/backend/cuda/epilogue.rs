//! What stands behind a matrix product: `residual + f(alpha · t · column_scale + beta · c + bias)`.

use bytemuck::{Pod, Zeroable};

use super::args::{BATCH_RANK, Matrix, activation_code, require_readable, require_writable};
use super::gpu::Call;
use super::quantize::Quantizing;
use crate::caps::Caps;
use crate::error::Result;
use crate::memory::Access;
use crate::op::{self, Dims, Operand};
use crate::registry::Unsupported;

/// `Epilogue`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Epilogue {
    column_scale: Matrix,
    c: Matrix,
    bias: Matrix,
    residual: Matrix,
    pub d: Matrix,
    alpha: f32,
    beta: f32,
    activation: i32,
    gated: i32,
}

impl Epilogue {
    /// Whether the kernels have this epilogue.
    pub fn supports(
        c: Option<&Operand>,
        epilogue: &op::Epilogue,
        d: &Operand,
        caps: &Caps,
    ) -> Result<(), Unsupported> {
        let op::Epilogue { column_scale, bias, residual, .. } = epilogue;
        let operands = [c, column_scale.as_ref(), bias.as_ref(), residual.as_ref()];
        operands.into_iter().flatten().try_for_each(require_readable)?;
        match d {
            Operand::Dense(_) => require_writable(d, caps),
            Operand::Scaled(to) => Quantizing::new(to, epilogue.quantizer, None).supports(to, caps),
        }
    }

    /// The operands of an epilogue behind a product of `n` columns, for kernels to see; `d` is
    /// where its results go, of sizes `d_dims`.
    pub fn bind(
        (alpha, c, beta): (f32, Option<&Operand>, f32),
        epilogue: &op::Epilogue,
        (d, d_dims): (Matrix, Dims),
        n: usize,
        call: &mut Call<'_, '_>,
    ) -> Result<Self> {
        let mut wide = d_dims;
        if let Some(last) = wide.last_mut() {
            *last = n;
        }
        let mut read = |arg, operand: Option<&Operand>, dims: &[usize]| {
            Matrix::bind_opt(call, arg, operand, Access::Read, dims)
        };
        // With beta = 0, C is not read: it may hold anything.
        let c = read("c", c.filter(|_| beta != 0.0), &wide)?;
        let column_scale = read("column_scale", epilogue.column_scale.as_ref(), &wide)?;
        let bias = read("bias", epilogue.bias.as_ref(), &wide)?;
        let residual = read("residual", epilogue.residual.as_ref(), &d_dims)?;
        Ok(Epilogue {
            column_scale,
            c,
            bias,
            residual,
            d,
            alpha,
            beta,
            activation: activation_code(epilogue.activation),
            gated: epilogue.activation.is_gated().into(),
        })
    }

    /// The same, where column scales and `bias` have a row for each matrix of the batch rather than
    /// of D.
    pub fn by_group(&mut self) {
        for rows in [&mut self.column_scale, &mut self.bias] {
            rows.batch[BATCH_RANK - 1] = std::mem::take(&mut rows.row);
        }
    }
}
