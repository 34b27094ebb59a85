//! Words of four bytes, taken apart.

use std::arch::x86_64::*;

use crate::backend::cpu::simd::unpack::{Table, TableOf};
use crate::num::E2M1;

/// How words are taken apart.
pub(super) trait Words {
    /// Elements of a word.
    const ELEMENTS: usize;

    /// What is done for all elements of words at once.
    type Ready: Copy;

    /// # Safety
    /// The level is present.
    unsafe fn ready(words: __m512i) -> Self::Ready;

    /// Element `E` of each word.
    ///
    /// # Safety
    /// The level is present, and `E` below [`Words::ELEMENTS`].
    unsafe fn element<const E: usize>(words: Self::Ready) -> __m512;
}

/// Nothing is done for all elements at once.
macro_rules! one_by_one {
    () => {
        type Ready = __m512i;

        #[inline(always)]
        unsafe fn ready(words: __m512i) -> __m512i {
            words
        }
    };
}

pub(super) struct F32;
pub(super) struct Bf16;
pub(super) struct F16;
pub(super) struct E4m3;
pub(super) struct E5m2;
pub(super) struct Fp4;

impl Words for F32 {
    const ELEMENTS: usize = 1;

    one_by_one!();

    #[inline(always)]
    unsafe fn element<const E: usize>(words: __m512i) -> __m512 {
        // SAFETY: the level is present.
        unsafe { _mm512_castsi512_ps(words) }
    }
}

impl Words for Bf16 {
    const ELEMENTS: usize = 2;

    one_by_one!();

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

    one_by_one!();

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

    one_by_one!();

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
            let magnitude = _mm512_set1_epi32(0x3F80);
            let nan = _mm512_cmpeq_epi32_mask(_mm512_and_si512(half, magnitude), magnitude);
            let value = _mm512_mul_ps(halves(half), _mm512_set1_ps(256.0));
            _mm512_mask_mov_ps(value, nan, _mm512_set1_ps(f32::NAN))
        }
    }
}

/// The upper half of an f16.
impl Words for E5m2 {
    const ELEMENTS: usize = 4;

    one_by_one!();

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

/// FP8 looked up in tables, in words of a row each.
impl<T: TableOf> Words for Table<T> {
    const ELEMENTS: usize = 4;

    type Ready = [__m512i; 2];

    #[inline(always)]
    unsafe fn ready(words: __m512i) -> Self::Ready {
        // SAFETY: the level is present.
        unsafe { Self::look_up::<1, 4>(words) }
    }

    #[inline(always)]
    unsafe fn element<const E: usize>(words: Self::Ready) -> __m512 {
        // SAFETY: the level is present.
        unsafe { Self::vector::<E>(words) }
    }
}

impl Words for Fp4 {
    const ELEMENTS: usize = 8;

    one_by_one!();

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
