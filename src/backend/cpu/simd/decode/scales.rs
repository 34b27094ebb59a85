//! Scales of blocks in vectors.

use std::arch::x86_64::*;

use super::SIDE;
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

/// Where the scales of a row from a block on are, and a bit for each of up to sixteen.
#[inline(always)]
fn place(scales: &Scales<'_>, row: usize, block: usize) -> (*const u8, u16) {
    let count = (scales.columns - block).min(SIDE);
    let at = row / scales.block_rows * scales.columns + block;
    let from = scales.bytes.as_ptr().wrapping_add(at * scales.dtype.size());
    (from, (1u32 << count).wrapping_sub(1) as u16)
}

/// The bytes of the scales of up to sixteen blocks of a row from one on.
///
/// # Safety
/// The level is present, the row has the first of them, and a scale is a byte.
#[inline(always)]
pub(super) unsafe fn some_bytes(scales: &Scales<'_>, row: usize, block: usize) -> __m128i {
    let (from, there) = place(scales, row, block);
    // SAFETY: `Weights::new` has seen that there are scales for each row.
    unsafe { _mm_maskz_loadu_epi8(there, from.cast()) }
}

/// The scales of up to sixteen blocks of a row from one on.
///
/// # Safety
/// The level is present, and the row has the first of them.
#[inline(always)]
pub(super) unsafe fn some(scales: &Scales<'_>, row: usize, block: usize) -> __m512 {
    // SAFETY: `Weights::new` has seen that there are scales for each row.
    unsafe {
        if scales.dtype == DType::F32 {
            let (from, there) = place(scales, row, block);
            return _mm512_castsi512_ps(_mm512_maskz_loadu_epi32(there, from.cast()));
        }
        values_of(scales.dtype, _mm512_cvtepu8_epi32(some_bytes(scales, row, block)))
    }
}

/// The values of scales of a byte.
///
/// # Safety
/// The level is present.
#[inline(always)]
pub(super) unsafe fn values_of(dtype: DType, bytes: __m512i) -> __m512 {
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
