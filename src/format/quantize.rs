//! Values to codes and scales.

use std::ops::Range;

use super::codec::Codec;
use super::gptq::{Feedback, HessianFactor};
use super::layout::check_len;
use super::scale::{Block, Scaling, max_magnitude_bits};
use super::{BlockLayout, QuantizeOptions, ScaleLayout, WHOLE};
use crate::error::{Error, Result};

const OP: &str = "quantize";

/// Where [`quantize`] writes.
#[derive(Debug)]
pub struct Quantized<'a> {
    /// The codes: [`BlockLayout::codes_len`] bytes.
    pub codes: &'a mut [u8],
    /// The scales: [`BlockLayout::scales_bytes`] bytes.
    pub scales: &'a mut [u8],
    /// The tensor scale; must be given for formats that have one. Others write 1.
    pub tensor_scale: Option<&'a mut f32>,
}

/// Quantises `batch · rows · k` contiguous row-major values.
///
/// `code = rn(x / (s·g))` with scales by the [`Quantizer`](super::Quantizer); each code is the
/// exact quotient rounded once, to nearest, ties to even, saturated. Padding of codes and scales
/// is zeroed.
///
/// # Errors
/// [`Error::Value`] for NaN or infinity in `src` (the message says where), for a quantiser that is
/// not defined for the format, and for a tensor scale that is not finite and positive or that the
/// format has no place for; [`Error::Shape`] for slices of other lengths than the layout's. The
/// output holds partial results after an error.
///
/// ```
/// use ferrocerium::format::*;
///
/// let layout = BlockLayout::new(Format::Mxfp4, ScaleLayout::RowMajor, 1, 1, 4)?;
/// let (mut codes, mut scales) = (vec![0; layout.codes_len()], vec![0; layout.scales_bytes()]);
/// let out = Quantized { codes: &mut codes, scales: &mut scales, tensor_scale: None };
/// quantize(&layout, Quantizer::Ocp, &[1.0, -2.0, 3.0, 24.0], out)?;
/// assert_eq!(scales, [127 + 2]);                    // 2^(floor(log2 24) − 2)
/// let mut back = [0.0; 4];
/// dequantize(&layout, &codes, &scales, 1.0, &mut back)?;
/// assert_eq!(back, [0.0, -2.0, 4.0, 24.0]);         // 1/4 and 3/4 are ties: to even
/// # Ok::<(), ferrocerium::Error>(())
/// ```
pub fn quantize(
    layout: &BlockLayout,
    options: impl Into<QuantizeOptions>,
    src: &[f32],
    out: Quantized<'_>,
) -> Result<()> {
    let options = options.into();
    check_len(OP, "src", "values", layout, src.len(), layout.values_len())?;
    check_len(OP, "codes", "bytes", layout, out.codes.len(), layout.codes_len())?;
    check_len(OP, "scales", "bytes", layout, out.scales.len(), layout.scales_bytes())?;
    if layout.spec().tensor_scale && out.tensor_scale.is_none() {
        return Err(Error::value(
            OP,
            "tensor_scale",
            format!("{} has a tensor scale, and none was given to write it to", layout.format()),
        ));
    }
    let computed = layout.spec().tensor_scale && options.tensor_scale.is_none();
    let amax = if computed { amax(src).map_err(|e| e.into_error(OP, layout, 0))? } else { 0.0 };
    let quantizer = RowQuantizer::new(layout, options, amax)?;
    if let Some(g) = out.tensor_scale {
        *g = quantizer.tensor_scale();
    }

    let size = layout.spec().scale.size();
    let tiled = layout.scale_layout() == ScaleLayout::Tiled128x4;
    let mut line = vec![0; if tiled { layout.scale_cols() * size } else { 0 }];
    if tiled {
        out.scales.fill(0);
    }
    for band in 0..layout.bands() {
        let (batch, rows) = layout.band(band);
        let first = batch * layout.rows() + rows.start;
        let src = &src[first * layout.k()..][..rows.len() * layout.k()];
        let codes = &mut out.codes[first * layout.row_bytes()..][..rows.len() * layout.row_bytes()];
        let width = layout.scale_cols() * size;
        if !tiled {
            let scales = &mut out.scales[band * width..][..width];
            quantizer.quantize_band(band, src, codes, scales)?;
            continue;
        }
        quantizer.quantize_band(band, src, codes, &mut line)?;
        for (col, scale) in line.chunks_exact(size).enumerate() {
            let at = layout.scale_index(batch, rows.start, col) * size;
            out.scales[at..at + size].copy_from_slice(scale);
        }
    }
    Ok(())
}

