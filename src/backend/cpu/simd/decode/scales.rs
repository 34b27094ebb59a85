//! Scales of blocks in vectors.

use std::arch::x86_64::*;

use super::SIDE;
use crate::backend::cpu::simd::prefetch_line;
use crate::backend::cpu::simd::weights::Scales;
use crate::num::DType;

/// `(value · scale) · g`
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
pub(super) unsafe fn scaled(value: __m512, scale: Option<(__m512, f32)>) -> __m512 {
    match scale {
        // SAFETY: the caller's promise.
        Some((scale, g)) => unsafe {
            _mm512_mul_ps(_mm512_mul_ps(value, scale), _mm512_set1_ps(g))
        },
        None => value,
    }
}

/// The scales of sixteen rows, block by block: of each row a word of four bytes is read, with one
/// scale or four.
pub(super) struct RowScales<'a> {
    scales: &'a Scales<'a>,
    /// Where those of each row start.
    starts: [usize; SIDE],
    /// To the rows that are asked for, if that is not 0.
    ahead: usize,
    words: __m512i,
    /// Those of a block, which ends at an element.
    values: __m512,
    block: usize,
    end: usize,
}

impl<'a> RowScales<'a> {
    #[inline(always)]
    pub(super) fn new(scales: &'a Scales<'a>, first_row: usize, ahead: usize) -> Self {
        let row_bytes = scales.columns * scales.dtype.size();
        let mut starts = [0; SIDE];
        for (row, start) in (first_row..).zip(&mut starts) {
            *start = scales.row(row) * row_bytes;
        }
        let ahead = scales.row(ahead) * row_bytes;
        // SAFETY: any bits are values of these types.
        let (words, values) = unsafe { std::mem::zeroed() };
        RowScales { scales, starts, ahead, words, values, block: 0, end: 0 }
    }

    /// Those of element `l`, with the tensor scale; `l` does not become less from call to call.
    ///
    /// # Safety
    /// The level is present, and the rows have the element.
    #[inline(always)]
    pub(super) unsafe fn of(&mut self, l: usize) -> (__m512, f32) {
        while self.end <= l {
            // SAFETY: the caller's promise.
            unsafe { self.next() };
        }
        (self.values, self.scales.factor)
    }

    /// Those of the next block.
    ///
    /// # Safety
    /// The level is present.
    #[inline(always)]
    unsafe fn next(&mut self) {
        let Scales { dtype, block_k, .. } = *self.scales;
        let each = size_of::<u32>() / dtype.size();
        // SAFETY: the caller's promise.
        unsafe {
            if self.block.is_multiple_of(each) {
                self.words = self.read(self.block * dtype.size());
            }
            self.values = match each {
                1 => _mm512_castsi512_ps(self.words),
                _ => {
                    let shift = _mm_cvtsi32_si128(8 * (self.block % each) as i32);
                    let byte = _mm512_srl_epi32(self.words, shift);
                    values_of(dtype, _mm512_and_si512(byte, _mm512_set1_epi32(0xFF)))
                }
            };
        }
        self.block += 1;
        self.end = self.end.saturating_add(block_k);
    }

    /// Words of each row; behind the last scale there may be none.
    ///
    /// # Safety
    /// AVX-512 F.
    #[inline(always)]
    unsafe fn read(&self, at: usize) -> __m512i {
        let (bytes, mut words) = (self.scales.bytes, [[0; size_of::<u32>()]; SIDE]);
        for (start, word) in self.starts.iter().zip(&mut words) {
            let from = bytes.get(start + at..).unwrap_or_default();
            match from.first_chunk() {
                Some(whole) => *word = *whole,
                None => word[..from.len()].copy_from_slice(from),
            }
            if self.ahead > 0 {
                prefetch_line(from.as_ptr().wrapping_add(self.ahead));
            }
        }
        // SAFETY: the caller's promise; sixteen words.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }
}

/// The values of scales of a byte.
///
/// # Safety
/// The level is present.
#[inline(always)]
unsafe fn values_of(dtype: DType, bytes: __m512i) -> __m512 {
    // SAFETY: the level is present; the exponent of UE4M3 is biased by 7, that of f32 by 127.
    unsafe {
        if dtype == DType::UE4M3 {
            let bytes = _mm512_and_si512(bytes, _mm512_set1_epi32(0x7F));
            let nan = _mm512_cmpeq_epi32_mask(bytes, _mm512_set1_epi32(0x7F));
            let bits = _mm512_castsi512_ps(_mm512_slli_epi32::<20>(bytes));
            let values = _mm512_mul_ps(bits, _mm512_set1_ps(2f32.powi(120)));
            return _mm512_mask_mov_ps(values, nan, _mm512_set1_ps(f32::NAN));
        }
        let nan = _mm512_cmpeq_epi32_mask(bytes, _mm512_set1_epi32(0xFF));
        let least = _mm512_testn_epi32_mask(bytes, bytes);
        let bits = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(bytes));
        let values = _mm512_mask_mov_ps(bits, least, _mm512_set1_ps(2f32.powi(-127)));
        _mm512_mask_mov_ps(values, nan, _mm512_set1_ps(f32::NAN))
    }
}
