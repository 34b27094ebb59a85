//! `out[.., indices[i], ..] = src[.., i, ..]`

use super::array::unravel;
use crate::error::{Error, Result};
use crate::op::Scatter;
use crate::registry::Launch;

pub(super) fn scatter(op: &Scatter, launch: &Launch<'_>) -> Result<()> {
    let dense = || Error::layout("scatter", "src", "plain elements with data are expected");
    let (src, out) = (op.src.as_dense().ok_or_else(dense)?, op.out.as_dense().ok_or_else(dense)?);
    let places = op.places(&launch.read_indices(&op.indices)?)?;
    let from = launch.read(src.data.as_ref().ok_or_else(dense)?)?;
    let to = launch.write(out.data.as_ref().ok_or_else(dense)?)?;
    let size = src.dtype.size();
    for (position, at) in src.offsets().into_iter().enumerate() {
        let mut index = unravel(position, &src.dims);
        index[op.axis] = places[index[op.axis]];
        let place: usize = index.iter().zip(out.strides.iter()).map(|(i, stride)| i * stride).sum();
        to[place * size..][..size].copy_from_slice(&from[at * size..][..size]);
    }
    Ok(())
}
