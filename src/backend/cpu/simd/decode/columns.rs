//! Sixteen rows at a time to columns: their words are transposed, and taken apart there.

use std::arch::x86_64::*;

use super::scales::{RowScales, scaled};
use super::words::Words;
use super::{HALF, SIDE};
use crate::backend::cpu::simd::prefetch_line;
use crate::backend::cpu::simd::weights::Weights;

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
        let mut scales = rows.scales().map(|scales| RowScales::new(scales, i, ahead));
        for first in (0..words).step_by(SIDE) {
            let count = (words - first).min(SIDE);
            let there = (1u32 << count).wrapping_sub(1) as u16;
            // SAFETY: the level is present; words first .. first + count of rows i .. i + 16, and
            // places for their elements.
            unsafe {
                let from = rows.start_of(i).cast::<i32>().wrapping_add(first);
                let mut side = [_mm512_setzero_si512(); SIDE];
                if count <= HALF {
                    let mut halves = [_mm512_setzero_si512(); HALF];
                    for (r, words) in halves.iter_mut().enumerate() {
                        let row = r / 4 * HALF + r % 4;
                        let half = |row: usize| {
                            let from = from.byte_add(row * rows.row_bytes());
                            _mm256_maskz_loadu_epi32(there as u8, from)
                        };
                        *words = _mm512_castsi256_si512(half(row));
                        *words = _mm512_inserti64x4::<1>(*words, half(row + 4));
                    }
                    side[..HALF].copy_from_slice(&transposed_half(halves));
                } else {
                    for (r, words) in side.iter_mut().enumerate() {
                        let from = from.byte_add(r * rows.row_bytes());
                        *words = _mm512_maskz_loadu_epi32(there, from);
                    }
                    side = transposed(side);
                }
                // Behind what is read now: a processor waits for a few lines at a time, and those from
                // memory would leave no room for those from a cache.
                if ahead > 0 {
                    for row in ahead..ahead + SIDE {
                        prefetch_line(from.cast::<u8>().wrapping_add(row * rows.row_bytes()));
                    }
                }
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

/// Word `c` of sixteen rows for each `c`.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn transposed(r: [__m512i; SIDE]) -> [__m512i; SIDE] {
    // SAFETY: the caller's promise.
    unsafe {
        let fours = [fours(&r, 0), fours(&r, 4), fours(&r, 8), fours(&r, 12)];
        let mut out = r;
        for c in 0..4 {
            let (p, q) = (fours[0][c], fours[1][c]);
            let (s, t) = (fours[2][c], fours[3][c]);
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

/// The same of eight words: each vector has those of two rows, four apart, beginning with rows 0 to
/// 3 and 8 to 11.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn transposed_half(r: [__m512i; HALF]) -> [__m512i; HALF] {
    // SAFETY: the caller's promise.
    unsafe {
        let fours = [fours(&r, 0), fours(&r, 4)];
        let mut out = r;
        for c in 0..4 {
            let (p, q) = (fours[0][c], fours[1][c]);
            out[c] = _mm512_shuffle_i32x4::<0x88>(p, q);
            out[4 + c] = _mm512_shuffle_i32x4::<0xDD>(p, q);
        }
        out
    }
}

/// Of four vectors from `first` on, word `c` of each quarter side by side, for each `c` below 4.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn fours(r: &[__m512i], first: usize) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let [p, q, s, t] = [r[first], r[first + 1], r[first + 2], r[first + 3]];
        let (a, b) = (_mm512_unpacklo_epi32(p, q), _mm512_unpackhi_epi32(p, q));
        let (c, d) = (_mm512_unpacklo_epi32(s, t), _mm512_unpackhi_epi32(s, t));
        [
            _mm512_unpacklo_epi64(a, c),
            _mm512_unpackhi_epi64(a, c),
            _mm512_unpacklo_epi64(b, d),
            _mm512_unpackhi_epi64(b, d),
        ]
    }
}
