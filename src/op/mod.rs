//! Operations as plain data over operand descriptors.
//!
//! An operation says what is computed, of which operands, and nothing of how. It is built by a
//! tensor method or by hand, checked by [`Op::validate`] (the one place where a shape error is
//! made), and handed to a device. Without data in its operands it is a *specification*, good for
//! asking which kernel would run.
//!
//! All operands are [`Operand`]s; each operation's documentation says which sizes and types they
//! have. Sizes of zero are valid everywhere and give empty, or zero, results.

mod activation;
pub(crate) mod check;
mod convert;
mod dims;
mod gemm;
mod operand;

use std::fmt;

pub use activation::Activation;
pub use convert::Convert;
pub use dims::{Dims, MAX_RANK};
pub use gemm::{Epilogue, Gemm, GemmSizes};
pub use operand::{Dense, Operand, Scaled, ScaledData, Use};

use crate::error::{Error, Result};

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
}

/// Which operation, without its operands: what kernels register for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum OpKind {
    /// [`Gemm`]
    Gemm,
    /// [`Convert`]
    Convert,
}

impl OpKind {
    /// Every operation, in the order of declaration.
    pub const ALL: [OpKind; 2] = [OpKind::Gemm, OpKind::Convert];

    /// The name, as printed and as used in kernel names.
    pub const fn name(self) -> &'static str {
        match self {
            OpKind::Gemm => "gemm",
            OpKind::Convert => "convert",
        }
    }
}

impl Op {
    /// Which operation this is.
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Gemm(_) => OpKind::Gemm,
            Op::Convert(_) => OpKind::Convert,
        }
    }

    /// The operands in a fixed order, outputs last.
    pub fn operands(&self) -> Vec<Use<'_>> {
        match self {
            Op::Gemm(op) => op.operands(),
            Op::Convert(op) => op.operands(),
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
        }
    }

    /// How much there is to do, to the nearest order of magnitude: products of a matrix product,
    /// else elements touched. For estimating costs.
    pub fn work(&self) -> f64 {
        let touched = |u: Use<'_>| u.operand.dims().iter().map(|&d| d as f64).product::<f64>();
        let elements: f64 = self.operands().into_iter().map(touched).sum();
        match self {
            Op::Gemm(op) => elements + op.sizes().map_or(0.0, |s| s.products()),
            Op::Convert(_) => elements,
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
