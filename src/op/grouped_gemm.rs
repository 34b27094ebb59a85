//! Matrix products of row groups with a matrix each: mixture-of-experts layers.

use std::ops::Range;

use super::check::{require_dims, require_output};
use super::gemm::Epilogue;
use super::indices::{offsets, require_index};
use super::operand::{Operand, Use};
use crate::error::{Error, Result};

const OP: &str = "grouped_gemm";

/// `D[i] = residual[i] + f(alpha · A[i]·B[e] ∘ column_scale[e] + bias[e])` for the rows
/// `offsets[e] ≤ i < offsets[e + 1]` of each group, or expert, `e`.
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `a` | `[total_m, k]`, rows sorted by group | any float or block format (blocks along k) |
/// | `b` | `[groups, k, n]`, or `[groups, k, 2n]` when gated | any float or block format (blocks along k) |
/// | `offsets` | `[groups + 1]`, from 0 to `total_m`, never falling | u32, i32 or i64 |
/// | `column_scale` | `[groups, n]` (as wide as `b`) | any float |
/// | `bias` | `[groups, n]` (as wide as `b`) | any float |
/// | `residual` | `[total_m, n]` | any float |
/// | `d` | `[total_m, n]` | any float or block format |
///
/// A group may be empty. `f` is the epilogue's [`Activation`](super::Activation). A block-scaled
/// `b` is stored as `[groups, n, k]` and passed transposed. Offsets are data: each is checked when
/// the operation runs, and one out of order is an [`Error::Value`]. Rounding, NaN and inf are as
/// for [`Gemm`](super::Gemm); a row depends on no other row.
#[derive(Clone, Debug)]
pub struct GroupedGemm {
    /// Rows of all groups.
    pub a: Operand,
    /// The matrix of each group.
    pub b: Operand,
    /// Where each group's rows begin.
    pub offsets: Operand,
    /// The result.
    pub d: Operand,
    /// Factor of the product.
    pub alpha: f32,
    /// What is fused behind the product; `column_scale` and `bias` have a row for each group.
    pub epilogue: Epilogue,
}

/// Sizes of a validated [`GroupedGemm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupedGemmSizes {
    /// How many matrices `b` has.
    pub groups: usize,
    /// Rows of `a` and `d`.
    pub total_m: usize,
    /// Columns of `b`: `n`, or `2n` when gated.
    pub n: usize,
    /// Columns of `a`, rows of `b`.
    pub k: usize,
}

impl GroupedGemm {
    /// `D = A·B[group]`.
    pub fn new(
        a: impl Into<Operand>,
        b: impl Into<Operand>,
        offsets: impl Into<Operand>,
        d: impl Into<Operand>,
    ) -> Self {
        GroupedGemm {
            a: a.into(),
            b: b.into(),
            offsets: offsets.into(),
            d: d.into(),
            alpha: 1.0,
            epilogue: Epilogue::default(),
        }
    }

    /// The sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] where they do not fit together.
    pub fn sizes(&self) -> Result<GroupedGemmSizes> {
        let (a, b) = (&self.a, &self.b);
        let wrong =
            |problem: &str| Err(Error::shape(OP, "a, b", format!("a is {a}, b is {b}: {problem}")));
        let (&[total_m, k], &[groups, b_k, n]) = (&a.dims()[..], &b.dims()[..]) else {
            return wrong("sizes [total_m, k] and [groups, k, n] are expected");
        };
        if k != b_k {
            let hint = if k == n { "; transpose b?" } else { "" };
            return wrong(&format!("inner sizes {k} and {b_k} differ{hint}"));
        }
        if self.epilogue.activation.is_gated() && !n.is_multiple_of(2) {
            return wrong("a gated activation needs an even number of columns in b");
        }
        Ok(GroupedGemmSizes { groups, total_m, n, k })
    }

    /// Sizes of the output: `[total_m, n]`.
    ///
    /// # Errors
    /// Those of [`GroupedGemm::sizes`].
    pub fn output_dims(&self) -> Result<[usize; 2]> {
        let sizes = self.sizes()?;
        let n = if self.epilogue.activation.is_gated() { sizes.n / 2 } else { sizes.n };
        Ok([sizes.total_m, n])
    }

    /// The rows of each group of a validated operation. `read` gets the values of an index
    /// operand.
    ///
    /// # Errors
    /// [`Error::Value`] for offsets that do not begin at 0, fall, or do not end at `total_m`;
    /// those of `read`.
    pub fn groups(
        &self,
        read: impl FnOnce(&Operand) -> Result<Vec<i64>>,
    ) -> Result<Vec<Range<usize>>> {
        offsets(OP, "offsets", &read(&self.offsets)?, self.sizes()?.total_m)
    }

    /// What is wrong where a kernel finds an offset out of order.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn misplaced(&self, position: usize) -> Error {
        let total = self.sizes().map_or(0, |sizes| sizes.total_m);
        Error::value(
            OP,
            "offsets",
            format!(
                "element {position} of offsets, {}, is out of order; offsets begin at 0, never \
                 fall and end at the number of rows, {total}",
                self.offsets
            ),
        )
    }

    /// Multiply-adds: `total_m · n · k`.
    pub(super) fn products(&self) -> f64 {
        self.sizes().map_or(0.0, |s| s.total_m as f64 * s.n as f64 * s.k as f64)
    }

    pub(super) fn validate(&self) -> Result<()> {
        let sizes = self.sizes()?;
        let expected = self.output_dims()?;
        for (arg, operand, transposed, stored) in [
            ("a", &self.a, false, "[total_m, k]"),
            ("b", &self.b, true, "[groups, n, k] and pass its transpose"),
        ] {
            operand.require_float(OP, arg)?;
            if operand.as_scaled().is_some_and(|s| s.transposed != transposed) {
                return Err(Error::layout(
                    OP,
                    arg,
                    format!(
                        "{arg} is {operand}: its block scales must run along k; store it as {stored}"
                    ),
                ));
            }
        }
        // One more offset than groups, also where that is more than a usize.
        let groups_and_end = sizes.groups.saturating_add(1);
        require_index(OP, "offsets", &self.offsets, &[groups_and_end])?;
        if let Some(scale) = &self.epilogue.column_scale {
            scale.require_dense_float(OP, "column_scale")?;
            require_dims(OP, "column_scale", scale, &[sizes.groups, sizes.n])?;
        }
        if let Some(bias) = &self.epilogue.bias {
            bias.require_dense_float(OP, "bias")?;
            require_dims(OP, "bias", bias, &[sizes.groups, sizes.n])?;
        }
        if let Some(residual) = &self.epilogue.residual {
            residual.require_dense_float(OP, "residual")?;
            require_dims(OP, "residual", residual, &expected)?;
        }
        require_dims(OP, "d", &self.d, &expected)?;
        require_output(OP, "d", &self.d, self.epilogue.quantizer)?;
        if self.alpha.is_nan() {
            return Err(Error::value(OP, "alpha", "NaN; a number is expected"));
        }
        Ok(())
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        let mut uses = vec![Use::read("a", &self.a), Use::read("b", &self.b)];
        uses.push(Use::read("offsets", &self.offsets));
        uses.extend(self.epilogue.operands());
        uses.push(Use::write("d", &self.d));
        uses
    }
}
