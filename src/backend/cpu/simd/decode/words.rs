//! Words of four bytes, taken apart.

use std::arch::x86_64::*;

use crate::num::E2M1;

/// How words are taken apart.
pub(super) trait Words {
    /// Elements of a word.
    const ELEMENTS: usize;

    /// Sixteen elements of a row, each the first of a word. Those of FP4 are taken apart otherwise.
    ///
    /// # Safety
    /// The level is present, and `from` valid for the elements.
    #[inline(always)]
    unsafe fn spread(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            match Self::ELEMENTS {
                1 => _mm512_loadu_si512(from.cast()),
                2 => _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())),
                _ => _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())),
            }
        }
    }

    /// Whether some element is one that [`Words::element`] gets wrong.
    ///
    /// # Safety
    /// The level is present.
    unsafe fn special(_words: __m512i) -> bool {
        false
    }

    /// Element `E` of each word.
    ///
    /// # Safety
    /// The level is present, and `E` below [`Words::ELEMENTS`].
    unsafe fn element<const E: usize>(words: __m512i) -> __m512;
}

pub(super) struct F32;
pub(super) struct Bf16;
pub(super) struct F16;
pub(super) struct E4m3;
pub(super) struct E5m2;
pub(super) struct Fp4;

impl Words for F32 {
    const ELEMENTS: usize = 1;

    #[inline(always)]
    unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
        // SAFETY: the level is present.
        unsafe { _mm512_castsi512_ps(words) }
    }
}

impl Words for Bf16 {
    const ELEMENTS: usize = 2;

    #[inline(always)]
    unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
        // SAFETY: the level is present.
        unsafe {
            _mm512_castsi512_ps(match E {
                0 => _mm512_slli_epi32::<16>(words),
                _ => _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF_0000u32 as i32)),
            })
        }
    }
}

/// The f16 in the lower half of each word.
///
/// # Safety
/// AVX-512 F.
#[inline(always)]
unsafe fn halves(words: __m512i) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)) }
}

impl Words for F16 {
    const ELEMENTS: usize = 2;

    #[inline(always)]
    unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
        // SAFETY: the level is present.
        unsafe {
            halves(match E {
                0 => words,
                _ => _mm512_srli_epi32::<16>(words),
            })
        }
    }
}

impl Words for E4m3 {
    const ELEMENTS: usize = 4;

    /// NaN.
    #[inline(always)]
    unsafe fn special(words: __m512i) -> bool {
        // SAFETY: the level is present.
        unsafe {
            let magnitude = _mm512_set1_epi8(0x7F);
            _mm512_cmpeq_epi8_mask(_mm512_and_si512(words, magnitude), magnitude) != 0
        }
    }

    /// Exponent and mantissa where f16 has the ends of its own; the biases are 7 and 15. In f32
    /// small values would be subnormal on the way, which takes some processors long.
    #[inline(always)]
    unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
        // SAFETY: the level is present.
        unsafe {
            let top = match E {
                0 => _mm512_slli_epi32::<24>(words),
                1 => _mm512_slli_epi32::<16>(words),
                2 => _mm512_slli_epi32::<8>(words),
                _ => words,
            };
            let fields = _mm512_set1_epi32(0xBF80);
            let half = _mm512_and_si512(_mm512_srai_epi32::<17>(top), fields);
            _mm512_mul_ps(halves(half), _mm512_set1_ps(256.0))
        }
    }
}

/// The upper half of an f16.
impl Words for E5m2 {
    const ELEMENTS: usize = 4;

    #[inline(always)]
    unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
        // SAFETY: the level is present.
        unsafe {
            let half = match E {
                0 => _mm512_slli_epi32::<8>(words),
                1 => words,
                2 => _mm512_srli_epi32::<8>(words),
                _ => _mm512_srli_epi32::<16>(words),
            };
            halves(_mm512_and_si512(half, _mm512_set1_epi32(0xFF00)))
        }
    }
}

impl Words for Fp4 {
    const ELEMENTS: usize = 8;

    #[inline(always)]
    unsafe fn spread(from: *const u8) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let halves = from.cast::<i32>();
            let low = _mm512_set1_epi32(halves.read_unaligned());
            let high = halves.add(1).read_unaligned();
            let codes = _mm512_mask_set1_epi32(low, 0xFF00, high);
            let shifts = [0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28];
            _mm512_srlv_epi32(codes, _mm512_loadu_si512((&raw const shifts).cast()))
        }
    }

    #[inline(always)]
    unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
        // SAFETY: the level is present; the table has 16 values. The look-up takes the low
        // four bits of each lane.
        unsafe {
            let values = _mm512_loadu_ps(E2M1::VALUES.as_ptr());
            let codes = _mm512_srl_epi32(words, _mm_cvtsi32_si128(4 * E as i32));
            _mm512_permutexvar_ps(codes, values)
        }
    }
}
