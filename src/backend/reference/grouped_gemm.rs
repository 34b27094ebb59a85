//! `D[i] = residual[i] + f(alpha · A[i]·B[e] ∘ column_scale[e] + bias[e])` for the rows `i` of group
//! `e`

use super::array::{Array, QuantizeWith};
use super::gemm::epilogue;
use crate::error::Result;
use crate::op::{Epilogue, GroupedGemm};
use crate::registry::Launch;

pub(super) fn grouped_gemm(op: &GroupedGemm, launch: &Launch<'_>) -> Result<()> {
    let a = Array::load(launch, &op.a)?;
    let b = Array::load(launch, &op.b)?;
    let column_scale = Array::load_opt(launch, op.epilogue.column_scale.as_ref())?;
    let bias = Array::load_opt(launch, op.epilogue.bias.as_ref())?;
    let groups = op.groups(|operand| launch.read_indices(operand))?;
    let sizes = op.sizes()?;
    let (n, k) = (sizes.n, sizes.k);

    let mut t = Array::zeros(&[sizes.total_m, n])?;
    for (e, rows) in groups.into_iter().enumerate() {
        for i in rows {
            for j in 0..n {
                let mut sum = 0.0;
                for l in 0..k {
                    sum += a.data[i * k + l] * b.data[(e * k + l) * n + j];
                }
                let mut value = f64::from(op.alpha) * sum;
                if let Some(scale) = &column_scale {
                    value *= scale.data[e * n + j];
                }
                if let Some(bias) = &bias {
                    value += bias.data[e * n + j];
                }
                t.data[i * n + j] = value;
            }
        }
    }
    // The bias of each row's group is in already.
    let rest = Epilogue { bias: None, ..op.epilogue.clone() };
    let with = QuantizeWith { quantizer: op.epilogue.quantizer, tensor_scale: None };
    epilogue(t, &rest, launch)?.store(launch, &op.d, with)
}
