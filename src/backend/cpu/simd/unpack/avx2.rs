//! Eight lanes at a time.

use std::arch::x86_64::*;

use super::super::x86::Avx2;
use super::{Bf16, E4m3, E5m2, F16, Mxfp4, Nvfp4, Unpack};

impl Unpack<Avx2> for Bf16 {
    type Raw = *const u8;

    #[inline(always)]
    unsafe fn load(codes: *const u8, _scales: *const u8, _factor: f32, pass: usize) -> *const u8 {
        codes.wrapping_add(16 * pass)
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>(raw: *const u8) -> Avx2 {
        // SAFETY: 16 bytes of a group of 64.
        unsafe {
            let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(raw.add(32 * STEP).cast()));
            Avx2(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)))
        }
    }
}

impl Unpack<Avx2> for F16 {
    type Raw = *const u8;

    #[inline(always)]
    unsafe fn load(codes: *const u8, _scales: *const u8, _factor: f32, pass: usize) -> *const u8 {
        codes.wrapping_add(16 * pass)
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>(raw: *const u8) -> Avx2 {
        // SAFETY: 16 bytes of a group of 64.
        unsafe { Avx2(_mm256_cvtph_ps(_mm_loadu_si128(raw.add(32 * STEP).cast()))) }
    }
}

/// A scale of FP8 codes in all lanes.
///
/// # Safety
/// AVX2; four readable bytes.
#[inline(always)]
unsafe fn f32_scale(scale: *const u8) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_set1_ps(scale.cast::<f32>().read_unaligned()) }
}

impl Unpack<Avx2> for E4m3 {
    type Raw = (*const u8, __m256);

    #[inline(always)]
    unsafe fn load(codes: *const u8, scales: *const u8, _factor: f32, pass: usize) -> Self::Raw {
        // SAFETY: four bytes of scale.
        (codes.wrapping_add(8 * pass), unsafe { f32_scale(scales) })
    }

    /// E4M3 has f16's layout with a shorter exponent field and mantissa: shifted into place its
    /// value is 2⁸ times too small, for the biases are 7 and 15.
    #[inline(always)]
    unsafe fn value<const STEP: usize>((codes, scale): Self::Raw) -> Avx2 {
        // SAFETY: 8 bytes of a group of 32.
        unsafe {
            let codes = _mm_cvtepi8_epi16(_mm_loadl_epi64(codes.add(16 * STEP).cast()));
            let magnitude = _mm_set1_epi16(0x7F);
            // All ones is a NaN of f16.
            let nan = _mm_cmpeq_epi16(_mm_and_si128(codes, magnitude), magnitude);
            let half = _mm_and_si128(_mm_slli_epi16::<7>(codes), _mm_set1_epi16(0xBF80u16 as i16));
            let value = _mm256_cvtph_ps(_mm_or_si128(half, nan));
            Avx2(_mm256_mul_ps(_mm256_mul_ps(value, _mm256_set1_ps(256.0)), scale))
        }
    }
}

impl Unpack<Avx2> for E5m2 {
    type Raw = (*const u8, __m256);

    #[inline(always)]
    unsafe fn load(codes: *const u8, scales: *const u8, _factor: f32, pass: usize) -> Self::Raw {
        // SAFETY: four bytes of scale.
        (codes.wrapping_add(8 * pass), unsafe { f32_scale(scales) })
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>((codes, scale): Self::Raw) -> Avx2 {
        // SAFETY: 8 bytes of a group of 32. E5M2 is the upper byte of an f16.
        unsafe {
            let codes = _mm_cvtepu8_epi16(_mm_loadl_epi64(codes.add(16 * STEP).cast()));
            Avx2(_mm256_mul_ps(_mm256_cvtph_ps(_mm_slli_epi16::<8>(codes)), scale))
        }
    }
}

/// Twice the values of the codes at even and at odd nibbles, as signed bytes.
///
/// # Safety
/// AVX2; 32 readable bytes.
#[inline(always)]
unsafe fn fp4_bytes(codes: *const u8) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let doubled = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12,
        ));
        let (codes, nibble) = (_mm256_loadu_si256(codes.cast()), _mm256_set1_epi8(0x0F));
        let even = _mm256_and_si256(codes, nibble);
        let odd = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
        [_mm256_shuffle_epi8(doubled, even), _mm256_shuffle_epi8(doubled, odd)]
    }
}

