//! Four rows at a time, by VNNI's products of bytes and VBMI's table look-up.

use std::arch::x86_64::*;

use super::super::unpack::Storage;
use super::packed::{LEAST_SCALE, MOST};
use super::{BLOCK, BLOCKS, DOUBLED, Factor, GROUP, OFFSET, Packed, Quad, ROWS};

/// Four rows in AVX-512 registers.
pub(super) struct Four;

/// Twice the values of the codes, + 12, in all 64 places of a table that is looked up by six bits,
/// of which the upper two are another code's.
const UNSIGNED: [u8; 64] = {
    let mut table = [0; 64];
    let mut code = 0;
    while code < 64 {
        table[code] = (DOUBLED[code % 16] as i32 + OFFSET) as u8;
        code += 1;
    }
    table
};

/// Sixteen bytes in each quarter.
///
/// # Safety
/// AVX-512 F; the pointer is valid for 16 bytes.
#[inline(always)]
unsafe fn each<T>(from: *const T) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(from.cast())) }
}

impl Quad for Four {
    const ROWS: usize = 4;

    type Codes = [__m512i; 4];

    type Scales = __m512;

    type Floats = __m512;

    #[inline(always)]
    fn zero() -> __m512 {
        // SAFETY: called at this level only.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn codes(rows: [*const u8; ROWS]) -> [__m512i; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let two = |x: *const u8, y: *const u8| {
                let x = _mm512_castsi256_si512(_mm256_loadu_si256(x.cast()));
                _mm512_inserti64x4::<1>(x, _mm256_loadu_si256(y.cast()))
            };
            let (x, y) = (two(rows[0], rows[1]), two(rows[2], rows[3]));
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            let first = _mm512_permutex2var_epi32(x, even, y);
            let second = _mm512_permutex2var_epi32(x, odd, y);
            let table = _mm512_loadu_si512(UNSIGNED.as_ptr().cast());
            let low = |codes| _mm512_permutexvar_epi8(codes, table);
            let high = |codes| low(_mm512_srli_epi16::<4>(codes));
            [low(first), high(first), low(second), high(second)]
        }
    }

    #[inline(always)]
    unsafe fn scales<S: Storage>(rows: [*const u8; ROWS], factor: Factor) -> __m512 {
        // SAFETY: the caller's promise: a scale for each block, or each two.
        unsafe {
            let nan = _mm512_set1_ps(f32::NAN);
            if S::BLOCK == super::BLOCK {
                let four = |row: *const u8| row.cast::<i32>().read_unaligned();
                let bytes =
                    _mm_setr_epi32(four(rows[0]), four(rows[1]), four(rows[2]), four(rows[3]));
                // UE4M3 has f16's layout with a shorter exponent field and mantissa: shifted into
                // place its value is 2⁸ times too small, for the biases are 7 and 15.
                let bits = _mm_and_si128(bytes, _mm_set1_epi8(0x7F));
                let numbers = _mm_cmpneq_epi8_mask(bits, _mm_set1_epi8(0x7F));
                let half = _mm256_slli_epi16::<7>(_mm256_cvtepu8_epi16(bits));
                let factor = _mm512_set1_ps(factor.half * 256.0);
                return _mm512_mask_mul_ps(nan, numbers, _mm512_cvtph_ps(half), factor);
            }
            let two = |row: *const u8| i32::from(row.cast::<i16>().read_unaligned());
            let bytes = _mm_setr_epi32(two(rows[0]), two(rows[1]), two(rows[2]), two(rows[3]));
            let twice = _mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13);
            let exponents = _mm512_cvtepu8_epi32(_mm_shuffle_epi8(bytes, twice));
            // 2⁻¹²⁷ has no exponent field.
            let numbers = _mm512_cmpneq_epi32_mask(exponents, _mm512_set1_epi32(0xFF));
            let bits = _mm512_slli_epi32::<23>(exponents);
            let bits = _mm512_max_epu32(bits, _mm512_set1_epi32(1 << 22));
            let factor = _mm512_set1_ps(factor.half);
            _mm512_mask_mul_ps(nan, numbers, _mm512_castsi512_ps(bits), factor)
        }
    }

    #[inline(always)]
    unsafe fn add_product(
        sum: __m512,
        codes: &[__m512i; 4],
        scales: __m512,
        [a, _]: [*const Packed; 2],
    ) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let a = &*a;
            let mut t = each(a.offsets.as_ptr());
            for (codes, a) in codes.iter().zip(&a.codes) {
                t = _mm512_dpbusd_epi32(t, *codes, each(a.as_ptr()));
            }
            let a_scales = _mm512_castsi512_ps(each(a.scales.as_ptr()));
            _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(t), a_scales), scales, sum)
        }
    }

    #[inline(always)]
    unsafe fn totals(sums: __m512) -> [[f32; ROWS]; 2] {
        // SAFETY: the level is present.
        unsafe {
            let two = _mm512_add_ps(sums, _mm512_permute_ps::<0b01_00_11_10>(sums));
            let one = _mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two));
            let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let firsts = _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, one));
            let mut totals = [0.0; ROWS];
            _mm_storeu_ps(totals.as_mut_ptr(), firsts);
            [totals; 2]
        }
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        // SAFETY: a prefetch does nothing but move caches.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
}

