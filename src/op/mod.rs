//! Operations as plain data over operand descriptors.
//!
//! An operation says what is computed, of which operands, and nothing of how. It is built by a
//! tensor method or by hand, checked by [`Op::validate`] (the one place where a shape error is
//! made), and handed to a device. Without data in its operands it is a *specification*, good for
//! asking which kernel would run.
//!
//! All operands are [`Operand`]s; each operation's documentation says which sizes and types they
//! have. Sizes of zero are valid everywhere and give empty, or zero, results.
//!
//! ```
//! use ferrocerium::op::{Dense, Gemm, Op, Scaled};
//! use ferrocerium::{DType, Device, format::Format};
//!
//! // What would run a product of bf16 with NVFP4 weights, before there are any?
//! let x = Dense::spec(DType::BF16, &[1, 4096])?;
//! let w = Scaled::spec(Format::Nvfp4, &[11008, 4096])?.transposed();
//! let y = Dense::spec(DType::BF16, &[1, 11008])?;
//! println!("{}", Device::best()?.explain(&Gemm::new(x.clone(), w, y).into())?);
//!
//! // What does not fit is said before anything runs.
//! let wrong: Op = Gemm::new(x.clone(), Dense::spec(DType::BF16, &[128, 32])?, x).into();
//! let error = wrong.validate().unwrap_err().to_string();
//! assert!(error.contains("inner sizes 4096 and 128 differ"), "{error}");
//! # Ok::<(), ferrocerium::Error>(())
//! ```

mod activation;
mod arg_reduce;
mod attention;
pub(crate) mod check;
#[cfg(any(feature = "cpu", feature = "cuda", feature = "emulator"))]
mod collapse;
mod convert;
mod dims;
mod elementwise;
mod gather;
mod gemm;
mod grouped_gemm;
mod indices;
mod norm;
mod operand;
mod reduce;
mod rope;
mod scatter;
mod softmax;
mod top_k;

use std::fmt;

pub use activation::Activation;
pub use arg_reduce::ArgReduce;
pub use attention::{Attention, AttentionSizes, KvLayout, Mask, Sequence};
#[cfg(any(feature = "cpu", feature = "cuda", feature = "emulator"))]
pub(crate) use collapse::collapse;
pub use convert::Convert;
pub use dims::{Dims, MAX_RANK};
pub use elementwise::{Elementwise, Function};
pub use gather::Gather;
pub use gemm::{Epilogue, Gemm, GemmSizes};
pub use grouped_gemm::{GroupedGemm, GroupedGemmSizes};
pub use norm::{Norm, NormKind};
pub use operand::{Dense, Operand, Scaled, ScaledData, Use};
pub use reduce::{Reduce, Reduction};
pub use rope::{Positions, Rope, RopeFrequencies, RopeScaling, RopeStyle};
pub use scatter::Scatter;
pub use softmax::Softmax;
pub use top_k::TopK;

use crate::error::{Error, Result};
use crate::memory::{Access, Region};

/// An operation.
#[derive(Clone, Debug)]
#[non_exhaustive]
// Built on the stack and handed down by reference: boxing would only add an allocation.
#[allow(clippy::large_enum_variant)]
pub enum Op {
    /// See [`Gemm`].
    Gemm(Gemm),
    /// See [`Convert`].
    Convert(Convert),
    /// See [`Norm`].
    Norm(Norm),
    /// See [`Elementwise`].
    Elementwise(Elementwise),
    /// See [`Gather`].
    Gather(Gather),
    /// See [`Attention`].
    Attention(Attention),
    /// See [`GroupedGemm`].
    GroupedGemm(GroupedGemm),
    /// See [`Rope`].
    Rope(Rope),
    /// See [`Softmax`].
    Softmax(Softmax),
    /// See [`Reduce`].
    Reduce(Reduce),
    /// See [`ArgReduce`].
    ArgReduce(ArgReduce),
    /// See [`TopK`].
    TopK(TopK),
    /// See [`Scatter`].
    Scatter(Scatter),
}

/// Which operation, without its operands: what kernels register for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum OpKind {
    /// [`Gemm`]
    Gemm,
    /// [`Convert`]
    Convert,
    /// [`Norm`]
    Norm,
    /// [`Elementwise`]
    Elementwise,
    /// [`Gather`]
    Gather,
    /// [`Attention`]
    Attention,
    /// [`GroupedGemm`]
    GroupedGemm,
    /// [`Rope`]
    Rope,
    /// [`Softmax`]
    Softmax,
    /// [`Reduce`]
    Reduce,
    /// [`ArgReduce`]
    ArgReduce,
    /// [`TopK`]
    TopK,
    /// [`Scatter`]
    Scatter,
}