/// Twice the values at nibble `STEP` of each lane, in units of 2⁻²⁴: in the upper quarter.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn fp4_upper<const STEP: usize>(bytes: [__m256i; 2]) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        // Byte STEP / 2 of each lane to its upper end, zeros below.
        let pick = _mm_set1_epi32(((STEP as i32 / 2) << 24) | 0x80_80_80);
        let pick = _mm_add_epi32(pick, _mm_setr_epi32(0, 4 << 24, 8 << 24, 12 << 24));
        _mm256_shuffle_epi8(bytes[STEP % 2], _mm256_broadcastsi128_si256(pick))
    }
}

impl Unpack<Avx2> for Nvfp4 {
    type Raw = ([__m256i; 2], __m256);

    #[inline(always)]
    unsafe fn load(codes: *const u8, scales: *const u8, factor: f32, pass: usize) -> Self::Raw {
        /// What `fp4_upper` is too large by, and an f16 that holds an E4M3 too small.
        const UNIT: f32 = 256.0 / (1u32 << 25) as f32;
        // SAFETY: 32 of 64 bytes of codes and 4 of 8 of scales, each for two lanes.
        unsafe {
            let bytes = scales.add(4 * pass).cast::<i32>().read_unaligned();
            let bytes = _mm_cvtsi32_si128(bytes & 0x7F7F_7F7F);
            let wide = _mm_cvtepu8_epi16(_mm_unpacklo_epi8(bytes, bytes));
            // All ones is a NaN of f16.
            let nan = _mm_cmpeq_epi16(wide, _mm_set1_epi16(0x7F));
            let half = _mm_or_si128(_mm_slli_epi16::<7>(wide), nan);
            let scale = _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(factor * UNIT));
            (fp4_bytes(codes.add(32 * pass)), scale)
        }
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>((bytes, scales): Self::Raw) -> Avx2 {
        // SAFETY: the level is present.
        unsafe { Avx2(_mm256_mul_ps(_mm256_cvtepi32_ps(fp4_upper::<STEP>(bytes)), scales)) }
    }
}

impl Unpack<Avx2> for Mxfp4 {
    type Raw = ([__m256i; 2], __m256);

    #[inline(always)]
    unsafe fn load(codes: *const u8, scales: *const u8, factor: f32, pass: usize) -> Self::Raw {
        // SAFETY: 32 of 64 bytes of codes and 2 of 4 of scales, each for four lanes.
        unsafe {
            let bytes = scales.add(2 * pass).cast::<u16>().read_unaligned();
            let bytes = _mm_cvtsi32_si128(i32::from(bytes));
            let spread = _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1);
            let wide = _mm256_cvtepu8_epi32(_mm_shuffle_epi8(bytes, spread));
            // Half of 2^(code − 127), for `fp4_bytes` are twice the values. Codes 0 and 1 make
            // subnormal numbers, 255 is NaN.
            let is = |code| _mm256_cmpeq_epi32(wide, _mm256_set1_epi32(code));
            let bits = _mm256_slli_epi32::<23>(_mm256_sub_epi32(wide, _mm256_set1_epi32(1)));
            let bits = _mm256_blendv_epi8(bits, _mm256_set1_epi32(1 << 21), is(0));
            let bits = _mm256_blendv_epi8(bits, _mm256_set1_epi32(1 << 22), is(1));
            let bits = _mm256_or_si256(bits, is(255));
            let scale = _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(factor));
            (fp4_bytes(codes.add(32 * pass)), scale)
        }
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>((bytes, scales): Self::Raw) -> Avx2 {
        // SAFETY: the level is present.
        unsafe {
            // Sign-extended rather than left in the upper quarter: the smallest scales have no
            // room for a factor of 2⁻²⁴.
            let integers = _mm256_srai_epi32::<24>(fp4_upper::<STEP>(bytes));
            Avx2(_mm256_mul_ps(_mm256_cvtepi32_ps(integers), scales))
        }
    }
}
