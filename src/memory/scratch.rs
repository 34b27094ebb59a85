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

/// `len` values of `memory`, which is made larger where it is too small, from the start of a cache
/// line on: a vector across two lines takes two reads. They hold whatever was there.
#[cfg(feature = "cpu")]
pub(crate) fn from_line_start(memory: &mut Vec<f32>, len: usize) -> Result<&mut [f32]> {
    const LINE: usize = 64 / size_of::<f32>();
    if memory.len() < len.saturating_add(LINE) {
        resize(memory, len.saturating_add(LINE), 0.0)?;
    }
    let first = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    Ok(&mut memory[first..first + len])
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
