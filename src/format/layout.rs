//! Where codes and scales lie: sizes, tails, padding, and the two scale layouts.

use super::{Format, FormatSpec, ScaleLayout, WHOLE};
use crate::error::{Error, Result};

/// Rows of a tile of [`ScaleLayout::Tiled128x4`].
pub const TILE_ROWS: usize = 128;
/// Scales along k in a tile of [`ScaleLayout::Tiled128x4`].
pub const TILE_COLS: usize = 4;
/// Rows whose scales interleave within a tile: the lanes of a warp.
const TILE_LANES: usize = 32;

/// The storage layout of `batch` matrices of `rows × k` values in a [`Format`].
///
/// Codes: each row takes [`row_bytes`](Self::row_bytes) bytes, rows and batches follow each other
/// without gaps. `k` is padded with zero codes to a whole number of blocks (formats whose block
/// spans the row are not padded); rows never are. FP4 packs two codes a byte, the lower index in
/// the low nibble.
///
/// Scales: per matrix `scale_rows × scale_cols` of them, matrices one after the other, arranged as
/// the [`ScaleLayout`] says. FP32 scales are stored in the machine's byte order.
///
/// ```
/// use ferrocerium::format::{BlockLayout, Format, ScaleLayout};
///
/// let layout = BlockLayout::new(Format::Nvfp4, ScaleLayout::Tiled128x4, 1, 130, 1000)?;
/// assert_eq!(layout.k_padded(), 1008);               // 63 blocks of 16
/// assert_eq!(layout.codes_len(), 130 * 504);
/// assert_eq!((layout.scale_rows(), layout.scale_cols()), (130, 63));
/// assert_eq!(layout.scales_len(), 256 * 64);         // whole tiles of 128 × 4
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockLayout {
    format: Format,
    spec: FormatSpec,
    scale_layout: ScaleLayout,
    batch: usize,
    rows: usize,
    k: usize,
    row_bytes: usize,
    codes_len: usize,
    scale_rows: usize,
    scale_cols: usize,
    matrix_scales: usize,
    scales_len: usize,
}

impl BlockLayout {
    /// The layout of `batch` matrices of `rows × k` values.
    ///
    /// Any size may be zero. A block that spans all rows or all of k counts as one block even
    /// when there is nothing in it, so a per-tensor or per-row scale always exists.
    ///
    /// # Errors
    /// [`Error::Layout`] when the format's scales cannot be tiled: [`ScaleLayout::Tiled128x4`]
    /// takes one-byte scales of blocks `1 × n` (NVFP4, MXFP4, MXFP8). [`Error::Shape`] when a
    /// size in bytes exceeds `isize::MAX`.
    pub fn new(
        format: Format,
        scale_layout: ScaleLayout,
        batch: usize,
        rows: usize,
        k: usize,
    ) -> Result<Self> {
        let spec = format.spec();
        if scale_layout == ScaleLayout::Tiled128x4 && !tileable(&spec) {
            return Err(Error::layout(
                "block layout",
                "scale_layout",
                format!(
                    "the tiled 128×4 scale layout was asked for {format}, whose scales are {} for \
                     {} × {} values; it holds one-byte scales of blocks of one row (nvfp4, mxfp4, \
                     mxfp8, mxfp8e5m2): use the row-major layout",
                    spec.scale,
                    side(spec.block_rows),
                    side(spec.block_k),
                ),
            ));
        }
        Self::sizes(format, spec, scale_layout, batch, rows, k).ok_or_else(|| {
            Error::shape(
                "block layout",
                "shape",
                format!(
                    "[{batch}, {rows}, {k}] in {format} takes more bytes than can be addressed \
                     ({}); split the tensor",
                    isize::MAX,
                ),
            )
        })
    }

