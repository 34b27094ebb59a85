//! Matrices as rows along k, decoded to f32 when asked for.

use std::ops::Range;
use std::sync::OnceLock;

use super::offsets::{Offsets, batch_offsets, row_major};
use super::simd::int8::{self, Packed};
use super::simd::{self, Code, Fp4Table, LANES, Level, Rows, Scales, Weights};
use crate::error::{Error, Result};
use crate::format::{Dequantizer, ScaleLayout};
use crate::memory::{room, scratch};
use crate::num::{DType, E8M0, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, f16};
use crate::op::{Dims, Operand, Scaled};
use crate::registry::{Launch, ScaledBytes};

/// `[.., rows, k]` values of any type that f32 holds.
pub(super) trait RowSource: Sync {
    /// Decodes row `row` of matrix `batch`, all of its k, into the front of `dst`.
    fn decode(&self, batch: usize, row: usize, dst: &mut [f32]) -> Result<()>;

    /// Decodes elements `first ..` of a row into `dst`.
    fn part(&self, batch: usize, row: usize, first: usize, dst: &mut [f32]) -> Result<()>;

    /// Elements `first ..` of a row, as many as `scratch` holds: where they lie, if they are f32 and
    /// contiguous, or decoded there.
    fn stretch<'s>(
        &'s self,
        batch: usize,
        row: usize,
        first: usize,
        scratch: &'s mut [f32],
    ) -> Result<&'s [f32]> {
        if let Some(rows) = self.in_place(batch) {
            let start = row * rows.stride + first;
            return Ok(&rows.data[start..start + scratch.len()]);
        }
        self.part(batch, row, first, scratch)?;
        Ok(scratch)
    }

    /// Decodes the elements `part` of some rows of matrix `batch` to rows `stride` apart.
    fn panel(
        &self,
        batch: usize,
        rows: Range<usize>,
        part: Range<usize>,
        dst: &mut [f32],
        stride: usize,
    ) -> Result<()> {
        for (row, dst) in rows.zip(dst.chunks_mut(stride)) {
            self.part(batch, row, part.start, &mut dst[..part.len()])?;
        }
        Ok(())
    }

    /// The rows of matrix `batch` where they lie, if they are f32 and contiguous.
    fn in_place(&self, _batch: usize) -> Option<Rows<'_>> {
        None
    }

    /// Elements `part` of up to [`LANES`] rows of matrix `batch` as [`simd::by_lanes`] puts them, if
    /// they lie side by side; `false` where they do not.
    fn across(
        &self,
        _batch: usize,
        _rows: Range<usize>,
        _part: Range<usize>,
        _dst: &mut [f32],
        _shape: (usize, usize),
    ) -> bool {
        false
    }

    /// The rows of matrix `batch` as they are stored, where kernels can read them so.
    fn weights(&self, _batch: usize) -> Option<Weights<'_>> {
        None
    }

    /// Whether rows are FP4 with scales such as [`RowSource::pack_fp4`] takes.
    fn is_fp4(&self) -> bool {
        false
    }

    /// The codes of a row of FP4 as integers, with half of their scales.
    fn pack_fp4(&self, _batch: usize, _row: usize, _dst: &mut [Packed]) -> Result<()> {
        Err(Error::kernel("cpu", "rows that are not FP4"))
    }

    /// The rows of all matrices, one after the other, as they are stored.
    fn all_weights(&self) -> Option<Weights<'_>> {
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
    match operand {
        Operand::Dense(dense) => {
            let rank = dense.dims.len();
            let axes = if k_first { (rank - 1, rank - 2) } else { (rank - 2, rank - 1) };
            dense_rows(launch, operand, (&dense.dims, &dense.strides), axes, batch_dims)
        }
        Operand::Scaled(scaled) => {
            let bytes = launch.read_scaled(scaled)?;
            let level = Level::of(&launch.caps.isa);
            Ok(Box::new(ScaledRows::new(level, bytes, scaled, batch_dims)?))
        }
    }
}

/// The rows of a dense operand as if it had these sizes and strides, with the axes of rows and of
/// what lies along them.
pub(super) fn dense_rows<'a>(
    launch: &Launch<'a>,
    operand: &Operand,
    (dims, strides): (&Dims, &Dims),
    (row_axis, k_axis): (usize, usize),
    batch_dims: &[usize],
) -> Result<Box<dyn RowSource + 'a>> {
    let Some(dtype) = operand.dtype() else {
        return Err(Error::kernel("cpu", format!("{operand} is not plain elements")));
    };
    with_small_float!(dtype, E => Ok(Box::new(DenseRows {
        level: Level::of(&launch.caps.isa),
        data: launch.read_dense::<E>(operand)?,
        starts: batch_offsets(dims.leading(2), strides.leading(2), batch_dims)?,
        row_stride: strides[row_axis],
        k_stride: strides[k_axis],
        rows: dims[row_axis],
        k: dims[k_axis],
    })))
}

