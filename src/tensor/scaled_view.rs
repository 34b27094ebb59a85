//! Parts of block-scaled tensors.

use std::marker::PhantomData;
use std::ops::Range;

use super::dense::Tensor;
use super::matmul::require_same_device;
use super::scaled::ScaledTensor;
use crate::error::{Error, Result};
use crate::format::{BlockFormat, ScaleLayout, TILE_ROWS, WHOLE};
use crate::memory::room;
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

    /// Tensors one after the other along the outermost dimension, copied into one: of matrices
    /// `[n, k]` the rows. Where the format has a tensor scale, that of the result is 1, and each
    /// row's own comes beside it, as the factor of a column of products with the transpose:
    /// [`GemmBuilder::column_scale`](super::GemmBuilder::column_scale). On CPUs such a product has
    /// the bits of one with each tensor by itself.
    ///
    /// ```
    /// use ferrocerium::{Device, ScaledTensor, Tensor, format::Nvfp4};
    /// let device = Device::cpu();
    /// let x = Tensor::full(&device, [1, 32], 1.0f32)?;
    /// let gate = Tensor::full(&device, [2, 32], 0.5f32)?.quantize::<Nvfp4>()?;
    /// let up = Tensor::full(&device, [2, 32], 3.0f32)?.quantize::<Nvfp4>()?;
    /// let (both, scale) = ScaledTensor::concat_outer(&[&gate, &up])?;
    /// let scale = scale.expect("NVFP4 has a tensor scale");
    /// let y = x.gemm(&both.t()).column_scale(&scale).run::<f32>()?.to_vec()?;
    /// assert_eq!(y[..2], x.matmul(&gate.t())?.to_vec()?);
    /// assert_eq!(y[2..], x.matmul(&up.t())?.to_vec()?);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`] for no tensors; [`Error::Shape`] when shapes differ elsewhere;
    /// [`Error::Layout`] for transposed or tiled ones and formats whose scales are for several
    /// rows; [`Error::Device`] across devices; [`Error::OutOfMemory`].
    pub fn concat_outer(tensors: &[&Self]) -> Result<(Self, Option<Tensor<f32, 1>>)> {
        const OP: &str = "concat_outer";
        let Some(first) = tensors.first() else {
            return Err(Error::value(OP, "tensors", "there are none; pass at least 1"));
        };
        let mut shape = first.shape();
        if R < 2 || F::FORMAT.spec().block_rows != 1 {
            let problem = format!("they are {}: their scales are for several rows", first.scaled);
            return Err(Error::layout(OP, "tensors", problem));
        }
        shape[0] = 0;
        for (i, tensor) in tensors.iter().enumerate() {
            require_same_device(&first.device, &tensor.device)?;
            let (one, other) = (&first.scaled, &tensor.scaled);
            if tensor.shape()[1..] != shape[1..] {
                let problem = format!(
                    "tensor {i} is {other}, tensor 0 is {one}: only the outermost size may differ"
                );
                return Err(Error::shape(OP, "tensors", problem));
            }
            if other.transposed || other.scale_layout != ScaleLayout::RowMajor {
                let problem = format!("tensor {i} is {other}: pass it as stored, scales row-major");
                return Err(Error::layout(OP, "tensors", problem));
            }
            shape[0] = shape[0].checked_add(tensor.shape()[0]).ok_or_else(|| {
                Error::shape(OP, "tensors", "the sizes add up to more than a usize can count")
            })?;
        }
        let all = Self::zeros(&first.device, shape)?;
        let Some(to) = &all.scaled.data else { return Ok((all, None)) };
        let (mut codes_at, mut scales_at) = (to.codes.offset(), to.scales.offset());
        let mut row_scales = room(shape[0])?;
        for tensor in tensors {
            let Some(data) = &tensor.scaled.data else { continue };
            let layout = tensor.scaled.layout()?;
            let codes = data.codes.slice(0, layout.codes_len())?;
            let scales = data.scales.slice(0, layout.scales_bytes())?;
            to.codes.buffer().copy_from_host(codes_at, &codes.to_host()?)?;
            to.scales.buffer().copy_from_host(scales_at, &scales.to_host()?)?;
            (codes_at, scales_at) = (codes_at + codes.len(), scales_at + scales.len());
            if let Some(scale) = &data.tensor_scale {
                let scale = scale.to_host()?;
                let scale = bytemuck::pod_read_unaligned::<f32>(&scale[..size_of::<f32>()]);
                row_scales.extend(std::iter::repeat_n(scale, tensor.shape()[0]));
            }
        }
        let Some(scale) = &to.tensor_scale else { return Ok((all, None)) };
        scale.buffer().copy_from_host(scale.offset(), &1.0f32.to_ne_bytes())?;
        let row_scales = Tensor::from_host(&first.device, [shape[0]], &row_scales)?;
        Ok((all, Some(row_scales)))
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
