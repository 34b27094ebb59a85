//! Working memory whose size a file decides.

use crate::error::{Error, Result};

/// `len` values, or an error value where there is no memory for them.
pub(super) fn scratch<T: Clone>(len: usize, value: T) -> Result<Vec<T>> {
    let mut out = Vec::new();
    grow(&mut out, len, value)?;
    Ok(out)
}

/// Makes `out` longer, up to `len` values.
pub(super) fn grow<T: Clone>(out: &mut Vec<T>, len: usize, value: T) -> Result<()> {
    out.try_reserve_exact(len.saturating_sub(out.len())).map_err(|_| {
        let size = size_of::<T>();
        Error::device(format!("no memory to read into: {len} × {size} bytes were asked for"))
    })?;
    out.resize(len, value);
    Ok(())
}