/// The columns of a right matrix as rows along k, without its tensor scale, and that: a factor of
/// all products, so that decoding depends on no matrix.
pub(super) fn column_source<'a>(
    launch: &Launch<'a>,
    operand: &Operand,
    batch_dims: &[usize],
) -> Result<(Box<dyn RowSource + 'a>, f32)> {
    let Operand::Scaled(scaled) = operand else {
        return Ok((row_source(launch, operand, true, batch_dims)?, 1.0));
    };
    let bytes = launch.read_scaled(scaled)?;
    // Without elements there is nothing to multiply.
    let scale = if scaled.layout()?.k() == 0 { 1.0 } else { bytes.tensor_scale };
    let bytes = ScaledBytes { tensor_scale: 1.0, ..bytes };
    let level = Level::of(&launch.caps.isa);
    Ok((Box::new(ScaledRows::new(level, bytes, scaled, batch_dims)?), scale))
}

struct DenseRows<'a, E> {
    level: Level,
    data: &'a [E],
    /// Where each matrix starts.
    starts: Offsets,
    row_stride: usize,
    k_stride: usize,
    rows: usize,
    k: usize,
}

impl<E: Scalar> RowSource for DenseRows<'_, E> {
    fn decode(&self, batch: usize, row: usize, dst: &mut [f32]) -> Result<()> {
        self.part(batch, row, 0, &mut dst[..self.k])
    }

    fn part(&self, batch: usize, row: usize, first: usize, dst: &mut [f32]) -> Result<()> {
        if dst.is_empty() {
            return Ok(());
        }
        let start = self.starts.at(batch) + row * self.row_stride + first * self.k_stride;
        if self.k_stride == 1 {
            simd::widen(self.level, &self.data[start..start + dst.len()], dst);
        } else {
            for (l, x) in dst.iter_mut().enumerate() {
                *x = self.data[start + l * self.k_stride].to_f32();
            }
        }
        Ok(())
    }

    fn panel(
        &self,
        batch: usize,
        rows: Range<usize>,
        part: Range<usize>,
        dst: &mut [f32],
        stride: usize,
    ) -> Result<()> {
        if self.row_stride != 1 {
            for (row, dst) in rows.zip(dst.chunks_mut(stride)) {
                self.part(batch, row, part.start, &mut dst[..part.len()])?;
            }
            return Ok(());
        }
        // Along the rows, as they lie in memory.
        let start = self.starts.at(batch) + rows.start;
        for l in part.clone() {
            let elements = &self.data[start + l * self.k_stride..][..rows.len()];
            for (j, x) in elements.iter().enumerate() {
                dst[j * stride + l - part.start] = x.to_f32();
            }
        }
        Ok(())
    }

    fn in_place(&self, batch: usize) -> Option<Rows<'_>> {
        if self.k_stride != 1 || E::DTYPE != DType::F32 {
            return None;
        }
        let data = self.data.get(self.starts.get(batch)?..)?;
        let data = bytemuck::try_cast_slice(data).ok()?;
        Some(Rows { data, stride: self.row_stride, len: self.rows })
    }

    fn across(
        &self,
        batch: usize,
        rows: Range<usize>,
        part: Range<usize>,
        dst: &mut [f32],
        shape: (usize, usize),
    ) -> bool {
        if self.row_stride != 1 || self.k_stride == 1 {
            return false;
        }
        let start = self.starts.at(batch) + rows.start + part.start * self.k_stride;
        for at in 0..part.len().next_multiple_of(LANES) {
            let columns = &mut dst[simd::place(at, shape)..][..LANES];
            let there = if at < part.len() { rows.len() } else { 0 };
            let (columns, missing) = columns.split_at_mut(there);
            if there > 0 {
                let elements = &self.data[start + at * self.k_stride..][..there];
                simd::widen(self.level, elements, columns);
            }
            missing.fill(0.0);
        }
        true
    }

    fn weights(&self, batch: usize) -> Option<Weights<'_>> {
        if self.k_stride != 1 {
            return None;
        }
        let (code, size) = match E::DTYPE {
            dtype @ (DType::F8E4M3 | DType::F8E5M2) => (Code::Fp8(dtype), 1),
            dtype => (Code::Plain(dtype), dtype.size()),
        };
        let bytes = bytemuck::cast_slice(self.data.get(self.starts.get(batch)?..)?);
        Weights::new(code, bytes, self.row_stride * size, (self.rows, self.k), None)
    }
}

struct ScaledRows<'a> {
    level: Level,
    values: Dequantizer<'a>,
    bytes: ScaledBytes<'a>,
    /// Which matrix each batch index means.
    matrices: Offsets,
    fp4: OnceLock<Option<Fp4Table>>,
}

