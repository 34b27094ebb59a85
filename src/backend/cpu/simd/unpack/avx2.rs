//! Eight lanes at a time.

use std::arch::x86_64::*;

use super::super::x86::Avx2;
use super::{Bf16, E4m3, E5m2, F16, Fp4Row, LANES, Mxfp4, Nvfp4, Storage, Stored, Unpack};

impl Unpack<Avx2> for Bf16 {
    type Raw = *const u8;

    #[inline(always)]
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, pass: usize) -> Self::Raw {
        from.codes.wrapping_add(16 * pass)
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
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, pass: usize) -> Self::Raw {
        from.codes.wrapping_add(16 * pass)
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
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, pass: usize) -> Self::Raw {
        // SAFETY: four bytes of scale.
        (from.codes.wrapping_add(8 * pass), unsafe { f32_scale(from.scales) })
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
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, pass: usize) -> Self::Raw {
        // SAFETY: four bytes of scale.
        (from.codes.wrapping_add(8 * pass), unsafe { f32_scale(from.scales) })
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

/// Half a group: twice the values of its codes as signed bytes in the order of lanes, and its
/// scales with the table of their products with codes.
#[derive(Clone, Copy)]
pub(in super::super) struct Fp4 {
    doubled: [u8; 32],
    scales: *const u8,
    rows: *const Fp4Row,
}

/// The codes of a group at even nibbles (`pass` 0) or odd ones.
///
/// # Safety
/// AVX2; 32 readable bytes.
#[inline(always)]
unsafe fn fp4_doubled(codes: *const u8, pass: usize) -> [u8; 32] {
    // SAFETY: the caller's promise.
    unsafe {
        let both = |half| _mm256_broadcastsi128_si256(half);
        // Of each block's eight bytes, those of the first and of the second half in turn.
        let order = both(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
        let table = both(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
        let codes = _mm256_shuffle_epi8(_mm256_loadu_si256(codes.cast()), order);
        let codes = if pass == 0 { codes } else { _mm256_srli_epi16::<4>(codes) };
        let doubled = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, _mm256_set1_epi8(0x0F)));
        let mut bytes = [0; 32];
        _mm256_storeu_si256(bytes.as_mut_ptr().cast(), doubled);
        bytes
    }
}

/// Half a block: integers times half the scale, which is its product with code 1.
///
/// # Safety
/// AVX2; the table has a row for each scale.
#[inline(always)]
unsafe fn fp4<S: Storage, const STEP: usize>(raw: &Fp4) -> Avx2 {
    // SAFETY: the caller's promise: 8 bytes and a scale for each step or two.
    unsafe {
        let integers =
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(raw.doubled.as_ptr().add(8 * STEP).cast()));
        let row = raw.rows.add(S::row(*raw.scales.add(STEP * LANES / S::BLOCK)));
        let half = _mm256_broadcast_ss(&(*row).0[1]);
        Avx2(_mm256_mul_ps(_mm256_cvtepi32_ps(integers), half))
    }
}

macro_rules! fp4 {
    ($($name:ident),*) => {$(
        impl Unpack<Avx2> for $name {
            type Raw = Fp4;

            #[inline(always)]
            unsafe fn load(from: Stored, fp4: *const Fp4Row, pass: usize) -> Self::Raw {
                // SAFETY: 32 bytes of codes.
                Fp4 { doubled: unsafe { fp4_doubled(from.codes, pass) }, scales: from.scales, rows: fp4 }
            }

            #[inline(always)]
            unsafe fn value<const STEP: usize>(raw: Fp4) -> Avx2 {
                // SAFETY: what `load` was promised.
                unsafe { fp4::<$name, STEP>(&raw) }
            }
        }
    )*};
}

fp4!(Nvfp4, Mxfp4);
