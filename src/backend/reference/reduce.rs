//! The elements over some dimensions, gathered into one.

use super::array::{Array, QuantizeWith, unravel};
use super::elementwise::maximum;
use crate::error::Result;
use crate::op::{Reduce, Reduction};
use crate::registry::Launch;

pub(super) fn reduce(op: &Reduce, launch: &Launch<'_>) -> Result<()> {
    let x = Array::load(launch, &op.x)?;
    let empty = match op.function {
        Reduction::Sum | Reduction::Mean | Reduction::AbsMax => 0.0,
        Reduction::Prod => 1.0,
        Reduction::Max => f64::NEG_INFINITY,
        Reduction::Min => f64::INFINITY,
    };
    // As if reduced dimensions were kept with size 1: the elements lie the same.
    let mut dims = x.dims.clone();
    op.axes.iter().for_each(|&axis| dims[axis] = 1);
    let mut out = Array::zeros(&dims)?;
    out.data.fill(empty);
    for (position, &x_value) in x.data.iter().enumerate() {
        let mut index = unravel(position, &x.dims);
        op.axes.iter().for_each(|&axis| index[axis] = 0);
        let at = index.iter().zip(&dims).fold(0, |at, (i, d)| at * d + i);
        let total = &mut out.data[at];
        *total = match op.function {
            Reduction::Sum | Reduction::Mean => *total + x_value,
            Reduction::Prod => *total * x_value,
            Reduction::Max => maximum(*total, x_value),
            Reduction::Min => -maximum(-*total, -x_value),
            Reduction::AbsMax => maximum(*total, x_value.abs()),
        };
    }
    if op.function == Reduction::Mean {
        let n: usize = op.axes.iter().map(|&axis| x.dims[axis]).product();
        out.data.iter_mut().for_each(|total| *total /= n as f64);
    }
    out.store(launch, &op.out, QuantizeWith::default())
}