impl BlockLayout {
    /// Number of bands of all matrices: the rows that share scales, and so the smallest pieces
    /// that [`RowQuantizer`] quantises on their own. `batch · scale_rows`.
    pub const fn bands(&self) -> usize {
        self.batch() * self.scale_rows()
    }

    /// The matrix that band `band` belongs to, and its rows there.
    ///
    /// `band` must be below [`BlockLayout::bands`]; beyond, the result means nothing.
    pub fn band(&self, band: usize) -> (usize, Range<usize>) {
        let (batch, index) = (band / self.scale_rows().max(1), band % self.scale_rows().max(1));
        let start = (index * self.band_rows()).min(self.rows());
        (batch, start..(start + self.band_rows()).min(self.rows()))
    }
}

/// Quantises band by band: what [`quantize`] loops over, for callers that run bands in parallel or
/// never hold the whole tensor as f32.
///
/// A band is one row for formats with blocks of one row (NVFP4, MX, FP8 per row and per group), 128
/// rows for FP8 block 128, the matrix for FP8 per tensor. Results do not depend on which bands are
/// done, or in what order.
#[derive(Clone, Copy, Debug)]
pub struct RowQuantizer {
    layout: BlockLayout,
    options: QuantizeOptions,
    scaling: Scaling,
}

impl RowQuantizer {
    /// A quantiser for tensors of this layout. `tensor_amax` is the largest magnitude of the whole
    /// tensor (see [`amax`]); it matters only for formats with a tensor scale, when none is fixed
    /// by the options.
    ///
    /// # Errors
    /// As [`quantize`], without those about slices.
    pub fn new(
        layout: &BlockLayout,
        options: impl Into<QuantizeOptions>,
        tensor_amax: f32,
    ) -> Result<Self> {
        let options = options.into();
        let (format, spec) = (layout.format(), layout.spec());
        options.quantizer.check(OP, format)?;
        if let Some(scale) = options.tensor_scale {
            if !spec.tensor_scale && spec.block_rows != WHOLE {
                return Err(Error::value(
                    OP,
                    "tensor_scale",
                    format!(
                        "{scale} was asked for, and {format} has no scale for the whole tensor; \
                         nvfp4, fp8 and fp8e5m2 have"
                    ),
                ));
            }
            if !(scale.is_finite() && scale > 0.0) {
                return Err(Error::value(
                    OP,
                    "tensor_scale",
                    format!("is {scale}; it must be finite and above 0"),
                ));
            }
        } else if spec.tensor_scale && !(tensor_amax.is_finite() && tensor_amax >= 0.0) {
            return Err(Error::value(
                OP,
                "tensor_amax",
                format!("is {tensor_amax}; it must be the finite largest magnitude of the tensor"),
            ));
        }
        let scaling = Scaling::new(spec, options.tensor_scale, tensor_amax);
        Ok(Self { layout: *layout, options, scaling })
    }

    /// The tensor scale that goes with the codes: 1 for formats without.
    pub fn tensor_scale(&self) -> f32 {
        self.scaling.tensor_scale()
    }

