//! Checks that several operations share.

use super::dims::Dims;
use super::operand::Operand;
use crate::error::{Error, Result};
use crate::format::Quantizer;

/// The sizes that `a` and `b` broadcast to (aligned at the last dimension), or `None`.
pub(crate) fn broadcast_dims(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], axis: usize| (axis + dims.len()).checked_sub(rank).map(|i| dims[i]);
    (0..rank)
        .map(|axis| match (at(a, axis).unwrap_or(1), at(b, axis).unwrap_or(1)) {
            (x, y) if x == y => Some(x),
            (1, y) => Some(y),
            (x, 1) => Some(x),
            _ => None,
        })
        .collect()
}

/// Refuses an operand whose sizes are not exactly `dims`.
pub(crate) fn require_dims(
    op: &'static str,
    arg: &'static str,
    operand: &Operand,
    dims: &[usize],
) -> Result<()> {
    if operand.dims()[..] == *dims {
        return Ok(());
    }
    Err(Error::shape(op, arg, format!("{arg} is {operand}: sizes {dims:?} are expected")))
}

/// Refuses an operand that does not broadcast to `dims`.
pub(crate) fn require_broadcast(
    op: &'static str,
    arg: &'static str,
    operand: &Operand,
    dims: &Dims,
) -> Result<()> {
    if broadcast_dims(&operand.dims(), dims).as_deref() == Some(&dims[..]) {
        return Ok(());
    }
    Err(Error::shape(
        op,
        arg,
        format!("{arg} is {operand}: sizes that broadcast to {dims} are expected"),
    ))
}

/// Refuses an output that is neither a float nor a block format, or that `quantizer` can not make.
pub(crate) fn require_output(
    op: &'static str,
    arg: &'static str,
    operand: &Operand,
    quantizer: Option<Quantizer>,
) -> Result<()> {
    operand.require_float(op, arg)?;
    let Operand::Scaled(scaled) = operand else {
        return match quantizer {
            Some(quantizer) => Err(Error::value(
                op,
                "quantizer",
                format!("{quantizer} for {arg}, which is {operand}: only block formats have one"),
            )),
            None => Ok(()),
        };
    };
    if scaled.transposed {
        return Err(Error::layout(
            op,
            arg,
            format!("{arg} is {operand}: quantise into the stored order, then transpose"),
        ));
    }
    match quantizer {
        Some(quantizer) if !quantizer.supports(scaled.format) => Err(Error::value(
            op,
            "quantizer",
            format!(
                "{quantizer} does not make {}; its default is {}",
                scaled.format,
                Quantizer::default_for(scaled.format)
            ),
        )),
        _ => Ok(()),
    }
}