    /// `None` on overflow. The number of *values* must fit too: the tensor is made from them.
    fn sizes(
        format: Format,
        spec: FormatSpec,
        scale_layout: ScaleLayout,
        batch: usize,
        rows: usize,
        k: usize,
    ) -> Option<Self> {
        let fits = |n: usize| isize::try_from(n).is_ok().then_some(n);
        let k_padded =
            if spec.block_k == WHOLE { k } else { k.checked_next_multiple_of(spec.block_k)? };
        fits(batch.checked_mul(rows)?.checked_mul(k_padded)?)?;
        let row_bytes = k_padded.div_ceil(spec.codes_per_byte);
        let codes_len = fits(batch.checked_mul(rows)?.checked_mul(row_bytes)?)?;
        let scale_rows = blocks(rows, spec.block_rows);
        let scale_cols = blocks(k, spec.block_k);
        let matrix_scales = match scale_layout {
            ScaleLayout::RowMajor => scale_rows.checked_mul(scale_cols)?,
            ScaleLayout::Tiled128x4 => scale_rows
                .checked_next_multiple_of(TILE_ROWS)?
                .checked_mul(scale_cols.checked_next_multiple_of(TILE_COLS)?)?,
        };
        let scales_len = batch.checked_mul(matrix_scales)?;
        fits(scales_len.checked_mul(spec.scale.size())?)?;
        Some(Self {
            format,
            spec,
            scale_layout,
            batch,
            rows,
            k,
            row_bytes,
            codes_len,
            scale_rows,
            scale_cols,
            matrix_scales,
            scales_len,
        })
    }

    /// The format.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The format's parameters.
    pub const fn spec(&self) -> &FormatSpec {
        &self.spec
    }

    /// How the scales are arranged.
    pub const fn scale_layout(&self) -> ScaleLayout {
        self.scale_layout
    }

    /// Number of matrices.
    pub const fn batch(&self) -> usize {
        self.batch
    }

    /// Rows of a matrix.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Visible columns of a matrix.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// Number of visible values: `batch · rows · k`.
    pub const fn values_len(&self) -> usize {
        self.batch * self.rows * self.k
    }

    /// Columns as stored: `k` rounded up to a whole block, or `k` where a block spans the row.
    pub const fn k_padded(&self) -> usize {
        if self.spec.block_k == WHOLE { self.k } else { self.scale_cols * self.spec.block_k }
    }

    /// Bytes of one row of codes.
    pub const fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Bytes of all codes.
    pub const fn codes_len(&self) -> usize {
        self.codes_len
    }

    /// Byte offset of the codes of row `row` of matrix `batch`.
    pub const fn row_offset(&self, batch: usize, row: usize) -> usize {
        (batch * self.rows + row) * self.row_bytes
    }

    /// Rows that share a scale, as they occur: the whole matrix's rows when the block spans them.
    /// At least 1.
    pub fn band_rows(&self) -> usize {
        self.spec.block_rows.min(self.rows).max(1)
    }

    /// Columns that share a scale, as they occur: `k` when the block spans the row. At least 1.
    pub fn block_cols(&self) -> usize {
        if self.spec.block_k == WHOLE { self.k.max(1) } else { self.spec.block_k }
    }

    /// Rows of scales of one matrix, without padding.
    pub const fn scale_rows(&self) -> usize {
        self.scale_rows
    }

    /// Columns of scales of one matrix, without padding.
    pub const fn scale_cols(&self) -> usize {
        self.scale_cols
    }

    /// Number of stored scales of all matrices, padding of the tiled layout included.
    pub const fn scales_len(&self) -> usize {
        self.scales_len
    }

    /// Bytes of all stored scales.
    pub const fn scales_bytes(&self) -> usize {
        self.scales_len * self.spec.scale.size()
    }

    /// Number of tensor scales: 1 for a format that has one, else 0.
    pub const fn tensor_scale_len(&self) -> usize {
        self.spec.tensor_scale as usize
    }

