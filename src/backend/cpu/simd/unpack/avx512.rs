//! Sixteen lanes at a time.

use std::arch::x86_64::*;

use super::super::x86::Avx512;
use super::{Bf16, E4m3, E5m2, F16, Mxfp4, Nvfp4, Unpack};
use crate::num::E2M1;

impl Unpack<Avx512> for Bf16 {
    type Raw = *const u8;

    #[inline(always)]
    unsafe fn load(codes: *const u8, _scales: *const u8, _factor: f32, _pass: usize) -> *const u8 {
        codes
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>(raw: *const u8) -> Avx512 {
        // SAFETY: 32 bytes of a group of 64.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(raw.add(32 * STEP).cast()));
            Avx512(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)))
        }
    }
}

impl Unpack<Avx512> for F16 {
    type Raw = *const u8;

    #[inline(always)]
    unsafe fn load(codes: *const u8, _scales: *const u8, _factor: f32, _pass: usize) -> *const u8 {
        codes
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>(raw: *const u8) -> Avx512 {
        // SAFETY: 32 bytes of a group of 64.
        unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(raw.add(32 * STEP).cast()))) }
    }
}

/// Sixteen E4M3 codes, in units of 2⁻⁸: E4M3 has f16's layout with a shorter exponent field and
/// mantissa, and the biases are 7 and 15.
///
/// # Safety
/// AVX-512 F, BW and VL.
#[inline(always)]
unsafe fn e4m3(codes: __m128i) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let codes = _mm256_cvtepi8_epi16(codes);
        let magnitude = _mm256_set1_epi16(0x7F);
        let rest = _mm256_and_si256(codes, magnitude);
        let nan = _mm256_cmpeq_epi16_mask(rest, magnitude);
        let half =
            _mm256_and_si256(_mm256_slli_epi16::<7>(codes), _mm256_set1_epi16(0xBF80u16 as i16));
        _mm512_cvtph_ps(_mm256_mask_mov_epi16(half, nan, _mm256_set1_epi16(0x7E00)))
    }
}

/// A scale of FP8 codes in all lanes.
///
/// # Safety
/// AVX-512 F; four readable bytes.
#[inline(always)]
unsafe fn f32_scale(scale: *const u8) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_set1_ps(scale.cast::<f32>().read_unaligned()) }
}

impl Unpack<Avx512> for E4m3 {
    type Raw = (*const u8, __m512);

    #[inline(always)]
    unsafe fn load(codes: *const u8, scales: *const u8, _factor: f32, _pass: usize) -> Self::Raw {
        // SAFETY: four bytes of scale.
        (codes, unsafe { f32_scale(scales) })
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>((codes, scale): Self::Raw) -> Avx512 {
        // SAFETY: 16 bytes of a group of 32.
        unsafe {
            let value = e4m3(_mm_loadu_si128(codes.add(16 * STEP).cast()));
            Avx512(_mm512_mul_ps(_mm512_mul_ps(value, _mm512_set1_ps(256.0)), scale))
        }
    }
}

impl Unpack<Avx512> for E5m2 {
    type Raw = (*const u8, __m512);

    #[inline(always)]
    unsafe fn load(codes: *const u8, scales: *const u8, _factor: f32, _pass: usize) -> Self::Raw {
        // SAFETY: four bytes of scale.
        (codes, unsafe { f32_scale(scales) })
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>((codes, scale): Self::Raw) -> Avx512 {
        // SAFETY: 16 bytes of a group of 32. E5M2 is the upper byte of an f16.
        unsafe {
            let codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(codes.add(16 * STEP).cast()));
            Avx512(_mm512_mul_ps(_mm512_cvtph_ps(_mm256_slli_epi16::<8>(codes)), scale))
        }
    }
}

/// The codes at nibble `STEP` of each lane, times the scales.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn fp4<const STEP: usize>(codes: __m512i, scales: __m512) -> Avx512 {
    // SAFETY: the caller's promise; the table has 16 values.
    unsafe {
        let values = _mm512_loadu_ps(E2M1::VALUES.as_ptr());
        // The look-up takes the low four bits of each lane.
        let shifted = _mm512_srl_epi32(codes, _mm_cvtsi32_si128(4 * STEP as i32));
        Avx512(_mm512_mul_ps(_mm512_permutexvar_ps(shifted, values), scales))
    }
}

impl Unpack<Avx512> for Nvfp4 {
    type Raw = (__m512i, __m512);

    #[inline(always)]
    unsafe fn load(codes: *const u8, scales: *const u8, factor: f32, _pass: usize) -> Self::Raw {
        // SAFETY: 64 bytes of codes and 8 of scales, each for two lanes.
        unsafe {
            let bytes = _mm_loadl_epi64(scales.cast());
            let magnitude = _mm_and_si128(_mm_unpacklo_epi8(bytes, bytes), _mm_set1_epi8(0x7F));
            let wide = _mm256_cvtepu8_epi16(magnitude);
            // All ones is a NaN of f16.
            let nan = _mm256_cmpeq_epi16(wide, _mm256_set1_epi16(0x7F));
            let half = _mm256_or_si256(_mm256_slli_epi16::<7>(wide), nan);
            let scale = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0 * factor));
            (_mm512_loadu_si512(codes.cast()), scale)
        }
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>((codes, scales): Self::Raw) -> Avx512 {
        // SAFETY: the level is present.
        unsafe { fp4::<STEP>(codes, scales) }
    }
}

impl Unpack<Avx512> for Mxfp4 {
    type Raw = (__m512i, __m512);

    #[inline(always)]
    unsafe fn load(codes: *const u8, scales: *const u8, factor: f32, _pass: usize) -> Self::Raw {
        // SAFETY: 64 bytes of codes and 4 of scales, each for four lanes.
        unsafe {
            let bytes = _mm_cvtsi32_si128(scales.cast::<i32>().read_unaligned());
            let spread = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            let wide = _mm512_cvtepu8_epi32(_mm_shuffle_epi8(bytes, spread));
            // Code 0 is 2⁻¹²⁷, below the normal numbers; 255 is NaN.
            let edge = _mm512_cmpeq_epi32_mask(wide, _mm512_setzero_si512())
                | _mm512_cmpeq_epi32_mask(wide, _mm512_set1_epi32(255));
            let bits = _mm512_slli_epi32::<23>(wide);
            let bits = _mm512_mask_or_epi32(bits, edge, bits, _mm512_set1_epi32(1 << 22));
            let scale = _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(factor));
            (_mm512_loadu_si512(codes.cast()), scale)
        }
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>((codes, scales): Self::Raw) -> Avx512 {
        // SAFETY: the level is present.
        unsafe { fp4::<STEP>(codes, scales) }
    }
}
