//! What an operation must give: exact values from the reference, and how far a kernel may miss
//! them.

use std::sync::OnceLock;

use super::functions::{Approx, Precision};
use super::ops;
use crate::error::Result;
use crate::memory::Region;
use crate::num::DType;
use crate::op::{Dense, Op, Operand};
use crate::registry::Numerics;
use crate::{AnyTensor, Device};

/// What an output must be, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// Numbers.
    Values {
        /// The exact ones.
        values: Vec<f64>,
        /// What each may be off by before it is rounded, or quantised, to the output's type; see
        /// [`compare`](super::bounds::compare).
        errors: Vec<f64>,
    },
    /// Indices: those that are right in each place, which are several where values differ by less
    /// than decoding them in f32 may move them.
    OneOf(Vec<Vec<i64>>),
}

impl Expected {
    /// Values to be met exactly, but for the rounding to the output's type.
    pub(super) fn exactly(values: Vec<f64>) -> Self {
        Expected::Values { errors: vec![0.0; values.len()], values }
    }
}

/// What the outputs of an operation must be, in their order among its operands.
///
/// The bounds are those of operands that enter as given, sums in f32 and functions to 2 ulp of f32
/// ([`Numerics::AsGiven`](crate::registry::Numerics)). The module of each operation derives its own.
///
/// ```
/// use ferrocerium::op::{Elementwise, Function, Op};
/// use ferrocerium::testing::{Expected, expected};
/// use ferrocerium::{Device, Tensor};
/// let x = Tensor::from_host(&Device::reference(), [2], &[0.0f32, 1.0])?;
/// let out = Tensor::<f32, 1>::zeros(&Device::reference(), [2])?;
/// let op = Op::from(Elementwise::unary(Function::Exp, x.operand(), out.operand()));
/// let Expected::Values { values, errors } = &expected(&op)?[0] else { unreachable!() };
/// assert_eq!(values[1], std::f64::consts::E);
/// assert!(errors[1] < 1e-6);
/// # Ok::<(), ferrocerium::Error>(())
/// ```
///
/// # Errors
/// Those of the reference: [`Error::Value`](crate::Error::Value) where the data make a kernel
/// refuse.
pub fn expected(op: &Op) -> Result<Vec<Expected>> {
    expected_of(op, Numerics::AsGiven)
}

/// The same of a kernel of this class: what attention's weights, and the activations of a matrix
/// product, may be off by depends on it.
pub(super) fn expected_of(op: &Op, numerics: Numerics) -> Result<Vec<Expected>> {
    match op {
        Op::Gemm(op) => ops::gemm::expected(op, numerics),
        Op::GroupedGemm(op) => ops::grouped_gemm::expected(op, numerics),
        Op::Convert(op) => ops::convert::expected(op),
        Op::Norm(op) => ops::norm::expected(op),
        Op::Elementwise(op) => ops::elementwise::expected(op),
        Op::Gather(op) => ops::gather::expected(op),
        Op::Attention(op) => ops::attention::expected(op, numerics),
        Op::Rope(op) => ops::rope::expected(op),
        Op::Softmax(op) => ops::softmax::expected(op),
        Op::Reduce(op) => ops::reduce::expected(op),
        Op::ArgReduce(op) => ops::arg_reduce::expected(op),
        Op::TopK(op) => ops::top_k::expected(op),
        Op::Scatter(op) => ops::scatter::expected(op),
    }
}

/// The device that expected values come from.
pub(super) fn reference() -> &'static Device {
    static REFERENCE: OnceLock<Device> = OnceLock::new();
    REFERENCE.get_or_init(Device::reference)
}

/// The reference's last output, in f64 instead of its own type.
pub(super) fn in_f64(op: impl Into<Op>) -> Result<Vec<f64>> {
    run(op.into(), Some(DType::F64))
}

/// The reference's last output, in its own type.
pub(super) fn in_own_type(op: impl Into<Op>) -> Result<Vec<f64>> {
    run(op.into(), None)
}

fn run(mut op: Op, dtype: Option<DType>) -> Result<Vec<f64>> {
    op.validate()?;
    let mut last = None;
    let mut outputs = op.outputs_mut();
    let count = outputs.len();
    for (i, slot) in outputs.iter_mut().enumerate() {
        let dtype = if i + 1 == count { dtype } else { None };
        let dtype = dtype.or(slot.dtype()).unwrap_or(DType::F32);
        let dims = slot.dims();
        **slot = zeros(dtype, &dims)?;
        last = Some(slot.clone());
    }
    reference().run(&op)?;
    last.map_or(Ok(Vec::new()), |output| values(&output))
}

fn zeros(dtype: DType, dims: &[usize]) -> Result<Operand> {
    let mut dense = Dense::spec(dtype, dims)?;
    let bytes = dense.dims.numel()? * dtype.size();
    dense.data = Some(Region::whole(reference().allocate(bytes, "expected")?));
    Ok(dense.into())
}

/// The values of an operand, row-major.
pub(super) fn values(operand: &Operand) -> Result<Vec<f64>> {
    let cast = AnyTensor::from_operand(reference(), operand.clone()).cast(DType::F64)?;
    let Some(Dense { data: Some(region), .. }) = cast.operand().as_dense() else {
        return Ok(Vec::new());
    };
    let bytes = region.buffer().read()?;
    Ok(bytemuck::cast_slice(&bytes).to_vec())
}

/// The values of an operand that may be left out.
pub(super) fn values_opt(operand: Option<&Operand>) -> Result<Option<Vec<f64>>> {
    operand.map(values).transpose()
}

/// The integers of an index operand, row-major.
pub(super) fn indices(operand: &Operand) -> Result<Vec<i64>> {
    Ok(values(operand)?.into_iter().map(|x| x as i64).collect())
}

/// The values of an operand as a kernel decodes them: elements as they are; blocks rounded once,
/// where their scales are no powers of two.
pub(super) fn decoded(operand: &Operand, p: Precision) -> Result<Vec<Approx>> {
    let rounds = operand.as_scaled().is_some_and(|s| s.format.spec().scale != DType::E8M0);
    let error = |x: f64| if rounds && x != 0.0 { p.u * x.abs() + p.tiny } else { 0.0 };
    Ok(values(operand)?.into_iter().map(|value| Approx { value, error: error(value) }).collect())
}

/// An operand's magnitudes as an f64 operand.
pub(super) fn magnitudes(operand: &Operand) -> Result<Operand> {
    let magnitudes: Vec<f64> = values(operand)?.into_iter().map(f64::abs).collect();
    of_values(&operand.dims(), &magnitudes)
}

/// Row-major values as an f64 operand.
pub(super) fn of_values(dims: &[usize], values: &[f64]) -> Result<Operand> {
    let operand = zeros(DType::F64, dims)?;
    if let Some(region) = operand.regions().next() {
        region.buffer().write()?.copy_from_slice(bytemuck::cast_slice(values));
    }
    Ok(operand)
}

/// Where each element of `dims`, row-major, lies in an array of sizes that broadcast to them.
pub(super) fn broadcast_positions(from: &[usize], dims: &[usize]) -> Result<Vec<usize>> {
    let mut dense = Dense::spec(DType::F64, dims)?;
    let own = Dense::spec(DType::F64, from)?;
    let skip = dims.len() - from.len();
    for axis in 0..dims.len() {
        dense.strides[axis] = match axis.checked_sub(skip) {
            Some(i) if from[i] != 1 => own.strides[i],
            _ => 0,
        };
    }
    Ok(dense.offsets())
}