impl OpKind {
    /// Every operation, in the order of declaration.
    pub const ALL: [OpKind; 13] = [
        OpKind::Gemm,
        OpKind::Convert,
        OpKind::Norm,
        OpKind::Elementwise,
        OpKind::Gather,
        OpKind::Attention,
        OpKind::GroupedGemm,
        OpKind::Rope,
        OpKind::Softmax,
        OpKind::Reduce,
        OpKind::ArgReduce,
        OpKind::TopK,
        OpKind::Scatter,
    ];

    /// The name, as printed and as used in kernel names.
    pub const fn name(self) -> &'static str {
        match self {
            OpKind::Gemm => "gemm",
            OpKind::Convert => "convert",
            OpKind::Norm => "norm",
            OpKind::Elementwise => "elementwise",
            OpKind::Gather => "gather",
            OpKind::Attention => "attention",
            OpKind::GroupedGemm => "grouped_gemm",
            OpKind::Rope => "rope",
            OpKind::Softmax => "softmax",
            OpKind::Reduce => "reduce",
            OpKind::ArgReduce => "arg_reduce",
            OpKind::TopK => "top_k",
            OpKind::Scatter => "scatter",
        }
    }
}

impl Op {
    /// Which operation this is.
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Gemm(_) => OpKind::Gemm,
            Op::Convert(_) => OpKind::Convert,
            Op::Norm(_) => OpKind::Norm,
            Op::Elementwise(_) => OpKind::Elementwise,
            Op::Gather(_) => OpKind::Gather,
            Op::Attention(_) => OpKind::Attention,
            Op::GroupedGemm(_) => OpKind::GroupedGemm,
            Op::Rope(_) => OpKind::Rope,
            Op::Softmax(_) => OpKind::Softmax,
            Op::Reduce(_) => OpKind::Reduce,
            Op::ArgReduce(_) => OpKind::ArgReduce,
            Op::TopK(_) => OpKind::TopK,
            Op::Scatter(_) => OpKind::Scatter,
        }
    }

    /// The operands in a fixed order, outputs last.
    pub fn operands(&self) -> Vec<Use<'_>> {
        match self {
            Op::Gemm(op) => op.operands(),
            Op::Convert(op) => op.operands(),
            Op::Norm(op) => op.operands(),
            Op::Elementwise(op) => op.operands(),
            Op::Gather(op) => op.operands(),
            Op::Attention(op) => op.operands(),
            Op::GroupedGemm(op) => op.operands(),
            Op::Rope(op) => op.operands(),
            Op::Softmax(op) => op.operands(),
            Op::Reduce(op) => op.operands(),
            Op::ArgReduce(op) => op.operands(),
            Op::TopK(op) => op.operands(),
            Op::Scatter(op) => op.operands(),
        }
    }

    /// The operands that it writes, in the order of [`Op::operands`]: to give them memory.
    pub fn outputs_mut(&mut self) -> Vec<&mut Operand> {
        match self {
            Op::Gemm(op) => vec![&mut op.d],
            Op::Convert(op) => vec![&mut op.dst],
            Op::Norm(op) => op.sum.iter_mut().chain([&mut op.out]).collect(),
            Op::Elementwise(op) => vec![&mut op.out],
            Op::Gather(op) => vec![&mut op.out],
            Op::Attention(op) => op.lse.iter_mut().chain([&mut op.out]).collect(),
            Op::GroupedGemm(op) => vec![&mut op.d],
            Op::Rope(op) => vec![&mut op.out],
            Op::Softmax(op) => vec![&mut op.out],
            Op::Reduce(op) => vec![&mut op.out],
            Op::ArgReduce(op) => vec![&mut op.out],
            Op::TopK(op) => vec![&mut op.values, &mut op.indices],
            Op::Scatter(op) => vec![&mut op.out],
        }
    }

    /// Checks every operand by itself and against the others.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`], [`Error::Layout`] or [`Error::Value`], naming the
    /// argument, what it is and what would work.
    pub fn validate(&self) -> Result<()> {
        for Use { name, access, operand } in self.operands() {
            operand.validate(self.kind().name(), name, access)?;
        }
        match self {
            Op::Gemm(op) => op.validate(),
            Op::Convert(op) => op.validate(),
            Op::Norm(op) => op.validate(),
            Op::Elementwise(op) => op.validate(),
            Op::Gather(op) => op.validate(),
            Op::Attention(op) => op.validate(),
            Op::GroupedGemm(op) => op.validate(),
            Op::Rope(op) => op.validate(),
            Op::Softmax(op) => op.validate(),
            Op::Reduce(op) => op.validate(),
            Op::ArgReduce(op) => op.validate(),
            Op::TopK(op) => op.validate(),
            Op::Scatter(op) => op.validate(),
        }
    }

    /// How much there is to do, to the nearest order of magnitude: products of a matrix product,
    /// else elements touched. For estimating costs.
    pub fn work(&self) -> f64 {
        let touched = |u: Use<'_>| u.operand.dims().iter().map(|&d| d as f64).product::<f64>();
        let elements: f64 = self.operands().into_iter().map(touched).sum();
        match self {
            Op::Gemm(op) => elements + op.sizes().map_or(0.0, |s| s.products()),
            // Of the table only what is picked.
            Op::Gather(op) => op.out.dims().iter().map(|&d| d as f64).product(),
            // Of the output only what is moved there.
            Op::Scatter(op) => 2.0 * op.src.dims().iter().map(|&d| d as f64).product::<f64>(),
            Op::Attention(op) => elements + op.products(),
            Op::GroupedGemm(op) => elements + op.products(),
            _ => elements,
        }
    }

    /// Refuses a specification: every operand needs data to run.
    pub fn require_data(&self) -> Result<()> {
        match self.operands().into_iter().find(|u| !u.operand.has_data()) {
            None => Ok(()),
            Some(u) => Err(Error::layout(
                self.kind().name(),
                u.name,
                "it has no data: a specification can be explained, not run",
            )),
        }
    }

    /// Refuses an output in the memory of another operand: kernels read and write in any order.
    pub fn require_apart(&self) -> Result<()> {
        let operands = self.operands();
        for (i, out) in operands.iter().enumerate() {
            for (j, other) in operands.iter().enumerate() {
                let written = out.access == Access::Write && i != j;
                let ids = || other.operand.regions().map(|region| region.buffer().id());
                let same = |region: &&Region| ids().any(|id| id == region.buffer().id());
                if written && let Some(region) = out.operand.regions().find(same) {
                    let (name, label) = (out.name, region.buffer().label());
                    let problem = format!(
                        "{name} is {} in buffer `{label}`, which is also another operand's, {} \
                         {}; give the output memory of its own",
                        out.operand, other.name, other.operand
                    );
                    return Err(Error::layout(self.kind().name(), name, problem));
                }
            }
        }
        Ok(())
    }
}