    /// Where the scale `(scale_row, scale_col)` of matrix `batch` is stored, in scales.
    ///
    /// Tiled: with `R = scale_row`, `C = scale_col`, tiles of 512 scales in row-major order,
    ///
    /// ```text
    /// (R/128 · tiles_per_row + C/4) · 512 + (R % 32) · 16 + (R % 128)/32 · 4 + C % 4
    /// ```
    ///
    /// The arguments must be in range; outside, the result means nothing.
    pub const fn scale_index(&self, batch: usize, scale_row: usize, scale_col: usize) -> usize {
        let base = batch * self.matrix_scales;
        match self.scale_layout {
            ScaleLayout::RowMajor => base + scale_row * self.scale_cols + scale_col,
            ScaleLayout::Tiled128x4 => {
                let tiles_per_row = self.scale_cols.div_ceil(TILE_COLS);
                let tile = scale_row / TILE_ROWS * tiles_per_row + scale_col / TILE_COLS;
                let row = scale_row % TILE_ROWS;
                let lane = row % TILE_LANES * (TILE_ROWS / TILE_LANES * TILE_COLS);
                let within = lane + row / TILE_LANES * TILE_COLS + scale_col % TILE_COLS;
                base + tile * (TILE_ROWS * TILE_COLS) + within
            }
        }
    }

    /// Where the scale of the value `(row, col)` of matrix `batch` is stored, in scales.
    ///
    /// The arguments must be in range; outside, the result means nothing.
    pub const fn scale_of(&self, batch: usize, row: usize, col: usize) -> usize {
        self.scale_index(batch, row / self.spec.block_rows, col / self.spec.block_k)
    }

    /// The same tensor with its scales arranged as `scale_layout`.
    ///
    /// # Errors
    /// As [`BlockLayout::new`].
    pub fn with_scale_layout(&self, scale_layout: ScaleLayout) -> Result<Self> {
        Self::new(self.format, scale_layout, self.batch, self.rows, self.k)
    }
}

/// `Err` unless a slice holds the `wanted` number of units (`"bytes"`, `"values"`).
pub(super) fn check_len(
    op: &'static str,
    arg: &'static str,
    unit: &str,
    layout: &BlockLayout,
    found: usize,
    wanted: usize,
) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::shape(
        op,
        arg,
        format!(
            "has {found} {unit}; [{}, {}, {}] in {} ({:?} scales) takes {wanted}",
            layout.batch, layout.rows, layout.k, layout.format, layout.scale_layout,
        ),
    ))
}

/// Rearranges stored scales from one layout of a tensor to another; padding becomes zero bytes.
///
/// # Errors
/// [`Error::Layout`] when the layouts differ in more than the arrangement of scales,
/// [`Error::Shape`] when a slice does not have its layout's
/// [`scales_bytes`](BlockLayout::scales_bytes).
pub fn convert_scales(
    from: &BlockLayout,
    to: &BlockLayout,
    src: &[u8],
    dst: &mut [u8],
) -> Result<()> {
    const OP: &str = "convert scales";
    if (from.format, from.batch, from.rows, from.k) != (to.format, to.batch, to.rows, to.k) {
        return Err(Error::layout(
            OP,
            "to",
            format!(
                "source is [{}, {}, {}] in {}, destination [{}, {}, {}] in {}: only the scale \
                 layout may differ; make it with `with_scale_layout`",
                from.batch, from.rows, from.k, from.format, to.batch, to.rows, to.k, to.format,
            ),
        ));
    }
    check_len(OP, "src", "bytes", from, src.len(), from.scales_bytes())?;
    check_len(OP, "dst", "bytes", to, dst.len(), to.scales_bytes())?;
    dst.fill(0);
    let size = from.spec.scale.size();
    for batch in 0..from.batch {
        for row in 0..from.scale_rows {
            for col in 0..from.scale_cols {
                let s = from.scale_index(batch, row, col) * size;
                let d = to.scale_index(batch, row, col) * size;
                dst[d..d + size].copy_from_slice(&src[s..s + size]);
            }
        }
    }
    Ok(())
}

/// Whether the tiled layout can hold a format's scales.
fn tileable(spec: &FormatSpec) -> bool {
    spec.block_rows == 1 && spec.block_k != WHOLE && spec.scale.size() == 1
}

/// Blocks along an extent: one where the block spans it.
fn blocks(extent: usize, block: usize) -> usize {
    if block == WHOLE { 1 } else { extent.div_ceil(block) }
}

/// A block side, ready to print.
fn side(block: usize) -> String {
    if block == WHOLE { "all".to_owned() } else { block.to_string() }
}
