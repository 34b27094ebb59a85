//! Kernel parameters that several kernels share: the structs of `kernels/include`, field by
//! field.

use bytemuck::{Pod, Zeroable};

use super::gpu::Call;
use crate::caps::{Caps, Isa};
use crate::error::{Error, Result};
use crate::memory::Access;
use crate::num::DType;
use crate::op::{Activation, Dense, Dims, MAX_RANK, Operand};
use crate::registry::Unsupported;

/// The most sizes that stand before those of a matrix.
pub(super) const BATCH_RANK: usize = MAX_RANK - 2;

/// `Matrix`: strides in bytes; no address where it is left out.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Matrix {
    pub address: u64,
    pub batch: [i64; BATCH_RANK],
    pub row: i64,
    pub col: i64,
    pub dtype: i32,
    words: i32,
    eights: i32,
    reserved: i32,
}

impl Matrix {
    /// A dense operand as the matrices `dims` (batch sizes, rows, columns) of an operation. Sizes
    /// that it lacks, or has with size 1, repeat.
    pub fn bind(
        call: &mut Call<'_, '_>,
        arg: &'static str,
        operand: &Operand,
        access: Access,
        dims: &[usize],
    ) -> Result<Self> {
        let dense = dense(arg, operand)?;
        let region = dense.data.as_ref();
        let region = region.ok_or_else(|| Error::layout("launch", arg, "it has no data"))?;
        let address = match access {
            Access::Read => call.input(region)?,
            Access::Write => call.output(region)?,
        };
        let size = dense.dtype.size();
        if !address.is_multiple_of(size as u64) {
            return Err(Error::layout(
                "launch",
                arg,
                format!("{operand} does not begin at a multiple of {size} bytes; copy it"),
            ));
        }
        let mut strides = [0; MAX_RANK];
        let missing = MAX_RANK - dense.dims.len();
        for (axis, (&d, &stride)) in dense.dims.iter().zip(dense.strides.iter()).enumerate() {
            // Within the span of the operand, which `Op::validate` found to fit its region.
            let target = (axis + missing).checked_sub(MAX_RANK - dims.len());
            if d > 1 && target.is_some() {
                strides[axis + missing] = stride as i64 * size as i64;
            }
        }
        let [batch @ .., row, col] = strides;
        let dtype = code(dense.dtype);
        Ok(Matrix { address, batch, row, col, dtype, ..Matrix::default() }.with_eights(size))
    }

    /// Contiguous rows of f32 in these sizes.
    pub fn f32_rows(address: u64, dims: &[usize]) -> Self {
        let mut strides = [0; MAX_RANK];
        let mut step = size_of::<f32>();
        for (stride, &d) in strides.iter_mut().rev().zip(dims.iter().rev()) {
            *stride = step as i64;
            step = step.saturating_mul(d);
        }
        let [batch @ .., row, col] = strides;
        let dtype = code(DType::F32);
        let matrix = Matrix { address, batch, row, col, dtype, ..Matrix::default() };
        matrix.with_eights(size_of::<f32>())
    }

    /// Says whether eight elements of `size` bytes along a row can be read at once.
    fn with_eights(self, size: usize) -> Self {
        let alignment = (8 * size as i64).min(16);
        Matrix { eights: self.has_rows(2, size, alignment).into(), ..self }
    }

    /// As seen from addresses that are multiples of `step` further.
    pub fn moved(self, step: i64) -> Self {
        Matrix { eights: i32::from(self.eights != 0 && step % 16 == 0), ..self }
    }

    /// Integers, likewise.
    pub fn bind_indices(
        call: &mut Call<'_, '_>,
        arg: &'static str,
        operand: &Operand,
        access: Access,
        dims: &[usize],
    ) -> Result<Self> {
        let dtype = operand.dtype().map_or(-1, index_code);
        Ok(Matrix { dtype, ..Matrix::bind(call, arg, operand, access, dims)? })
    }

    /// Contiguous rows of codes of a type.
    pub fn codes(address: u64, batch: [i64; BATCH_RANK], row: i64, dtype: DType) -> Self {
        let dtype = code(dtype);
        let codes = Matrix { address, batch, row, col: 1, dtype, ..Matrix::default() };
        Matrix { words: codes.has_rows(1, 1, 4).into(), ..codes }
    }

