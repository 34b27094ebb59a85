//! Matrices that are multiplied: plain elements, or codes and their scales.

use bytemuck::{Pod, Zeroable};

use super::args::{BATCH_RANK, Matrix};
use super::gpu::Call;
use crate::error::{Error, Result};
use crate::format::{BlockLayout, ScaleLayout, WHOLE};
use crate::memory::{Access, Region};
use crate::num::DType;
use crate::op::{Operand, Scaled};

/// `Scales`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Scales {
    address: u64,
    pub tensor: u64,
    batch: [i64; BATCH_RANK],
    rows: i32,
    cols: i32,
    row_shift: i32,
    col_shift: i32,
    row_scales: i32,
    tiled: i32,
    words: i32,
    factors: i32,
}

impl Scales {
    /// No scales.
    pub const NONE: Scales = Scales {
        address: 0,
        tensor: 0,
        batch: [0; BATCH_RANK],
        // Compilers may divide by them before they ask whether there are scales.
        rows: 1,
        cols: 1,
        row_shift: 0,
        col_shift: 0,
        row_scales: 1,
        tiled: 0,
        words: 0,
        factors: 0,
    };

    /// Whether rows of them are whole, aligned words of four.
    pub fn are_words(&self) -> bool {
        self.words != 0 && self.row_scales % 4 == 0
    }
}

/// A matrix and its scales, as kernels see them; no scales for plain elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub matrix: Matrix,
    pub scales: Scales,
}

impl Source {
    /// Plain elements.
    pub fn plain(matrix: Matrix) -> Self {
        Source { matrix, scales: Scales::NONE }
    }

    /// An input as the matrices `dims` (batch sizes, rows, columns) of an operation. Blocks run
    /// along rows as they are stored, which is what the result means for them: a transposed
    /// one is transposed here too.
    pub fn bind(
        call: &mut Call<'_, '_>,
        arg: &'static str,
        operand: &Operand,
        dims: &[usize],
    ) -> Result<Self> {
        match operand {
            Operand::Dense(_) => {
                Ok(Self::plain(Matrix::bind(call, arg, operand, Access::Read, dims)?))
            }
            Operand::Scaled(scaled) => {
                let source = Self::bind_scaled(call, arg, scaled, Access::Read)?;
                Ok(if scaled.transposed { source.transposed() } else { source })
            }
        }
    }

    /// The same with rows and columns swapped; scales stay along the rows as stored.
    pub fn transposed(self) -> Self {
        Source { matrix: self.matrix.transposed(), ..self }
    }

    /// Codes and scales as they are stored.
    pub fn bind_scaled(
        call: &mut Call<'_, '_>,
        arg: &'static str,
        scaled: &Scaled,
        access: Access,
    ) -> Result<Self> {
        let layout = scaled.layout()?;
        let data = scaled.data.as_ref();
        let data = data.ok_or_else(|| Error::layout("launch", arg, "it has no data"))?;
        let mut bind = |region: &Region, alignment: usize| {
            let address = match access {
                Access::Read => call.input(region)?,
                Access::Write => call.output(region)?,
            };
            if address.is_multiple_of(alignment as u64) {
                return Ok(address);
            }
            let problem = format!("its scales do not begin at a multiple of {alignment} bytes");
            Err(Error::layout("launch", arg, format!("{problem}; copy it")))
        };
        let spec = layout.spec();
        let row = layout.row_bytes() as i64;
        let codes = Matrix::codes(
            bind(&data.codes, 1)?,
            batch_strides(scaled, layout.rows() * layout.row_bytes()),
            row,
            spec.code,
        );
        let tensor = match &data.tensor_scale {
            Some(region) => bind(region, size_of::<f32>())?,
            None => 0,
        };
        let address = bind(&data.scales, spec.scale.size())?;
        let matrix_scales = layout.scales_bytes() / layout.batch().max(1);
        let batch = batch_strides(scaled, matrix_scales);
        let scales = Scales {
            address,
            tensor,
            batch,
            rows: extent(spec.block_rows),
            cols: extent(spec.block_k),
            row_shift: shift(spec.block_rows),
            col_shift: shift(spec.block_k),
            row_scales: layout.scale_cols() as i32,
            tiled: (layout.scale_layout() == ScaleLayout::Tiled128x4).into(),
            words: (spec.scale.size() == 1 && in_words(&layout, address, &batch)).into(),
            factors: match spec.scale {
                DType::F32 => 1,
                DType::E8M0 => 2,
                _ => 0,
            },
        };
        Ok(Source { matrix: codes, scales })
    }
}

/// A block's side, or one that nothing reaches.
fn extent(side: usize) -> i32 {
    if side == WHOLE { i32::MAX } else { side as i32 }
}

/// Log2 of a block's side, or of one that nothing reaches.
fn shift(side: usize) -> i32 {
    if side == WHOLE { i32::BITS as i32 - 1 } else { side.ilog2() as i32 }
}

/// From one matrix to the next, for each batch size; 0 where it is repeated.
fn batch_strides(scaled: &Scaled, matrix: usize) -> [i64; BATCH_RANK] {
    let mut strides = [0; BATCH_RANK];
    let leading = scaled.dims.leading(2);
    let mut stride = matrix as i64;
    for (place, &d) in strides.iter_mut().rev().zip(leading.iter().rev()) {
        if d > 1 {
            *place = stride;
        }
        stride *= d as i64;
    }
    strides
}

/// Whether four scales along k that begin at a multiple of four are an aligned word.
fn in_words(layout: &BlockLayout, address: u64, batch: &[i64]) -> bool {
    let rows = match layout.scale_layout() {
        ScaleLayout::Tiled128x4 => true,
        ScaleLayout::RowMajor => layout.scale_cols().is_multiple_of(4),
    };
    rows && address.is_multiple_of(4) && batch.iter().all(|stride| stride % 4 == 0)
}
