//! Rows of matrices as they are stored: floats, or codes with scales.

use super::stream::{CHUNK, GROUP};
use super::unpack::{Fp4Row, Fp4Table, Mxfp4, Nvfp4, Storage, Stored, fp4_element};
use super::{LANES, Rows, prefetch_from, prefetch_line};
use crate::num::{DType, E8M0, Scalar, UE4M3};

/// What the bytes of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Elements of a float type of two or four bytes.
    Plain(DType),
    /// FP8 with f32, E8M0 or no block scales.
    Fp8(DType),
    /// FP4 with a UE4M3 scale for each 16.
    Nvfp4,
    /// FP4 with an E8M0 scale for each 32.
    Mxfp4,
}

impl Code {
    /// Bits of an element.
    pub fn bits(self) -> usize {
        match self {
            Code::Plain(dtype) => 8 * dtype.size(),
            Code::Fp8(_) => 8,
            Code::Nvfp4 | Code::Mxfp4 => 4,
        }
    }
}

/// Block scales in row-major order.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Their type.
    pub dtype: DType,
    /// Scales in a row.
    pub columns: usize,
    /// Rows that share a scale.
    pub block_rows: usize,
    /// Elements along k that share a scale.
    pub block_k: usize,
    /// The tensor scale.
    pub factor: f32,
    /// Of FP4, for that tensor scale.
    pub fp4: Option<&'a Fp4Table>,
}

/// Rows of elements as they are stored, contiguous along k.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    code: Code,
    bytes: &'a [u8],
    row_bytes: usize,
    /// Bytes of a row's elements.
    width: usize,
    rows: usize,
    k: usize,
    scales: Option<Scales<'a>>,
}

impl<'a> Weights<'a> {
    /// Scales that change nothing.
    pub(super) const NO_SCALES: [f32; CHUNK / 32] = [1.0; CHUNK / 32];

    /// `rows` rows of `k` elements, `row_bytes` apart; `None` where the bytes do not hold them, or
    /// the scales are not what the code has.
    pub fn new(
        code: Code,
        bytes: &'a [u8],
        row_bytes: usize,
        (rows, k): (usize, usize),
        scales: Option<Scales<'a>>,
    ) -> Option<Self> {
        let width = match code {
            Code::Plain(DType::F32) => k.checked_mul(4)?,
            Code::Plain(DType::BF16 | DType::F16) => k.checked_mul(2)?,
            Code::Fp8(DType::F8E4M3 | DType::F8E5M2) => k,
            Code::Nvfp4 | Code::Mxfp4 => k.div_ceil(2),
            _ => return None,
        };
        let last = rows.checked_sub(1)?.checked_mul(row_bytes)?;
        if last.checked_add(width)? > bytes.len() {
            return None;
        }
        if let Some(scales) = &scales {
            let rows = rows.div_ceil(scales.block_rows.max(1));
            let blocks = k.div_ceil(scales.block_k.max(1));
            let need = rows.checked_mul(scales.columns)?.checked_mul(scales.dtype.size())?;
            let whole = scales.block_k.is_multiple_of(GROUP) || scales.block_k >= k;
            let fits = match code {
                Code::Plain(_) => false,
                Code::Fp8(_) => {
                    matches!(scales.dtype, DType::E8M0 | DType::F32)
                        && (whole || scales.block_k == 32)
                        && scales.factor == 1.0
                }
                // The level that reads the codes as integers needs exact halves of the scales.
                Code::Nvfp4 => {
                    let room = 2f32.powi(-90)..2f32.powi(90);
                    let shape = (scales.dtype, scales.block_k, scales.block_rows);
                    let table = scales.has_table::<Nvfp4>();
                    shape == (DType::UE4M3, 16, 1) && room.contains(&scales.factor) && table
                }
                Code::Mxfp4 => {
                    let shape = (scales.dtype, scales.block_k, scales.block_rows);
                    let table = scales.has_table::<Mxfp4>();
                    shape == (DType::E8M0, 32, 1) && scales.factor == 1.0 && table
                }
            };
            if !fits || scales.columns < blocks || need > scales.bytes.len() {
                return None;
            }
        } else if matches!(code, Code::Nvfp4 | Code::Mxfp4) {
            return None;
        }
        Some(Weights { code, bytes, row_bytes, width, rows, k, scales })
    }

    /// `len` of the rows, each `step` after the one before it; `None` where they are not all there,
    /// or share scales.
    pub fn every(&self, first: usize, step: usize, len: usize) -> Option<Self> {
        let last = len.checked_sub(1)?.checked_mul(step)?.checked_add(first)?;
        if last >= self.rows || step == 0 {
            return None;
        }
        let scales = match self.scales {
            Some(scales) if scales.block_rows != 1 => return None,
            Some(scales) => {
                let bytes = &scales.bytes[first * scales.columns * scales.dtype.size()..];
                Some(Scales { bytes, columns: scales.columns * step, ..scales })
            }
            None => None,
        };
        let bytes = &self.bytes[first * self.row_bytes..];
        Some(Weights { bytes, row_bytes: self.row_bytes * step, rows: len, scales, ..*self })
    }