/// Where the bytes of [`Packed`] are among those of four blocks packed to one register: quarter q
/// holds elements 4q to 4q + 3 of each.
const ORDER: [u8; GROUP] = {
    let mut order = [0; GROUP];
    let mut to = 0;
    while to < GROUP {
        let (vector, block, i) = (to / BLOCK, to % BLOCK / BLOCKS, to % BLOCKS);
        let element = 8 * (vector / 2) + vector % 2 + 2 * i;
        order[to] = (BLOCK * (element / 4) + 4 * block + element % 4) as u8;
        to += 1;
    }
    order
};

/// As [`quantize`](super::quantize); gives the largest magnitude's bits.
///
/// # Safety
/// The level is present; `dst` has a group for each begun one of `row`, and no more.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) unsafe fn rounded(row: &[f32], dst: &mut [Packed]) -> u32 {
    let mut largest = _mm512_setzero_si512();
    for (g, dst) in dst.iter_mut().enumerate() {
        let there = row.len() - g * GROUP;
        let there = if there < GROUP { (1u64 << there) - 1 } else { u64::MAX };
        let block = |b: usize| {
            let from = row.as_ptr().wrapping_add(g * GROUP + b * BLOCK);
            // SAFETY: of the row's elements only those that are there are read.
            unsafe { _mm512_maskz_loadu_ps((there >> (b * BLOCK)) as u16, from) }
        };
        let x = [block(0), block(1), block(2), block(3)];
        // As integers, magnitudes are in order, and NaN above all of them.
        let size = |x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX));
        // The largest of halves of two blocks, of quarters of four, and of each quarter.
        let halves = |a, b| {
            let low = _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b);
            _mm512_max_epu32(low, _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b))
        };
        let (ab, cd) = (halves(size(x[0]), size(x[1])), halves(size(x[2]), size(x[3])));
        let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab, cd);
        let most = _mm512_max_epu32(even, _mm512_shuffle_i32x4::<0b11_01_11_01>(ab, cd));
        let most = _mm512_max_epu32(most, _mm512_shuffle_epi32::<0b01_00_11_10>(most));
        let most = _mm512_max_epu32(most, _mm512_shuffle_epi32::<0b10_11_00_01>(most));
        largest = _mm512_max_epu32(largest, most);
        let scale = _mm512_div_ps(_mm512_castsi512_ps(most), _mm512_set1_ps(MOST));
        let scale = _mm512_max_ps(scale, _mm512_set1_ps(LEAST_SCALE));
        let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), scale);
        macro_rules! codes {
            ($b:literal) => {{
                let inverse = _mm512_shuffle_f32x4::<{ $b * 0b01_01_01_01 }>(inverse, inverse);
                _mm512_cvtps_epi32(_mm512_mul_ps(x[$b], inverse))
            }};
        }
        let low = _mm512_packs_epi32(codes!(0), codes!(1));
        let bytes = _mm512_packs_epi16(low, _mm512_packs_epi32(codes!(2), codes!(3)));
        // SAFETY: a table of 64 bytes.
        let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
        let codes = _mm512_permutexvar_epi8(order, bytes);
        let sums =
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(OFFSET as i8), codes);
        let (low, high) = (_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
        let sums = _mm256_add_epi32(low, high);
        let (low, high) = (_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let sums = _mm_add_epi32(low, high);
        let firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        let scales = _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, scale));
        // SAFETY: 64 bytes, four integers and four scales of the group.
        unsafe {
            _mm512_storeu_si512(dst.codes.as_mut_ptr().cast(), codes);
            let negative = _mm_sub_epi32(_mm_setzero_si128(), sums);
            _mm_storeu_si128(dst.offsets.as_mut_ptr().cast(), negative);
            _mm_storeu_ps(dst.scales.as_mut_ptr(), scales);
        }
    }
    _mm512_reduce_max_epu32(largest)
}
