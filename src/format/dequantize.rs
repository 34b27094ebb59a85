//! Codes and scales to values.

use std::ops::Mul;

use super::BlockLayout;
use super::codec::{Codec, E2M1_PAIRS, E4M3_VALUES, E5M2_VALUES, E8M0_VALUES, UE4M3_VALUES};
use super::layout::check_len;
use crate::error::{Error, Result};
use crate::num::DType;

const OP: &str = "dequantize";

/// Decodes `batch · rows · k` values, contiguous and row-major: `x = (e·s)·g` in f32.
///
/// With E8M0 and UE4M3 scales `e·s` is exact and the product with `g` is rounded once, to nearest
/// even; with f32 scales `e·s` is rounded once. So every value is the exact one rounded to f32,
/// infinite when that is beyond f32 (foreign scales only: [`quantize`](super::quantize) makes no
/// such). A NaN scale makes its block NaN, zeros included.
///
/// # Errors
/// [`Error::Shape`] for slices of other lengths than the layout's; [`Error::Value`] for a tensor
/// scale other than 1 where the format has none.
pub fn dequantize(
    layout: &BlockLayout,
    codes: &[u8],
    scales: &[u8],
    tensor_scale: f32,
    dst: &mut [f32],
) -> Result<()> {
    let values = Dequantizer::new(layout, codes, scales, tensor_scale)?;
    check_len(OP, "dst", "values", layout, dst.len(), layout.values_len())?;
    values.all(dst);
    Ok(())
}

/// As [`dequantize`], exactly: `e·s·g` has at most 30 significant bits.
///
/// # Errors
/// As [`dequantize`].
pub fn dequantize_f64(
    layout: &BlockLayout,
    codes: &[u8],
    scales: &[u8],
    tensor_scale: f32,
    dst: &mut [f64],
) -> Result<()> {
    let values = Dequantizer::new(layout, codes, scales, tensor_scale)?;
    check_len(OP, "dst", "values", layout, dst.len(), layout.values_len())?;
    values.all(dst);
    Ok(())
}

/// Decodes rows and parts of rows of a quantised tensor, as [`dequantize`] would: for loops that
/// never hold the whole tensor decoded.
#[derive(Clone, Copy, Debug)]
pub struct Dequantizer<'a> {
    layout: BlockLayout,
    codec: Codec,
    codes: &'a [u8],
    scales: &'a [u8],
    tensor_scale: f32,
}

impl<'a> Dequantizer<'a> {
    /// A decoder of the tensor that `codes` and `scales` hold.
    ///
    /// # Errors
    /// As [`dequantize`].
    pub fn new(
        layout: &BlockLayout,
        codes: &'a [u8],
        scales: &'a [u8],
        tensor_scale: f32,
    ) -> Result<Self> {
        check_len(OP, "codes", "bytes", layout, codes.len(), layout.codes_len())?;
        check_len(OP, "scales", "bytes", layout, scales.len(), layout.scales_bytes())?;
        if !layout.spec().tensor_scale && tensor_scale != 1.0 {
            return Err(Error::value(
                OP,
                "tensor_scale",
                format!("is {tensor_scale}; {} has none: pass 1", layout.format()),
            ));
        }
        let codec = Codec::of(layout.spec().code);
        Ok(Self { layout: *layout, codec, codes, scales, tensor_scale })
    }

    /// The layout.
    pub const fn layout(&self) -> &BlockLayout {
        &self.layout
    }

    /// Decodes `dst.len()` values of row `row` of matrix `batch`, from column `col` on, in f32 as
    /// [`dequantize`] does.
    ///
    /// # Errors
    /// [`Error::Shape`] when the stretch does not lie within the tensor.
    pub fn row(&self, batch: usize, row: usize, col: usize, dst: &mut [f32]) -> Result<()> {
        self.check(batch, row, col, dst.len())?;
        self.stretch(batch, row, col, dst);
        Ok(())
    }

    /// As [`Dequantizer::row`], exactly.
    ///
    /// # Errors
    /// As [`Dequantizer::row`].
    pub fn row_f64(&self, batch: usize, row: usize, col: usize, dst: &mut [f64]) -> Result<()> {
        self.check(batch, row, col, dst.len())?;
        self.stretch(batch, row, col, dst);
        Ok(())
    }