    /// An operand that may be left out.
    pub fn bind_opt(
        call: &mut Call<'_, '_>,
        arg: &'static str,
        operand: Option<&Operand>,
        access: Access,
        dims: &[usize],
    ) -> Result<Self> {
        operand.map_or(Ok(Matrix::default()), |o| Matrix::bind(call, arg, o, access, dims))
    }

    /// The same matrix with rows and columns swapped.
    pub fn transposed(self) -> Self {
        Matrix { row: self.col, col: self.row, eights: 0, ..self }
    }

    /// Whether columns of `rows` elements of `size` bytes are contiguous and begin at multiples of
    /// `alignment` bytes.
    pub fn has_cols(&self, rows: usize, size: usize, alignment: i64) -> bool {
        self.transposed().has_rows(rows, size, alignment)
    }

    /// Whether rows of `cols` elements of `size` bytes are contiguous and begin at multiples of
    /// `alignment` bytes.
    pub fn has_rows(&self, cols: usize, size: usize, alignment: i64) -> bool {
        (cols <= 1 || self.col == size as i64)
            && self.address.is_multiple_of(alignment as u64)
            && self.batch.iter().chain([&self.row]).all(|stride| stride % alignment == 0)
    }
}

/// The number of an element type in `numbers.cuh`, of codes in `blocks.cuh`; others have none.
pub(super) fn code(dtype: DType) -> i32 {
    match dtype {
        DType::F32 => 0,
        DType::BF16 => 1,
        DType::F16 => 2,
        DType::F8E4M3 => 3,
        DType::F8E5M2 => 4,
        DType::E2M1x2 => 5,
        _ => -1,
    }
}

/// The number of an index type in `index.cuh`.
pub(super) fn index_code(dtype: DType) -> i32 {
    match dtype {
        DType::U32 => 0,
        DType::I32 => 1,
        _ => 2,
    }
}

fn dense<'a>(arg: &'static str, operand: &'a Operand) -> Result<&'a Dense> {
    let problem = || format!("{arg} is {operand}: plain elements are expected");
    operand.as_dense().ok_or_else(|| Error::dtype("launch", arg, problem()))
}

/// Batch sizes as kernels take them: 1 where there are fewer.
pub(super) fn batch_sizes(dims: &Dims) -> [i32; BATCH_RANK] {
    let mut sizes = [1; BATCH_RANK];
    let leading = dims.leading(2);
    for (size, &d) in sizes[BATCH_RANK - leading.len()..].iter_mut().zip(leading) {
        // `sizes_fit` was asked before.
        *size = d as i32;
    }
    sizes
}

/// Refuses sizes that do not fit the kernels' 32-bit numbers, with room for a tile's width.
pub(super) fn sizes_fit(sizes: &[usize]) -> Result<(), Unsupported> {
    const LARGEST: usize = 1 << 30;
    match sizes.iter().find(|&&size| size > LARGEST) {
        None => Ok(()),
        Some(size) => Err(Unsupported(format!("counts to {LARGEST}, not to {size}"))),
    }
}

/// Refuses an input that is not plain elements that f32 holds.
pub(super) fn require_readable(operand: &Operand) -> Result<(), Unsupported> {
    if operand.dtype().is_some_and(DType::fits_f32) {
        return Ok(());
    }
    Err(Unsupported(format!("reads plain elements that f32 holds, not {operand}")))
}

/// Refuses an output that one rounding from f32 does not make.
pub(super) fn require_writable(operand: &Operand, caps: &Caps) -> Result<(), Unsupported> {
    match operand.dtype() {
        None => Err(Unsupported(format!("does not quantise to {operand}"))),
        Some(dtype) if !dtype.fits_f32() => {
            Err(Unsupported(format!("computes in f32, which does not fill {operand}")))
        }
        Some(DType::F8E4M3 | DType::F8E5M2) if !caps.has(Isa::ConvertFp8) => {
            Err(Unsupported(format!("{} has no conversion to {operand}", caps.target)))
        }
        Some(_) => Ok(()),
    }
}

/// The number of a pointwise activation in `epilogue.cuh`.
pub(super) fn activation_code(activation: Activation) -> i32 {
    match activation.pointwise() {
        Activation::Relu => 1,
        Activation::Silu => 2,
        Activation::Gelu => 3,
        Activation::GeluTanh => 4,
        Activation::Identity | Activation::SwiGlu | Activation::GeGlu => 0,
    }
}
