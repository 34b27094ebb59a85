//! Working memory whose size a caller or a file decides.

use crate::error::{Error, Result};

/// `len` values, or an error value where there is no memory for them.
pub(crate) fn scratch<T: Clone>(len: usize, value: T) -> Result<Vec<T>> {
    let mut out = Vec::new();
    resize(&mut out, len, value)?;
    Ok(out)
}

/// Makes `out` as long as that; what it gets more is `value`.
pub(crate) fn resize<T: Clone>(out: &mut Vec<T>, len: usize, value: T) -> Result<()> {
    reserve(out, len)?;
    out.resize(len, value);
    Ok(())
}

/// An empty list with room for `len` values.
pub(crate) fn room<T>(len: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    reserve(&mut out, len)?;
    Ok(out)
}

fn reserve<T>(out: &mut Vec<T>, len: usize) -> Result<()> {
    out.try_reserve_exact(len.saturating_sub(out.len())).map_err(|_| {
        let size = size_of::<T>();
        Error::device(format!("no working memory: {len} × {size} bytes were asked for"))
    })
}