    /// The block scale `(scale_row, scale_col)` of matrix `batch`, without the tensor scale.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is no such block.
    pub fn scale(&self, batch: usize, scale_row: usize, scale_col: usize) -> Result<f32> {
        let l = &self.layout;
        if batch < l.batch() && scale_row < l.scale_rows() && scale_col < l.scale_cols() {
            return Ok(self.scale_at(l.scale_index(batch, scale_row, scale_col)));
        }
        Err(Error::shape(
            OP,
            "scale",
            format!(
                "scale [{batch}, {scale_row}, {scale_col}] was asked for; there are [{}, {}, {}]",
                l.batch(),
                l.scale_rows(),
                l.scale_cols(),
            ),
        ))
    }

    fn check(&self, batch: usize, row: usize, col: usize, len: usize) -> Result<()> {
        let l = &self.layout;
        let inside = col.checked_add(len).is_some_and(|end| end <= l.k());
        if batch < l.batch() && row < l.rows() && inside {
            return Ok(());
        }
        Err(Error::shape(
            OP,
            "row",
            format!(
                "{len} values from [{batch}, {row}, {col}] on were asked for; the tensor is \
                 [{}, {}, {}]",
                l.batch(),
                l.rows(),
                l.k(),
            ),
        ))
    }

    fn all<T: Real>(&self, dst: &mut [T]) {
        let l = &self.layout;
        for (i, dst) in dst.chunks_exact_mut(l.k().max(1)).enumerate() {
            self.stretch(i / l.rows(), i % l.rows(), 0, dst);
        }
    }

    #[inline]
    fn stretch<T: Real>(&self, batch: usize, row: usize, mut col: usize, mut dst: &mut [T]) {
        let l = &self.layout;
        let codes = &self.codes[l.row_offset(batch, row)..][..l.row_bytes()];
        let block_cols = l.block_cols();
        let scale_row = row / l.spec().block_rows;
        let g = T::from(self.tensor_scale);
        while !dst.is_empty() {
            let block = col / block_cols;
            let take = ((block + 1) * block_cols - col).min(dst.len());
            let (now, later) = dst.split_at_mut(take);
            let s = T::from(self.scale_at(l.scale_index(batch, scale_row, block)));
            match self.codec {
                Codec::E2M1 => decode_e2m1(codes, col, s, g, now),
                Codec::E4M3 => decode_fp8(&codes[col..][..take], s, g, &E4M3_VALUES, now),
                Codec::E5M2 => decode_fp8(&codes[col..][..take], s, g, &E5M2_VALUES, now),
            }
            (col, dst) = (col + take, later);
        }
    }

    #[inline]
    fn scale_at(&self, index: usize) -> f32 {
        match self.layout.spec().scale {
            DType::E8M0 => E8M0_VALUES[usize::from(self.scales[index])],
            DType::UE4M3 => UE4M3_VALUES[usize::from(self.scales[index])],
            _ => {
                let bytes = &self.scales[4 * index..];
                f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
        }
    }
}

/// f32 or f64.
trait Real: Copy + From<f32> + Mul<Output = Self> {}
impl Real for f32 {}
impl Real for f64 {}

/// Decodes nibbles from column `col` of a row on.
#[inline]
fn decode_e2m1<T: Real>(codes: &[u8], col: usize, s: T, g: T, dst: &mut [T]) {
    let value = |e: f32| T::from(e) * s * g;
    let pair = |byte: u8| &E2M1_PAIRS[usize::from(byte)];
    let (head, dst) = dst.split_at_mut((col % 2).min(dst.len()));
    let codes = &codes[col / 2..];
    if let [first] = head {
        *first = value(pair(codes[0])[1]);
    }
    let codes = &codes[head.len()..];
    let mut pairs = dst.chunks_exact_mut(2);
    let mut bytes = codes.iter();
    for (dst, &byte) in (&mut pairs).zip(&mut bytes) {
        let pair = pair(byte);
        dst[0] = value(pair[0]);
        dst[1] = value(pair[1]);
    }
    if let ([last], Some(&byte)) = (pairs.into_remainder(), bytes.next()) {
        *last = value(pair(byte)[0]);
    }
}

#[inline]
fn decode_fp8<T: Real>(codes: &[u8], s: T, g: T, values: &[f32; 256], dst: &mut [T]) {
    for (dst, &code) in dst.iter_mut().zip(codes) {
        *dst = T::from(values[usize::from(code)]) * s * g;
    }
}