    /// Quantises band `band`: `src` holds its rows (`rows · k` values), `codes` receives
    /// `rows · row_bytes` bytes, `scales` the band's `scale_cols` scales in order of column,
    /// whatever the layout's arrangement of scales. Padding codes become zero.
    ///
    /// # Errors
    /// [`Error::Value`] for NaN or infinity, [`Error::Shape`] for a band or slices that do not fit
    /// the layout.
    #[inline(always)]
    pub fn quantize_band(
        &self,
        band: usize,
        src: &[f32],
        codes: &mut [u8],
        scales: &mut [u8],
    ) -> Result<()> {
        self.check_band(band, src, codes, scales)?;
        let layout = &self.layout;
        let (k, row_bytes, size) = (layout.k(), layout.row_bytes(), layout.spec().scale.size());
        let codec = Codec::of(layout.spec().code);
        let block_cols = layout.block_cols();
        for (col, scale) in scales.chunks_exact_mut(size).enumerate() {
            let start = col * block_cols;
            let block =
                Block { src, stride: k, start, cols: block_cols.min(k.saturating_sub(start)) };
            let amax = block.amax().ok_or_else(|| self.non_finite(band, src))?;
            let error = |unit| block.error(codec, unit);
            let chosen = self.scaling.choose(codec, self.options.quantizer, amax, error);
            chosen.stored.write(scale);
            // Only the last block has padding, and it ends where the row of codes does.
            let byte = start / layout.spec().codes_per_byte;
            let bytes = (block_cols / layout.spec().codes_per_byte).min(row_bytes - byte);
            for (row, codes) in block.rows().zip(codes.chunks_exact_mut(row_bytes.max(1))) {
                codec.encode(row, chosen.unit, &mut codes[byte..byte + bytes]);
            }
        }
        Ok(())
    }

    /// Quantises row `row` with error feedback, and returns what that costs: `(w−q)ᵀ·(H + λ·I)·(w−q)`,
    /// see [`HessianFactor`].
    ///
    /// ```text
    /// t_j = w_j + Σ_{i<j} R_ij·(w_i − q_i) / R_jj      q_j = s·g · rn(t_j / (s·g))
    /// ```
    ///
    /// Scales are chosen block by block by the rule of the options, with two changes: `amax` is that
    /// of the `t_j` as the blocks before leave them, and the error that rules compare is the block's
    /// part of the cost, `Σ (R_jj·(t_j − q_j))²` with feedback within the block. Sums are in f64,
    /// targets are rounded to f32. Slices are as for [`RowQuantizer::quantize_band`], of which this
    /// is the other way for formats with blocks of one row; it takes `k²/2` multiply-adds, and
    /// about half a block's length of them a value for every scale tried.
    ///
    /// ```
    /// use ferrocerium::format::*;
    ///
    /// // Three inputs much alike: the second 2.4 makes good for what the first loses.
    /// let factor = HessianFactor::new(3, &[1.0, 0.9, 0.9, 0.9, 1.0, 0.9, 0.9, 0.9, 1.0], 0.01)?;
    /// let layout = BlockLayout::new(Format::Nvfp4, ScaleLayout::RowMajor, 1, 1, 3)?;
    /// let quantizer = RowQuantizer::new(&layout, Quantizer::Amax.with_tensor_scale(0.125), 6.0)?;
    /// let (mut codes, mut scales) = (vec![0; layout.codes_len()], vec![0; layout.scales_bytes()]);
    /// quantizer.quantize_row_gptq(0, &factor, &[2.4, 2.4, 6.0], &mut codes, &mut scales)?;
    /// let mut back = [0.0; 3];
    /// dequantize(&layout, &codes, &scales, quantizer.tensor_scale(), &mut back)?;
    /// assert_eq!(back, [2.0, 3.0, 6.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`RowQuantizer::quantize_band`]; [`Error::Value`] for a format whose rows share
    /// scales, [`Error::Shape`] for a factor of another `k`.
    pub fn quantize_row_gptq(
        &self,
        row: usize,
        factor: &HessianFactor,
        src: &[f32],
        codes: &mut [u8],
        scales: &mut [u8],
    ) -> Result<f64> {
        let layout = &self.layout;
        if layout.spec().block_rows != 1 {
            let problem = format!(
                "{}'s rows share scales: error feedback takes formats with blocks of one row",
                layout.format()
            );
            return Err(Error::value(OP, "format", problem));
        }
        if factor.k() != layout.k() {
            let problem = format!("is of {} inputs, rows have {}", factor.k(), layout.k());
            return Err(Error::shape(OP, "factor", problem));
        }
        self.check_band(row, src, codes, scales)?;
        amax(src).map_err(|_| self.non_finite(row, src))?;
        let codec = Codec::of(layout.spec().code);
        let (block_cols, size) = (layout.block_cols(), layout.spec().scale.size());
        let mut feedback = Feedback::new(factor, codec, src);
        for (col, scale) in scales.chunks_exact_mut(size).enumerate() {
            let start = col * block_cols;
            let cols = block_cols.min(layout.k().saturating_sub(start));
            let (chosen, targets) =
                feedback.block(self.scaling, self.options.quantizer, start, cols);
            chosen.stored.write(scale);
            // Only the last block has padding, and it ends where the row of codes does.
            let byte = start / layout.spec().codes_per_byte;
            let end = (byte + block_cols / layout.spec().codes_per_byte).min(codes.len());
            codec.encode(targets, chosen.unit, &mut codes[byte..end]);
        }
        Ok(feedback.error())
    }

