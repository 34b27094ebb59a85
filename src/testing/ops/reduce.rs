//! Sums, extremes and the like.

use proptest::prelude::*;

use super::BuildOp;
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{Op, Reduce, Reduction};
use crate::testing::bounds::{TINY_F32, U_F32, gamma};
use crate::testing::expected::{Expected, broadcast_positions, decoded, in_f64};
use crate::testing::functions::{Approx, Precision};
use crate::testing::operand::{Kind, Layout, Source, floats, shapes};

/// A reduction.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Reduce`.
pub struct ReduceCase {
    pub function: Reduction,
    pub dims: Vec<usize>,
    pub axes: Vec<usize>,
    /// Whether reduced dimensions stay with size 1.
    pub keep: bool,
    pub x: Kind,
    pub out: DType,
    /// Of x and out.
    pub layouts: [Layout; 2],
    pub source: Source,
}

/// Every reduction, over any dimensions.
pub fn reduce_cases() -> impl Strategy<Value = ReduceCase> {
    let function = prop::sample::select(&Reduction::ALL[..]);
    let axes = shapes(4).prop_flat_map(|dims| {
        let all: Vec<usize> = (0..dims.len()).collect();
        let n = all.len();
        (Just(dims), prop::sample::subsequence(all, 0..=n).prop_shuffle())
    });
    let out = floats();
    let kinds = (Kind::any(), out);
    (function, axes, any::<bool>(), kinds, Layout::each(), Source::any()).prop_map(
        |(function, (dims, axes), keep, (x, out), layouts, source)| ReduceCase {
            function,
            dims,
            axes,
            keep,
            x,
            out,
            layouts,
            source,
        },
    )
}

impl BuildOp for ReduceCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let x = self.source.operand(device, self.x, &self.dims, self.layouts[0])?;
        let rank = if self.keep { self.dims.len() } else { self.dims.len() - self.axes.len() };
        let dims = Reduce::output_dims(&x, &self.axes, rank)?;
        let out = Kind::Plain(self.out).spec(&dims, self.layouts[1])?;
        Ok(Reduce::new(self.function, x, self.axes.clone(), out).into())
    }
}

/// What is known of the elements that become one.
#[derive(Clone)]
struct Group {
    count: usize,
    /// `Σ|x|` and the sum of the elements' own errors.
    sum: Approx,
    /// `Π|x|`, and the sum of the elements' own relative errors.
    product: Approx,
    /// The products of the magnitudes above and below 1: between them lie all partial products.
    above: f64,
    below: f64,
    finite: bool,
    largest_error: f64,
}

impl Group {
    const NONE: Group = Group {
        count: 0,
        sum: Approx { value: 0.0, error: 0.0 },
        product: Approx { value: 1.0, error: 0.0 },
        above: 1.0,
        below: 1.0,
        finite: true,
        largest_error: 0.0,
    };

    fn add(&mut self, x: Approx) {
        let size = x.value.abs();
        self.count += 1;
        self.finite &= size.is_finite();
        self.sum.value += size;
        self.sum.error += x.error;
        self.product.value *= size;
        self.product.error += if size > 0.0 { x.error / size } else { 0.0 };
        if size.is_finite() && size > 0.0 {
            self.above *= size.max(1.0);
            self.below *= size.min(1.0);
        }
        self.largest_error = self.largest_error.max(x.error);
    }

    fn error(&self, function: Reduction, exact: f64) -> f64 {
        let n = self.count;
        let (sum, product) = (self.sum, self.product);
        match function {
            Reduction::Prod => {
                if self.above >= f64::from(f32::MAX) {
                    // In some order a partial product overflows, and may meet a zero.
                    return f64::INFINITY;
                }
                let underflows = self.below < f64::from(f32::MIN_POSITIVE);
                if !self.finite {
                    // An infinity may meet what has underflowed to 0.
                    return if underflows { f64::NAN } else { 0.0 };
                }
                // An underflow loses half of the smallest value, times what follows.
                let lost = if underflows { n as f64 * TINY_F32 * self.above } else { 0.0 };
                let rounding = gamma(n.saturating_sub(1)) * (1.0 + product.error);
                product.value * (rounding + product.error) + lost + TINY_F32
            }
            _ if !exact.is_finite() => 0.0,
            // n − 1 sums; a sum of zeros may have either sign.
            Reduction::Sum => {
                gamma(n.saturating_sub(1)) * (sum.value + sum.error) + sum.error + TINY_F32
            }
            // And a quotient.
            Reduction::Mean => {
                (gamma(n) * (sum.value + sum.error) + sum.error) / n as f64 + TINY_F32
            }
            // Rounding is monotone: the largest of rounded values is the largest one, rounded.
            Reduction::Max | Reduction::Min | Reduction::AbsMax if self.largest_error > 0.0 => {
                U_F32 * exact.abs() + TINY_F32
            }
            Reduction::Max | Reduction::Min | Reduction::AbsMax => 0.0,
        }
    }
}

/// Sums of `n` values are off by `γ_(n−1)·Σ|x|` in any order, products by `γ_(n−1)` relative where
/// no order underflows or overflows; extremes are exact.
pub(in crate::testing) fn expected(op: &Reduce) -> Result<Vec<Expected>> {
    let x = decoded(&op.x, Precision::F32)?;
    let values = in_f64(op.clone())?;
    let dims = op.x.dims();
    // As if reduced dimensions were kept with size 1.
    let mut kept = dims.to_vec();
    op.axes.iter().for_each(|&axis| kept[axis] = 1);
    let mut groups = vec![Group::NONE; values.len()];
    for (x, at) in x.into_iter().zip(broadcast_positions(&kept, &dims)?) {
        groups[at].add(x);
    }
    let errors =
        groups.iter().zip(&values).map(|(g, &exact)| g.error(op.function, exact)).collect();
    Ok(vec![Expected::Values { values, errors }])
}