    /// How many rows.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    pub(super) fn code(&self) -> Code {
        self.code
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    pub(super) fn scales(&self) -> Option<&Scales<'a>> {
        self.scales.as_ref()
    }

    /// Where a row's bytes start.
    #[inline(always)]
    pub(super) fn start_of(&self, row: usize) -> *const u8 {
        self.bytes.as_ptr().wrapping_add(row * self.row_bytes)
    }

    /// Has the processor fetch rows that follow `ahead` of these to its second-level cache.
    pub fn prefetch(&self, ahead: usize) {
        (0..self.rows).for_each(|row| self.prefetch_row(row + ahead));
    }

    /// The same for a row, which need not be one of these.
    #[inline(always)]
    pub(super) fn prefetch_row(&self, row: usize) {
        prefetch_from(self.start_of(row), self.width);
        if let Some(scales) = &self.scales {
            let at = scales.row(row) * scales.columns * scales.dtype.size();
            prefetch_line(scales.bytes.as_ptr().wrapping_add(at));
        }
    }

    /// Rows of f32 where they lie.
    pub fn as_f32(&self) -> Option<Rows<'a>> {
        let stride = self.row_bytes / size_of::<f32>();
        let whole = self.row_bytes.is_multiple_of(size_of::<f32>());
        match self.code {
            Code::Plain(DType::F32) if whole => {
                let data = bytemuck::try_cast_slice(self.bytes).ok()?;
                Some(Rows { data, stride, len: self.rows })
            }
            _ => None,
        }
    }

    /// Whether each block of 16 elements is in the order that [`interleave`] makes where [`unpack`]
    /// gives it and [`stream`] multiplies with it.
    pub fn interleaved(&self) -> bool {
        self.is_fp4()
    }

    /// Whether they are NVFP4 or MXFP4.
    pub fn is_fp4(&self) -> bool {
        matches!(self.code, Code::Nvfp4 | Code::Mxfp4)
    }

    /// Where a row of FP4 begins.
    ///
    /// # Safety
    /// The row is one of these, and they are FP4.
    #[inline(always)]
    pub(super) unsafe fn fp4_row(&self, row: usize) -> Stored {
        let none = self.bytes.as_ptr();
        let scales = self
            .scales
            .map_or(none, |scales| scales.bytes.as_ptr().wrapping_add(row * scales.columns));
        // SAFETY: inside, by the caller's promise and `new`.
        Stored { codes: unsafe { self.bytes.as_ptr().add(row * self.row_bytes) }, scales }
    }

    /// The table of FP4's products; null for others.
    pub(super) fn fp4(&self) -> *const Fp4Row {
        let table = self.scales.and_then(|scales| scales.fp4);
        table.map_or(std::ptr::null(), |table| table.rows().as_ptr())
    }

    /// Where elements `first ..` of a row are, `first` a multiple of [`GROUP`]. FP8's scales are
    /// laid out in `scratch`, one for each group of 32; where there are none it holds
    /// [`Weights::NO_SCALES`] before.
    ///
    /// # Safety
    /// The row is one of these, and `first < k`.
    #[inline(always)]
    pub(super) unsafe fn stored(
        &self,
        row: usize,
        first: usize,
        scratch: &mut [f32; CHUNK / 32],
    ) -> Stored {
        let scales = match (self.code, &self.scales) {
            (Code::Nvfp4 | Code::Mxfp4, Some(scales)) => {
                let at = row * scales.columns + first / scales.block_k;
                scales.bytes.as_ptr().wrapping_add(at)
            }
            (Code::Fp8(_), scales) => {
                if let Some(scales) = scales {
                    scales.spread(row, first, self.k, scratch);
                }
                scratch.as_ptr().cast()
            }
            // Plain elements have none, and `new` refuses FP4 without.
            _ => self.bytes.as_ptr(),
        };
        let bits = self.code.bits();
        // SAFETY: inside the row, by the caller's promise and `new`.
        let codes = unsafe { self.bytes.as_ptr().add(row * self.row_bytes + first * bits / 8) };
        Stored { codes, scales }
    }
}

/// Puts the elements of each block of 16 in the order of FP4's lanes, zeros behind the last.
pub fn interleave(src: &[f32], dst: &mut [f32]) {
    let (blocks, rest) = src.as_chunks::<LANES>();
    let (places, _) = dst.as_chunks_mut::<LANES>();
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    let blocks = blocks.iter().chain([&last]).chain(std::iter::repeat(&[0.0; LANES]));
    for (place, block) in places.iter_mut().zip(blocks) {
        *place = std::array::from_fn(|lane| block[fp4_element(lane)]);
    }
}

impl Scales<'_> {
    /// Which row of scales a row has.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> usize {
        match self.block_rows {
            // A division takes as long as a few keys.
            1 => row,
            rows => row / rows,
        }
    }

    fn has_table<S: Storage>(&self) -> bool {
        self.fp4.is_some_and(|table| table.rows().len() == S::ROWS)
    }

    /// The scales of the groups of 32 from element `first` of a row on.
    fn spread(&self, row: usize, first: usize, k: usize, dst: &mut [f32; CHUNK / 32]) {
        let row = self.row(row) * self.columns;
        let (first, groups) = (first / 32, (k - first).div_ceil(32).min(dst.len()));
        if (self.dtype, self.block_k) == (DType::E8M0, 32) {
            let scales = &self.bytes[row + first..][..groups];
            return E8M0::to_f32_slice(bytemuck::cast_slice(scales), &mut dst[..groups]);
        }
        // Groups of a block: a multiple of 32 elements, or all of them.
        let each = if self.block_k >= k { usize::MAX } else { self.block_k / 32 };
        let (mut done, mut block) = (0, first / each);
        while done < groups {
            let end = (block + 1).saturating_mul(each) - first;
            dst[done..end.min(groups)].fill(self.value(row + block));
            (done, block) = (end, block + 1);
        }
    }

    fn value(&self, at: usize) -> f32 {
        match self.dtype {
            DType::E8M0 => E8M0::from_bits(self.bytes[at]).to_f32(),
            DType::UE4M3 => UE4M3::from_bits(self.bytes[at]).to_f32(),
            _ => {
                let bytes = &self.bytes[4 * at..];
                f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
        }
    }
}
