//! Parts of block-scaled tensors.

use std::marker::PhantomData;
use std::ops::Range;

use super::scaled::ScaledTensor;
use crate::error::{Error, Result};
use crate::format::{BlockFormat, ScaleLayout, TILE_ROWS, WHOLE};
use crate::op::{Scaled, ScaledData};

const OP: &str = "slice_outer";

impl<F: BlockFormat, const R: usize> ScaledTensor<F, R> {
    /// Indices `range` along the outermost dimension: the same bytes, nothing is copied.
    ///
    /// The rows of a matrix can be cut where no block of scales is cut (anywhere for formats with
    /// blocks of one row, or with one scale for the whole matrix), and with tiled scales where no
    /// tile is; the matrices of a batch anywhere.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor, format::Mxfp4};
    /// let w = Tensor::from_fn(&Device::cpu(), [4, 32], |[i, _]| i as f32)?.quantize::<Mxfp4>()?;
    /// let part = w.slice_outer(1..3)?;
    /// assert_eq!(part.shape(), [2, 32]);
    /// assert_eq!(part.dequantize::<f32>()?.host()?[[1, 0]], 2.0);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] when the range reaches past the size; [`Error::Layout`] when it cuts a
    /// block or a tile, or the outermost dimension is not that of storage (a transposed matrix,
    /// or a single row).
    pub fn slice_outer(&self, range: Range<usize>) -> Result<Self> {
        let stored = &self.scaled;
        if R < 2 || (R == 2 && stored.transposed) {
            return Err(Error::layout(
                OP,
                "tensor",
                format!(
                    "it is {stored}: blocks run along its first dimension; slice it before t()"
                ),
            ));
        }
        let size = stored.dims[0];
        if range.start > range.end || range.end > size {
            return Err(Error::shape(
                OP,
                "range",
                format!("{range:?} is not inside 0..{size}, the outermost size of {stored}"),
            ));
        }
        if R == 2 {
            self.check_rows(&range)?;
        }
        let mut part = Scaled { data: None, ..stored.clone() };
        part.dims[0] = range.len();
        let (from, to) = (stored.layout()?, part.layout()?);
        let Some(data) = &stored.data else { return Ok(self.clone()) };
        // Equal slices take equal numbers of bytes: of codes always, of scales where the slices
        // are matrices, or whole bands of rows.
        let per_slice = from.codes_len() / size.max(1);
        let spec = from.spec();
        let scales_at = match (R, spec.block_rows) {
            (2, WHOLE) => 0,
            (2, block) => range.start / block * row_scales(stored.scale_layout, from.scale_cols()),
            _ => range.start * (from.scales_len() / size.max(1)),
        };
        part.data = Some(ScaledData {
            codes: data.codes.slice(range.start * per_slice, to.codes_len())?,
            scales: data.scales.slice(scales_at * spec.scale.size(), to.scales_bytes())?,
            tensor_scale: data.tensor_scale.clone(),
        });
        Ok(ScaledTensor { device: self.device.clone(), scaled: part, format: PhantomData })
    }

    /// Refuses rows that do not begin and end at the border of a block, or of a tile of scales.
    fn check_rows(&self, range: &Range<usize>) -> Result<()> {
        let (what, unit) = match (self.scaled.scale_layout, F::FORMAT.spec().block_rows) {
            (ScaleLayout::Tiled128x4, _) => ("tiles of scales", TILE_ROWS),
            (_, WHOLE) => return Ok(()),
            (_, rows) => ("blocks", rows),
        };
        let border = |row: usize| row.is_multiple_of(unit) || row == self.scaled.dims[0];
        if border(range.start) && border(range.end) {
            return Ok(());
        }
        Err(Error::layout(
            OP,
            "range",
            format!(
                "{range:?} cuts {what} of {unit} rows of {}; use multiples of {unit}",
                self.scaled
            ),
        ))
    }
}

/// Scales of one row of scales, padding included.
fn row_scales(layout: ScaleLayout, scale_cols: usize) -> usize {
    match layout {
        ScaleLayout::RowMajor => scale_cols,
        ScaleLayout::Tiled128x4 => scale_cols.next_multiple_of(crate::format::TILE_COLS),
    }
}
