//! Operation by operation: random cases, and what they must give.
//!
//! Each module has a `…Case`, an operation as plain data, small enough to print and complete
//! enough to build again; a strategy for it; and the oracle, which derives the error bound.

pub(super) mod arg_reduce;
pub(super) mod attention;
pub(super) mod convert;
pub(super) mod elementwise;
pub(super) mod gather;
pub(super) mod gemm;
pub(super) mod grouped_gemm;
mod narrow;
pub(super) mod norm;
pub(super) mod reduce;
pub(super) mod rope;
pub(super) mod scatter;
pub(super) mod softmax;
pub(super) mod top_k;

use std::fmt;
use std::sync::Arc;

use proptest::prelude::*;

use super::operand::Kind;
use crate::Device;
use crate::error::Result;
use crate::format::Quantizer;
use crate::op::{Op, OpKind};

/// A random operation as plain data.
pub trait BuildOp: fmt::Debug {
    /// The operation over fresh inputs on a device; its outputs have no memory yet.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    fn build(&self, device: &Device) -> Result<Op>;
}

/// A random operation of any kind.
#[derive(Clone)]
pub struct Case(Arc<dyn BuildOp>);

impl BuildOp for Case {
    fn build(&self, device: &Device) -> Result<Op> {
        self.0.build(device)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Random operations of a kind: every form that it has, over operands of every kind, layout and
/// distribution of values.
///
/// ```
/// use ferrocerium::op::OpKind;
/// use ferrocerium::testing::{BuildOp, op_cases};
/// use ferrocerium::Device;
/// use proptest::prelude::*;
/// proptest!(ProptestConfig::with_cases(8), |(case in op_cases(OpKind::Softmax))| {
///     prop_assert!(case.build(&Device::reference()).unwrap().validate().is_ok());
/// });
/// ```
pub fn op_cases(kind: OpKind) -> BoxedStrategy<Case> {
    match kind {
        OpKind::Gemm => any_case(gemm::gemm_cases()),
        OpKind::GroupedGemm => any_case(grouped_gemm::grouped_gemm_cases()),
        OpKind::Convert => any_case(convert::convert_cases()),
        OpKind::Norm => any_case(norm::norm_cases()),
        OpKind::Elementwise => any_case(elementwise::elementwise_cases()),
        OpKind::Gather => any_case(gather::gather_cases()),
        OpKind::Attention => any_case(attention::attention_cases()),
        OpKind::Rope => any_case(rope::rope_cases()),
        OpKind::Softmax => any_case(softmax::softmax_cases()),
        OpKind::Reduce => any_case(reduce::reduce_cases()),
        OpKind::ArgReduce => any_case(arg_reduce::arg_reduce_cases()),
        OpKind::TopK => any_case(top_k::top_k_cases()),
        OpKind::Scatter => any_case(scatter::scatter_cases()),
    }
}

fn any_case<C: BuildOp + 'static>(
    strategy: impl Strategy<Value = C> + 'static,
) -> BoxedStrategy<Case> {
    strategy.prop_map(|case| Case(Arc::new(case))).boxed()
}

/// What an output is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Plain elements or blocks.
    pub kind: Kind,
    /// The quantiser of blocks; `None` for the format's default.
    pub quantizer: Option<Quantizer>,
}

impl Target {
    /// Plain elements mostly, and blocks by any quantiser that makes them.
    pub fn any() -> impl Strategy<Value = Target> {
        prop_oneof![3 => Self::plain(), 1 => Self::blocks()]
    }

    /// Plain elements.
    pub fn plain() -> impl Strategy<Value = Target> {
        Kind::plain().prop_map(|kind| Target { kind, quantizer: None })
    }

    /// Blocks by any quantiser that makes them.
    pub fn blocks() -> impl Strategy<Value = Target> {
        let quantizers = prop::option::of(prop::sample::select(&Quantizer::ALL[..]));
        (Kind::blocks(), quantizers).prop_map(|(kind, quantizer)| {
            let made = |q: &Quantizer| matches!(kind, Kind::Blocks(f, _) if q.supports(f));
            Target { kind, quantizer: quantizer.filter(made) }
        })
    }
}
