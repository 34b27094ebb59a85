//! Rows of FP4 to rows of f32, sixteen elements at a time.

use std::arch::x86_64::*;

use super::SIDE;
use crate::backend::cpu::simd::unpack::{Fp4Table, Stored};
use crate::backend::cpu::simd::weights::Weights;
use crate::backend::cpu::simd::{LINE, prefetch_line};

/// As [`super::rows`], of FP4; `MULTISHIFT` where there is VBMI. What a scale makes of each code is
/// exact; the tensor scale rounds.
///
/// # Safety
/// The level is present, and what [`super::rows`] asserts.
#[inline(always)]
pub(super) unsafe fn fp4<const MULTISHIFT: bool>(
    rows: &Weights<'_>,
    ahead: usize,
    dst: &mut [f32],
    stride: usize,
) -> usize {
    let Some(scales) = rows.scales().filter(|_| rows.k().is_multiple_of(SIDE)) else { return 0 };
    let Some(table) = Fp4Table::plain(scales.dtype) else { return 0 };
    // As many as scales, but for the sign that UE4M3 has not.
    let (table, last) = (table.rows(), table.rows().len() - 1);
    // Scales are for 16 or 32 elements.
    let halves = scales.block_k / SIDE - 1;
    let (parts, code_bytes) = (rows.k() / SIDE, SIDE / 2);
    for i in 0..rows.len() {
        // SAFETY: row i is one of these.
        let Stored { codes, scales: scale } = unsafe { rows.fp4_row(i) };
        if ahead > 0 {
            let (codes, scales) = (codes.wrapping_add(ahead * rows.row_bytes()), scales.columns);
            for at in (0..parts * code_bytes).step_by(LINE) {
                prefetch_line(codes.wrapping_add(at));
            }
            prefetch_line(scale.wrapping_add(ahead * scales));
        }
        let to = dst.as_mut_ptr().wrapping_add(i * stride);
        let put = |part: usize| {
            // SAFETY: sixteen elements of row i, their scale and places; the level is present. The
            // look-up takes the low four bits of each lane.
            unsafe {
                let scale = usize::from(*scale.add(part >> halves));
                let products = table.as_ptr().add(scale & last);
                let codes = codes_of::<MULTISHIFT>(codes.add(part * code_bytes));
                let value = _mm512_permutexvar_ps(codes, _mm512_load_ps(products.cast()));
                let value = _mm512_mul_ps(value, _mm512_set1_ps(scales.factor));
                _mm512_storeu_ps(to.add(part * SIDE), value);
            }
        };
        /// Parts that are written out: a row has four or eight mostly.
        const AT_ONCE: usize = 4;
        let whole = parts / AT_ONCE * AT_ONCE;
        for first in (0..whole).step_by(AT_ONCE) {
            for part in first..first + AT_ONCE {
                put(part);
            }
        }
        (whole..parts).for_each(put);
    }
    rows.len()
}

/// Sixteen codes, each in the low four bits of a lane.
///
/// # Safety
/// The level is present, and `from` valid for eight bytes.
#[inline(always)]
unsafe fn codes_of<const MULTISHIFT: bool>(from: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        if MULTISHIFT {
            let codes = _mm512_set1_epi64(from.cast::<i64>().read_unaligned());
            // From which bit on the lowest byte of each lane is taken.
            let first =
                _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60);
            return _mm512_multishift_epi64_epi8(first, codes);
        }
        let halves = from.cast::<i32>();
        let low = _mm512_set1_epi32(halves.read_unaligned());
        let codes = _mm512_mask_set1_epi32(low, 0xFF00, halves.add(1).read_unaligned());
        let shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
        _mm512_srlv_epi32(codes, shifts)
    }
}
