//! Sixteen rows at a time to columns: their words are transposed, and taken apart there.

use std::arch::x86_64::*;

use super::SIDE;
use super::scales::{scaled, some, some_bytes, values_of};
use super::words::Words;
use crate::backend::cpu::simd::weights::{Scales, Weights};
use crate::num::DType;

// Of functions with closures that the standard library calls, intrinsics become calls: the
// library's are not compiled for the level. So arrays are filled by loops.

/// As [`super::columns`], of one kind of words.
///
/// # Safety
/// The level is present, and what [`super::columns`] asserts.
#[inline(always)]
pub(super) unsafe fn columns<W: Words>(
    rows: &Weights<'_>,
    ahead: usize,
    dst: &mut [f32],
    stride: usize,
) -> usize {
    let (words, whole) = (rows.k() / W::ELEMENTS, rows.len() / SIDE * SIDE);
    if !rows.k().is_multiple_of(W::ELEMENTS) {
        return 0;
    }
    for i in (0..whole).step_by(SIDE) {
        let mut scales = rows.scales().map(|scales| RowScales::new(scales, i));
        if ahead > 0 {
            (i..i + SIDE).for_each(|row| rows.prefetch_row(row + ahead));
        }
        for first in (0..words).step_by(SIDE) {
            let count = (words - first).min(SIDE);
            let there = (1u32 << count).wrapping_sub(1) as u16;
            // SAFETY: the level is present; words first .. first + count of rows i .. i + 16, and
            // places for their elements.
            unsafe {
                let mut side = [_mm512_setzero_si512(); SIDE];
                let from = rows.start_of(i).cast::<i32>().wrapping_add(first);
                for (r, words) in side.iter_mut().enumerate() {
                    *words = _mm512_maskz_loadu_epi32(there, from.byte_add(r * rows.row_bytes()));
                }
                let side = transposed(side);
                let to = dst.as_mut_ptr().add(first * W::ELEMENTS * stride + i);
                match &mut scales {
                    None if count == SIDE => put::<W>(side, SIDE, to, stride),
                    None => put::<W>(side, count, to, stride),
                    Some(scales) => {
                        for (w, &words) in side[..count].iter().enumerate() {
                            let scale = scales.of((first + w) * W::ELEMENTS);
                            let to = to.add(w * W::ELEMENTS * stride);
                            split::<W>(words, Some(scale), to, stride);
                        }
                    }
                }
            }
        }
    }
    whole
}

/// The elements of the first words, a row each; written out where their number is a constant.
///
/// # Safety
/// The level is present, and `to` has the rows.
#[inline(always)]
unsafe fn put<W: Words>(side: [__m512i; SIDE], count: usize, to: *mut f32, stride: usize) {
    for (w, &words) in side[..count].iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { split::<W>(words, None, to.add(w * W::ELEMENTS * stride), stride) };
    }
}

/// The scales of sixteen rows: those of sixteen blocks of each, transposed.
struct RowScales<'a> {
    scales: &'a Scales<'a>,
    first_row: usize,
    /// Which sixteen blocks.
    part: Option<usize>,
    values: [[f32; SIDE]; SIDE],
}

impl<'a> RowScales<'a> {
    #[inline(always)]
    fn new(scales: &'a Scales<'a>, first_row: usize) -> Self {
        RowScales { scales, first_row, part: None, values: [[1.0; SIDE]; SIDE] }
    }

    /// Those of element `l`, with the tensor scale.
    ///
    /// # Safety
    /// The level is present, and the rows have the element.
    #[inline(always)]
    unsafe fn of(&mut self, l: usize) -> (__m512, f32) {
        let block = l / self.scales.block_k;
        let part = block / SIDE;
        // SAFETY: the caller's promise.
        unsafe {
            if self.part != Some(part) {
                self.part = Some(part);
                self.read(part * SIDE);
            }
            (_mm512_loadu_ps(self.values[block % SIDE].as_ptr()), self.scales.factor)
        }
    }

