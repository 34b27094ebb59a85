//! Shapes as arrays of the rank's length.

use crate::error::{Error, Result};
use crate::op::Dims;

/// Row-major strides of a shape, and its number of elements.
pub(super) fn row_major<const R: usize>(
    op: &'static str,
    shape: [usize; R],
) -> Result<([usize; R], usize)> {
    let dims = Dims::from_array(shape);
    let numel = dims.numel().map_err(|_| too_large(op, &shape))?;
    let strides = dims.row_major_strides()?;
    Ok((std::array::from_fn(|axis| strides[axis]), numel))
}

/// Bytes of `numel` elements of `size` bytes.
pub(super) fn byte_len(
    op: &'static str,
    shape: &[usize],
    numel: usize,
    size: usize,
) -> Result<usize> {
    let bytes = numel.checked_mul(size).filter(|&n| isize::try_from(n).is_ok());
    bytes.ok_or_else(|| too_large(op, shape))
}

fn too_large(op: &'static str, shape: &[usize]) -> Error {
    Error::shape(op, "shape", format!("{shape:?} has more bytes than can be addressed"))
}

/// Refuses an axis that is not there.
pub(super) fn check_axis<const R: usize>(op: &'static str, axis: usize) -> Result<()> {
    if axis < R {
        return Ok(());
    }
    Err(Error::shape(op, "axis", format!("{axis} is not one of the tensor's {R} dimensions")))
}
