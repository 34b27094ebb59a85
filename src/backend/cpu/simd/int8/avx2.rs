//! Two rows at a time. A sum of four pairs of products is at most 4 · 2 · 24 · 127 and fits 16 bits.

use std::arch::x86_64::*;

use super::super::unpack::Storage;
use super::{DOUBLED, Factor, OFFSET, Packed, Quad, ROWS};

/// Two rows in AVX registers.
pub(super) struct Two;

/// Twice the values of the codes, + 12.
const UNSIGNED: [u8; 16] = {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 16 {
        table[code] = (DOUBLED[code] as i32 + OFFSET) as u8;
        code += 1;
    }
    table
};

/// Sixteen bytes, twice.
///
/// # Safety
/// AVX2; the pointer is valid for 16 bytes.
#[inline(always)]
unsafe fn twice<T>(from: *const T) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast())) }
}

impl Quad for Two {
    const ROWS: usize = 2;

    type Codes = [__m256i; 4];

    type Scales = __m256;

    type Floats = __m256;

    #[inline(always)]
    fn zero() -> __m256 {
        // SAFETY: called at this level only.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn codes(rows: [*const u8; ROWS]) -> [__m256i; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let x = _mm256_castsi256_ps(_mm256_loadu_si256(rows[0].cast()));
            let y = _mm256_castsi256_ps(_mm256_loadu_si256(rows[1].cast()));
            // The halves of blocks, which come in pairs of the one and the other row.
            let in_order = |x| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_castps_si256(x));
            let first = in_order(_mm256_shuffle_ps::<0b10_00_10_00>(x, y));
            let second = in_order(_mm256_shuffle_ps::<0b11_01_11_01>(x, y));
            let (table, low) = (twice(UNSIGNED.as_ptr()), _mm256_set1_epi8(15));
            let look_up = |codes| _mm256_shuffle_epi8(table, _mm256_and_si256(codes, low));
            let high = |codes| look_up(_mm256_srli_epi16::<4>(codes));
            [look_up(first), high(first), look_up(second), high(second)]
        }
    }

    #[inline(always)]
    unsafe fn scales<S: Storage>(rows: [*const u8; ROWS], factor: Factor) -> __m256 {
        // SAFETY: the caller's promise: a scale for each block, or each two.
        unsafe {
            if S::BLOCK == super::BLOCK {
                let four = |row: *const u8| row.cast::<i32>().read_unaligned();
                let bytes = _mm_set_epi32(0, 0, four(rows[1]), four(rows[0]));
                // UE4M3 has f16's layout with a shorter exponent field and mantissa: shifted into
                // place its value is 2⁸ times too small, for the biases are 7 and 15.
                let bits = _mm_and_si128(_mm_cvtepu8_epi16(bytes), _mm_set1_epi16(0x7F));
                let nan = _mm_cmpeq_epi16(bits, _mm_set1_epi16(0x7F));
                let half = _mm_or_si128(_mm_slli_epi16::<7>(bits), nan);
                return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(factor.half * 256.0));
            }
            let two = |row: *const u8| i32::from(row.cast::<i16>().read_unaligned());
            let bytes = _mm_set_epi32(0, 0, two(rows[1]), two(rows[0]));
            let each = _mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 0, 0, 0, 0, 0, 0, 0, 0);
            let exponents = _mm256_cvtepu8_epi32(_mm_shuffle_epi8(bytes, each));
            // 2⁻¹²⁷ has no exponent field, and all ones are NaN.
            let nan = _mm256_cmpeq_epi32(exponents, _mm256_set1_epi32(0xFF));
            let bits = _mm256_slli_epi32::<23>(exponents);
            let bits = _mm256_max_epi32(bits, _mm256_set1_epi32(1 << 22));
            let scales = _mm256_castsi256_ps(_mm256_or_si256(bits, nan));
            _mm256_mul_ps(scales, _mm256_set1_ps(factor.half))
        }
    }

    #[inline(always)]
    unsafe fn add_product(
        sum: __m256,
        codes: &[__m256i; 4],
        scales: __m256,
        [a, _]: [*const Packed; 2],
    ) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let a = &*a;
            let pairs = |v: usize| _mm256_maddubs_epi16(codes[v], twice(a.codes[v].as_ptr()));
            let first = _mm256_add_epi16(pairs(0), pairs(1));
            let second = _mm256_add_epi16(pairs(2), pairs(3));
            let t = _mm256_madd_epi16(_mm256_add_epi16(first, second), _mm256_set1_epi16(1));
            let t = _mm256_add_epi32(t, twice(a.offsets.as_ptr()));
            let a_scales = _mm256_castsi256_ps(twice(a.scales.as_ptr()));
            _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(t), a_scales), scales, sum)
        }
    }

    #[inline(always)]
    unsafe fn totals(sums: __m256) -> [[f32; ROWS]; 2] {
        // SAFETY: the level is present.
        unsafe {
            let two = _mm256_add_ps(sums, _mm256_permute_ps::<0b01_00_11_10>(sums));
            let one = _mm256_add_ps(two, _mm256_permute_ps::<0b10_11_00_01>(two));
            let mut lanes = [0.0; 8];
            _mm256_storeu_ps(lanes.as_mut_ptr(), one);
            [[lanes[0], lanes[4], 0.0, 0.0]; 2]
        }
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        // SAFETY: a prefetch does nothing but move caches.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
}
