//! Sixteen lanes at a time.

use std::arch::x86_64::*;

use super::super::x86::Avx512;
use super::{Bf16, E4m3, E5m2, F16, Fp4Row, Mxfp4, Nvfp4, Storage, Stored, Unpack};

impl Unpack<Avx512> for Bf16 {
    type Raw = *const u8;

    #[inline(always)]
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, _pass: usize) -> Self::Raw {
        from.codes
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
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, _pass: usize) -> Self::Raw {
        from.codes
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>(raw: *const u8) -> Avx512 {
        // SAFETY: 32 bytes of a group of 64.
        unsafe { Avx512(_mm512_cvtph_ps(_mm256_loadu_si256(raw.add(32 * STEP).cast()))) }
    }
}

/// 32 E4M3 codes as f16, in units of 2⁻⁸: E4M3 has f16's layout with a shorter exponent field and
/// mantissa, and the biases are 7 and 15.
///
/// # Safety
/// AVX-512 F and BW; 32 readable bytes.
#[inline(always)]
unsafe fn e4m3(codes: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.cast()));
        let magnitude = _mm512_set1_epi16(0x7F);
        let nan = _mm512_cmpeq_epi16_mask(_mm512_and_si512(codes, magnitude), magnitude);
        let fields = _mm512_set1_epi16(0xBF80u16 as i16);
        let half = _mm512_and_si512(_mm512_slli_epi16::<7>(codes), fields);
        _mm512_mask_mov_epi16(half, nan, _mm512_set1_epi16(0x7E00))
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
    type Raw = (__m512i, __m512);

    #[inline(always)]
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, _pass: usize) -> Self::Raw {
        // SAFETY: 32 bytes of codes, four of scale.
        unsafe { (e4m3(from.codes), f32_scale(from.scales)) }
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>((halves, scale): Self::Raw) -> Avx512 {
        // SAFETY: the level is present.
        unsafe {
            let half = match STEP {
                0 => _mm512_castsi512_si256(halves),
                _ => _mm512_extracti64x4_epi64::<1>(halves),
            };
            let value = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0));
            Avx512(_mm512_mul_ps(value, scale))
        }
    }
}

impl Unpack<Avx512> for E5m2 {
    type Raw = (*const u8, __m512);

    #[inline(always)]
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, _pass: usize) -> Self::Raw {
        // SAFETY: four bytes of scale.
        (from.codes, unsafe { f32_scale(from.scales) })
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

/// Codes and scales of a group, and the table of their products.
type Fp4 = (*const u8, *const u8, *const Fp4Row);

/// Block `STEP` of a group: the broadcast is a load and the table an operand, so three
/// instructions unpack, scale, and multiply and add.
///
/// # Safety
/// AVX-512 F; the pointers are a group's, and the table has a row for each scale.
#[inline(always)]
unsafe fn fp4<S: Storage, const STEP: usize>((codes, scales, rows): Fp4) -> Avx512 {
    // SAFETY: the caller's promise: 8 bytes of codes and a scale for each step or two.
    unsafe {
        let codes = _mm512_set1_epi64(codes.add(8 * STEP).cast::<i64>().read_unaligned());
        let shifts = _mm512_setr_epi32(0, 0, 8, 8, 16, 16, 24, 24, 4, 4, 12, 12, 20, 20, 28, 28);
        let row = rows.add(S::row(*scales.add(STEP * super::LANES / S::BLOCK)));
        // The look-up takes the low four bits of each lane.
        let row = _mm512_load_ps(row.cast());
        Avx512(_mm512_permutexvar_ps(_mm512_srlv_epi32(codes, shifts), row))
    }
}

macro_rules! fp4 {
    ($($name:ident),*) => {$(
        impl Unpack<Avx512> for $name {
            type Raw = Fp4;

            #[inline(always)]
            unsafe fn load(from: Stored, fp4: *const Fp4Row, _pass: usize) -> Self::Raw {
                (from.codes, from.scales, fp4)
            }

            #[inline(always)]
            unsafe fn value<const STEP: usize>(raw: Fp4) -> Avx512 {
                // SAFETY: what `load` was promised.
                unsafe { fp4::<$name, STEP>(raw) }
            }
        }
    )*};
}

fp4!(Nvfp4, Mxfp4);