    /// # Safety
    /// The level is present, and the rows have the first of the blocks.
    #[inline(always)]
    unsafe fn read(&mut self, first: usize) {
        let bytes = self.scales.dtype != DType::F32;
        // SAFETY: the caller's promise.
        unsafe {
            let mut side = [_mm512_setzero_si512(); SIDE];
            for (r, side) in side.iter_mut().enumerate() {
                let row = self.first_row + r;
                *side = match bytes {
                    true => _mm512_castsi128_si512(some_bytes(self.scales, row, first)),
                    false => _mm512_castps_si512(some(self.scales, row, first)),
                };
            }
            let side = transposed(side);
            for (block, values) in self.values.iter_mut().enumerate() {
                let scales = match bytes {
                    true => {
                        let shift = _mm_cvtsi32_si128(8 * (block % 4) as i32);
                        let byte = _mm512_srl_epi32(side[block / 4], shift);
                        values_of(
                            self.scales.dtype,
                            _mm512_and_si512(byte, _mm512_set1_epi32(0xFF)),
                        )
                    }
                    false => _mm512_castsi512_ps(side[block]),
                };
                _mm512_storeu_ps(values.as_mut_ptr(), scales);
            }
        }
    }
}

/// The elements of sixteen words, a row each.
///
/// # Safety
/// The level is present, and `to` has the rows.
#[inline(always)]
unsafe fn split<W: Words>(
    words: __m512i,
    scale: Option<(__m512, f32)>,
    to: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    let words = unsafe { W::ready(words) };
    macro_rules! elements {
        ($($e:literal)*) => {$(
            if $e < W::ELEMENTS {
                // SAFETY: the caller's promise.
                unsafe {
                    let value = scaled(W::element::<$e>(words), scale);
                    _mm512_storeu_ps(to.add($e * stride), value);
                }
            }
        )*};
    }
    elements!(0 1 2 3 4 5 6 7);
}

/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn transposed(r: [__m512i; SIDE]) -> [__m512i; SIDE] {
    // SAFETY: the caller's promise.
    unsafe {
        // Of rows 4g .. 4g + 4: columns c, 4 + c, 8 + c and 12 + c at 4g + c.
        let mut quads = r;
        for g in (0..SIDE).step_by(4) {
            let (a, b) =
                (_mm512_unpacklo_epi32(r[g], r[g + 1]), _mm512_unpackhi_epi32(r[g], r[g + 1]));
            let (c, d) = (
                _mm512_unpacklo_epi32(r[g + 2], r[g + 3]),
                _mm512_unpackhi_epi32(r[g + 2], r[g + 3]),
            );
            quads[g] = _mm512_unpacklo_epi64(a, c);
            quads[g + 1] = _mm512_unpackhi_epi64(a, c);
            quads[g + 2] = _mm512_unpacklo_epi64(b, d);
            quads[g + 3] = _mm512_unpackhi_epi64(b, d);
        }
        let mut out = r;
        for c in 0..4 {
            let (p, q) = (quads[c], quads[4 + c]);
            let (s, t) = (quads[8 + c], quads[12 + c]);
            let (low, high) =
                (_mm512_shuffle_i32x4::<0x44>(p, q), _mm512_shuffle_i32x4::<0xEE>(p, q));
            let (low_2, high_2) =
                (_mm512_shuffle_i32x4::<0x44>(s, t), _mm512_shuffle_i32x4::<0xEE>(s, t));
            out[c] = _mm512_shuffle_i32x4::<0x88>(low, low_2);
            out[4 + c] = _mm512_shuffle_i32x4::<0xDD>(low, low_2);
            out[8 + c] = _mm512_shuffle_i32x4::<0x88>(high, high_2);
            out[12 + c] = _mm512_shuffle_i32x4::<0xDD>(high, high_2);
        }
        out
    }
}