impl RowSource for ScaledRows<'_> {
    fn decode(&self, batch: usize, row: usize, dst: &mut [f32]) -> Result<()> {
        let layout = self.values.layout();
        let (k, matrix) = (layout.k(), self.matrices.at(batch));
        if layout.spec().code != DType::E2M1x2 {
            return self.values.row(matrix, row, 0, &mut dst[..k]);
        }
        let mut scales = scratch(layout.scale_cols(), 0.0)?;
        self.scales(matrix, row, &mut scales)?;
        let codes = &self.bytes.codes[layout.row_offset(matrix, row)..][..layout.row_bytes()];
        let (block, g) = (layout.spec().block_k, self.bytes.tensor_scale);
        simd::decode_e2m1(self.level, codes, &scales, block, g, &mut dst[..k]);
        Ok(())
    }

    fn part(&self, batch: usize, row: usize, first: usize, dst: &mut [f32]) -> Result<()> {
        self.values.row(self.matrices.at(batch), row, first, dst)
    }

    fn weights(&self, batch: usize) -> Option<Weights<'_>> {
        self.weights_from(self.matrices.get(batch)?, 1)
    }

    /// Products of a block's integers with half a scale, and that again with the other one's, stay
    /// in the range of f32.
    fn is_fp4(&self) -> bool {
        let room = 2f32.powi(-90)..2f32.powi(90);
        self.values.layout().spec().code == DType::E2M1x2 && room.contains(&self.bytes.tensor_scale)
    }

    fn pack_fp4(&self, batch: usize, row: usize, dst: &mut [Packed]) -> Result<()> {
        let layout = self.values.layout();
        let matrix = self.matrices.at(batch);
        let codes = &self.bytes.codes[layout.row_offset(matrix, row)..][..layout.row_bytes()];
        let mut scales = scratch(layout.scale_cols(), 0.0)?;
        self.scales(matrix, row, &mut scales)?;
        let factor = 0.5 * self.bytes.tensor_scale;
        let blocks = layout.spec().block_k / int8::BLOCK;
        let mut each = room(scales.len() * blocks)?;
        each.extend(scales.iter().flat_map(|s| std::iter::repeat_n(s * factor, blocks)));
        int8::pack_fp4(self.level, codes, layout.k(), &each, dst);
        Ok(())
    }

    fn all_weights(&self) -> Option<Weights<'_>> {
        let layout = self.values.layout();
        // Scales of several rows start anew in each matrix.
        match layout.spec().block_rows {
            1 => self.weights_from(0, layout.batch()),
            _ => None,
        }
    }
}

impl<'a> ScaledRows<'a> {
    fn new(
        level: Level,
        bytes: ScaledBytes<'a>,
        scaled: &Scaled,
        batch_dims: &[usize],
    ) -> Result<Self> {
        let layout = scaled.layout()?;
        let values = Dequantizer::new(&layout, bytes.codes, bytes.scales, bytes.tensor_scale)?;
        let leading = scaled.dims.leading(2);
        let matrices = batch_offsets(leading, &row_major(leading), batch_dims)?;
        Ok(ScaledRows { level, values, bytes, matrices, fp4: OnceLock::new() })
    }

    /// The rows of some matrices that follow each other.
    fn weights_from(&self, matrix: usize, count: usize) -> Option<Weights<'_>> {
        let layout = self.values.layout();
        let spec = layout.spec();
        if layout.scale_layout() != ScaleLayout::RowMajor || layout.rows() == 0 {
            return None;
        }
        let code = match (spec.code, spec.scale) {
            (DType::E2M1x2, DType::UE4M3) => Code::Nvfp4,
            (DType::E2M1x2, DType::E8M0) => Code::Mxfp4,
            (code, _) => Code::Fp8(code),
        };
        let scales = Scales {
            bytes: &self.bytes.scales[layout.scale_index(matrix, 0, 0) * spec.scale.size()..],
            dtype: spec.scale,
            columns: layout.scale_cols(),
            block_rows: spec.block_rows,
            block_k: spec.block_k,
            factor: self.bytes.tensor_scale,
            fp4: match code {
                Code::Nvfp4 | Code::Mxfp4 => {
                    let g = self.bytes.tensor_scale;
                    let table = || Fp4Table::new(spec.scale, g);
                    let plain = || Fp4Table::plain(spec.scale);
                    if g == 1.0 { plain() } else { self.fp4.get_or_init(table).as_ref() }
                }
                _ => None,
            },
        };
        let codes = &self.bytes.codes[layout.row_offset(matrix, 0)..];
        let sizes = (count * layout.rows(), layout.k());
        Weights::new(code, codes, layout.row_bytes(), sizes, Some(scales))
    }

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