impl From<Gemm> for Op {
    fn from(op: Gemm) -> Self {
        Op::Gemm(op)
    }
}

impl From<Convert> for Op {
    fn from(op: Convert) -> Self {
        Op::Convert(op)
    }
}

impl From<Norm> for Op {
    fn from(op: Norm) -> Self {
        Op::Norm(op)
    }
}

impl From<Elementwise> for Op {
    fn from(op: Elementwise) -> Self {
        Op::Elementwise(op)
    }
}

impl From<Gather> for Op {
    fn from(op: Gather) -> Self {
        Op::Gather(op)
    }
}

impl From<Attention> for Op {
    fn from(op: Attention) -> Self {
        Op::Attention(op)
    }
}

impl From<Softmax> for Op {
    fn from(op: Softmax) -> Self {
        Op::Softmax(op)
    }
}

impl From<Reduce> for Op {
    fn from(op: Reduce) -> Self {
        Op::Reduce(op)
    }
}

impl From<ArgReduce> for Op {
    fn from(op: ArgReduce) -> Self {
        Op::ArgReduce(op)
    }
}

impl From<TopK> for Op {
    fn from(op: TopK) -> Self {
        Op::TopK(op)
    }
}

impl From<Scatter> for Op {
    fn from(op: Scatter) -> Self {
        Op::Scatter(op)
    }
}

impl From<Rope> for Op {
    fn from(op: Rope) -> Self {
        Op::Rope(op)
    }
}

impl From<GroupedGemm> for Op {
    fn from(op: GroupedGemm) -> Self {
        Op::GroupedGemm(op)
    }
}

impl fmt::Display for Op {
    /// `gemm(a: [4, 64] bf16, b: [64, 8] nvfp4 transposed, d: [4, 8] bf16)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.kind().name())?;
        for (i, Use { name, operand, .. }) in self.operands().into_iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{name}: {operand}")?;
        }
        f.write_str(")")
    }
}
