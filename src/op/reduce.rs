//! Sums, extremes and the like over dimensions.

use std::fmt;

use super::dims::{Dims, MAX_RANK};
use super::operand::{Operand, Use};
use crate::error::{Error, Result};

const OP: &str = "reduce";

/// What a [`Reduce`] computes of the elements that it gathers into one, and of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reduction {
    /// `Σ x`; of none, 0.
    Sum,
    /// `Σ x / n`; of none, NaN.
    Mean,
    /// `Π x`; of none, 1.
    Prod,
    /// The largest; NaN if any is; +0 is larger than −0. Of none, −inf.
    Max,
    /// The smallest; NaN if any is; −0 is smaller than +0. Of none, +inf.
    Min,
    /// The largest `|x|`; NaN if any is. Of none, 0.
    AbsMax,
}

impl Reduction {
    /// Every reduction.
    pub const ALL: [Reduction; 6] = [
        Reduction::Sum,
        Reduction::Mean,
        Reduction::Prod,
        Reduction::Max,
        Reduction::Min,
        Reduction::AbsMax,
    ];
}

/// `out` = the elements of `x` over the dimensions `axes`, gathered by `function`.
///
/// | operand | sizes | type |
/// |---|---|---|
/// | `x` | any | any float or block format |
/// | `out` | `x`'s without those of `axes`, or with 1 in their place | any float |
///
/// Sums and products are kept in f32 or wider and rounded once; kernels choose the order. Without
/// axes, `out` is `x` (or `|x|`), rounded to its type.
#[derive(Clone, Debug)]
pub struct Reduce {
    /// How elements are gathered.
    pub function: Reduction,
    /// What is reduced.
    pub x: Operand,
    /// The dimensions that are reduced, in any order.
    pub axes: Vec<usize>,
    /// The result.
    pub out: Operand,
}

impl Reduce {
    /// `out` = `function` over the dimensions `axes` of `x`.
    pub fn new(
        function: Reduction,
        x: impl Into<Operand>,
        axes: impl Into<Vec<usize>>,
        out: impl Into<Operand>,
    ) -> Self {
        Reduce { function, x: x.into(), axes: axes.into(), out: out.into() }
    }

    /// Sizes of the output: with 1 in place of the reduced dimensions when `rank` is that of `x`,
    /// without them when it is that much less.
    ///
    /// # Errors
    /// [`Error::Shape`] when an axis is not there or named twice, or for another rank.
    pub fn output_dims(x: &Operand, axes: &[usize], rank: usize) -> Result<Dims> {
        let dims = x.dims();
        let mut reduced = [false; MAX_RANK];
        for &axis in axes {
            if axis >= dims.len() {
                return Err(Error::shape(
                    OP,
                    "axes",
                    format!("{axis} is not one of the {} dimensions of x, {x}", dims.len()),
                ));
            }
            if std::mem::replace(&mut reduced[axis], true) {
                return Err(Error::shape(OP, "axes", format!("{axes:?} names {axis} twice")));
            }
        }
        let kept = |(axis, &d): (usize, &usize)| (!reduced[axis]).then_some(d);
        let with_one = |(axis, &d): (usize, &usize)| if reduced[axis] { 1 } else { d };
        if rank == dims.len() {
            return Dims::new(&dims.iter().enumerate().map(with_one).collect::<Vec<_>>());
        }
        if rank + axes.len() == dims.len() {
            return Dims::new(&dims.iter().enumerate().filter_map(kept).collect::<Vec<_>>());
        }
        Err(Error::shape(
            OP,
            "out",
            format!(
                "{rank} dimensions for {x} reduced over {axes:?}: {} are expected, or {} to keep \
                 reduced ones with size 1",
                dims.len() - axes.len(),
                dims.len()
            ),
        ))
    }

    pub(super) fn operands(&self) -> Vec<Use<'_>> {
        vec![Use::read("x", &self.x), Use::write("out", &self.out)]
    }

    pub(super) fn validate(&self) -> Result<()> {
        self.x.require_float(OP, "x")?;
        let expected = Self::output_dims(&self.x, &self.axes, self.out.dims().len())?;
        super::check::require_dims(OP, "out", &self.out, &expected)?;
        self.out.require_dense_float(OP, "out")
    }
}

impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Reduction::Sum => "sum",
            Reduction::Mean => "mean",
            Reduction::Prod => "prod",
            Reduction::Max => "max",
            Reduction::Min => "min",
            Reduction::AbsMax => "abs_max",
        })
    }
}
