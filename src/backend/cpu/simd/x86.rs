//! Tiles with AVX2 + FMA and with AVX-512.

use std::arch::x86_64::*;

use super::Rows;
use super::tile::{self, Vector};

/// Sixteen lanes in two AVX registers.
#[derive(Clone, Copy)]
struct Avx2([__m256; 2]);

/// Sixteen lanes in one AVX-512 register.
#[derive(Clone, Copy)]
struct Avx512(__m512);

/// Eight lanes added up by halves.
#[inline(always)]
fn sum_of_8(x: __m256) -> f32 {
    // SAFETY: AVX is part of both levels, the only users.
    unsafe {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        let x = _mm_add_ss(x, _mm_movehdup_ps(x));
        _mm_cvtss_f32(x)
    }
}

impl Vector for Avx2 {
    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: values of this type are made only at this level.
        Avx2(unsafe { [_mm256_setzero_ps(), _mm256_setzero_ps()] })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise of 16 readable values; the level is this one.
        Avx2(unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] })
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: values of this type are made only at this level.
        Avx2(unsafe {
            [_mm256_fmadd_ps(a.0[0], b.0[0], self.0[0]), _mm256_fmadd_ps(a.0[1], b.0[1], self.0[1])]
        })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: values of this type are made only at this level.
        sum_of_8(unsafe { _mm256_add_ps(self.0[0], self.0[1]) })
    }
}

impl Vector for Avx512 {
    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: values of this type are made only at this level.
        Avx512(unsafe { _mm512_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise of 16 readable values; the level is this one.
        Avx512(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: values of this type are made only at this level.
        Avx512(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: values of this type are made only at this level.
        sum_of_8(unsafe {
            let high = _mm512_castpd_ps(_mm512_castpd256_pd512(_mm512_extractf64x4_pd::<1>(
                _mm512_castps_pd(self.0),
            )));
            _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_castps512_ps256(high))
        })
    }
}

/// # Safety
/// The machine has AVX2 and FMA, and the slices hold what [`tile::dots`] asks for.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn dots_avx2(
    a: Rows<'_>,
    b: Rows<'_>,
    k: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    // SAFETY: the caller's promises. 2 × 2 tiles take 8 of 16 registers for sums.
    unsafe { tile::dots::<Avx2, 2, 2>(a, b, k, out, out_stride) }
}

/// # Safety
/// The machine has AVX-512 F, and the slices hold what [`tile::dots`] asks for.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn dots_avx512(
    a: Rows<'_>,
    b: Rows<'_>,
    k: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    // SAFETY: the caller's promises. 4 × 6 tiles take 24 of 32 registers for sums.
    unsafe { tile::dots::<Avx512, 4, 6>(a, b, k, out, out_stride) }
}