    fn check_band(&self, band: usize, src: &[f32], codes: &[u8], scales: &[u8]) -> Result<()> {
        let layout = &self.layout;
        let rows = layout.band(band).1.len();
        let (k, row_bytes, size) = (layout.k(), layout.row_bytes(), layout.spec().scale.size());
        let wanted = (rows * k, rows * row_bytes, layout.scale_cols() * size);
        if band < layout.bands() && (src.len(), codes.len(), scales.len()) == wanted {
            return Ok(());
        }
        Err(Error::shape(
            OP,
            "band",
            format!(
                "band {band} of {} takes {} values, {} bytes of codes and {} of scales; \
                 given were {}, {} and {}",
                layout.bands(),
                wanted.0,
                wanted.1,
                wanted.2,
                src.len(),
                codes.len(),
                scales.len(),
            ),
        ))
    }

    /// The error for a band that holds NaN or infinity.
    fn non_finite(&self, band: usize, src: &[f32]) -> Error {
        let (batch, rows) = self.layout.band(band);
        let first = (batch * self.layout.rows() + rows.start) * self.layout.k();
        match amax(src) {
            Err(found) => found.into_error(OP, &self.layout, first),
            Ok(_) => Error::value(OP, "src", "holds NaN or infinity".to_owned()),
        }
    }
}

/// A value that no block format can hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NonFinite {
    /// Its index in the slice looked at.
    pub index: usize,
    /// NaN or an infinity.
    pub value: f32,
}

impl NonFinite {
    /// The error to report, for a slice that starts at element `first` of the tensor.
    fn into_error(self, op: &'static str, layout: &BlockLayout, first: usize) -> Error {
        let index = first + self.index;
        let (k, rows) = (layout.k().max(1), layout.rows().max(1));
        Error::value(
            op,
            "src",
            format!(
                "value {index} ([{}, {}, {}] of [batch, row, column]) is {}, which {} cannot \
                 hold; replace NaN and infinities first",
                index / k / rows,
                index / k % rows,
                index % k,
                self.value,
                layout.format(),
            ),
        )
    }
}

/// The largest magnitude in a slice: 0 when it is empty.
///
/// # Errors
/// The first NaN or infinity.
pub fn amax(src: &[f32]) -> Result<f32, NonFinite> {
    let amax = f32::from_bits(max_magnitude_bits(src));
    if amax.is_finite() {
        return Ok(amax);
    }
    let found = src.iter().enumerate().find(|(_, x)| !x.is_finite());
    Err(found
        .map_or(NonFinite { index: 0, value: amax }, |(index, &value)| NonFinite { index, value }))
}
