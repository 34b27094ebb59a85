//! Matrices as rows along k, decoded to f32 when asked for.

use super::simd::{self, LANES, Level, Rows};
use crate::error::{Error, Result};
use crate::format::{Dequantizer, ScaleLayout};
use crate::num::{DType, E8M0, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, f16};
use crate::op::{Dense, Operand};
use crate::registry::{Launch, ScaledBytes};

/// `[.., rows, k]` values of any type that f32 holds.
pub(super) trait RowSource: Sync {
    /// Decodes row `row` of matrix `batch`, all of its k, into the front of `dst`.
    fn decode(&self, batch: usize, row: usize, dst: &mut [f32]) -> Result<()>;

    /// Rows that can be used in place: f32, contiguous along k, k a multiple of [`LANES`].
    fn in_place(&self, _batch: usize, _first: usize, _len: usize) -> Option<Rows<'_>> {
        None
    }
}

/// Runs `$body` with `$E` standing for the Rust type of a float that f32 holds.
macro_rules! with_small_float {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $E = f32;
                $body
            }
            DType::BF16 => {
                type $E = bf16;
                $body
            }
            DType::F16 => {
                type $E = f16;
                $body
            }
            DType::F8E4M3 => {
                type $E = F8E4M3;
                $body
            }
            DType::F8E5M2 => {
                type $E = F8E5M2;
                $body
            }
            other => Err(Error::kernel("cpu", format!("{other} is not decoded to f32"))),
        }
    };
}
pub(super) use with_small_float;

/// The rows of an operand whose last two dimensions are `[rows, k]`, or `[k, rows]` with
/// `k_first`. Leading dimensions broadcast to `batch_dims`.
pub(super) fn row_source<'a>(
    launch: &Launch<'a>,
    operand: &Operand,
    k_first: bool,
    batch_dims: &[usize],
) -> Result<Box<dyn RowSource + 'a>> {
    let level = Level::of(&launch.caps.isa);
    match operand {
        Operand::Dense(dense) => with_small_float!(dense.dtype, E => {
            let data = launch.read_dense::<E>(operand)?;
            Ok(Box::new(DenseRows::new(level, data, dense, k_first, batch_dims)))
        }),
        Operand::Scaled(scaled) => {
            let bytes = launch.read_scaled(scaled)?;
            let layout = scaled.layout()?;
            let values = Dequantizer::new(&layout, bytes.codes, bytes.scales, bytes.tensor_scale)?;
            let leading = scaled.dims.leading(2);
            let strides = row_major(leading);
            let matrices = batch_offsets(leading, &strides, batch_dims);
            Ok(Box::new(ScaledRows { level, values, bytes, matrices }))
        }
    }
}

struct DenseRows<'a, E> {
    level: Level,
    data: &'a [E],
    /// Where each matrix starts.
    starts: Vec<usize>,
    row_stride: usize,
    k_stride: usize,
    k: usize,
}

impl<'a, E> DenseRows<'a, E> {
    fn new(
        level: Level,
        data: &'a [E],
        dense: &Dense,
        k_first: bool,
        batch_dims: &[usize],
    ) -> Self {
        let rank = dense.dims.len();
        let (row_axis, k_axis) = if k_first { (rank - 1, rank - 2) } else { (rank - 2, rank - 1) };
        DenseRows {
            level,
            data,
            starts: batch_offsets(dense.dims.leading(2), dense.strides.leading(2), batch_dims),
            row_stride: dense.strides[row_axis],
            k_stride: dense.strides[k_axis],
            k: dense.dims[k_axis],
        }
    }
}

impl<E: Scalar> RowSource for DenseRows<'_, E> {
    fn decode(&self, batch: usize, row: usize, dst: &mut [f32]) -> Result<()> {
        let start = self.starts[batch] + row * self.row_stride;
        let dst = &mut dst[..self.k];
        if self.k_stride == 1 {
            simd::widen(self.level, &self.data[start..start + self.k], dst);
        } else {
            for (l, x) in dst.iter_mut().enumerate() {
                *x = self.data[start + l * self.k_stride].to_f32();
            }
        }
        Ok(())
    }

    fn in_place(&self, batch: usize, first: usize, len: usize) -> Option<Rows<'_>> {
        if self.k_stride != 1 || !self.k.is_multiple_of(LANES) || self.k == 0 {
            return None;
        }
        // The type is f32 exactly where this cast is one to itself.
        if E::DTYPE != DType::F32 {
            return None;
        }
        let data = bytemuck::try_cast_slice(self.data).ok()?;
        let start = self.starts[batch] + first * self.row_stride;
        let span = len.checked_sub(1)? * self.row_stride + self.k;
        Some(Rows { data: &data[start..start + span], stride: self.row_stride, len })
    }
}

struct ScaledRows<'a> {
    level: Level,
    values: Dequantizer<'a>,
    bytes: ScaledBytes<'a>,
    /// Which matrix each batch index means.
    matrices: Vec<usize>,
}

impl RowSource for ScaledRows<'_> {
    fn decode(&self, batch: usize, row: usize, dst: &mut [f32]) -> Result<()> {
        let layout = self.values.layout();
        let (k, matrix) = (layout.k(), self.matrices[batch]);
        if layout.spec().code != DType::E2M1x2 {
            return self.values.row(matrix, row, 0, &mut dst[..k]);
        }
        let mut scales = vec![0.0; layout.scale_cols()];
        self.scales(matrix, row, &mut scales)?;
        let codes = &self.bytes.codes[layout.row_offset(matrix, row)..][..layout.row_bytes()];
        let (block, g) = (layout.spec().block_k, self.bytes.tensor_scale);
        simd::decode_e2m1(self.level, codes, &scales, block, g, &mut dst[..k]);
        Ok(())
    }
}

impl ScaledRows<'_> {
    /// The scales of a row's blocks, for formats of one row a block.
    fn scales(&self, matrix: usize, row: usize, dst: &mut [f32]) -> Result<()> {
        let layout = self.values.layout();
        let type_ = layout.spec().scale;
        if layout.scale_layout() == ScaleLayout::RowMajor && type_.size() == 1 && !dst.is_empty() {
            let first = layout.scale_index(matrix, row, 0);
            let bytes = &self.bytes.scales[first..first + dst.len()];
            match type_ {
                DType::UE4M3 => UE4M3::to_f32_slice(bytemuck::cast_slice(bytes), dst),
                _ => E8M0::to_f32_slice(bytemuck::cast_slice(bytes), dst),
            }
            return Ok(());
        }
        for (col, scale) in dst.iter_mut().enumerate() {
            *scale = self.values.scale(matrix, row, col)?;
        }
        Ok(())
    }
}

/// Row-major strides of some sizes.
pub(super) fn row_major(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    strides
}

/// Where each element of `batch_dims` (row-major) lies, for sizes that broadcast to them.
pub(super) fn batch_offsets(dims: &[usize], strides: &[usize], batch_dims: &[usize]) -> Vec<usize> {
    let skip = batch_dims.len() - dims.len();
    let mut offsets = vec![0];
    for (axis, &size) in batch_dims.iter().enumerate() {
        let stride = match axis.checked_sub(skip) {
            Some(own) if dims[own] != 1 => strides[own],
            _ => 0,
        };
        offsets = offsets
            .iter()
            .flat_map(|&offset| (0..size).map(move |i| offset + i * stride))
            .collect();
    }
    offsets
}
