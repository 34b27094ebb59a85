//! Lanes of AVX2 + FMA and of AVX-512.

use std::arch::x86_64::*;

use super::LANES;
use super::tile::Lanes;

/// Eight lanes in an AVX register.
#[derive(Clone, Copy)]
pub(super) struct Avx2(pub(super) __m256);

/// Sixteen lanes in an AVX-512 register.
#[derive(Clone, Copy)]
pub(super) struct Avx512(pub(super) __m512);

impl Lanes for Avx2 {
    const WIDTH: usize = 8;

    #[inline(always)]
    fn zero() -> Self {
        // SAFETY: values of this type are made only at this level.
        Avx2(unsafe { _mm256_setzero_ps() })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise of 8 readable values; the level is this one.
        Avx2(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise of room for 8 values; the level is this one.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        // SAFETY: a prefetch does nothing but move caches.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: values of this type are made only at this level.
        Avx2(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn sums(lanes: *const f32, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { sums(lanes, to) }
    }
}

/// Adds up the lanes of eight dot products: each level of the tree adds halves of two vectors
/// into one.
///
/// # Safety
/// AVX2; as [`Lanes::sums`].
#[inline(always)]
unsafe fn sums(lanes: *const f32, to: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        macro_rules! eight {
            ($i:literal) => {{
                let lanes = lanes.add($i * LANES);
                _mm256_add_ps(_mm256_loadu_ps(lanes), _mm256_loadu_ps(lanes.add(8)))
            }};
        }
        macro_rules! four {
            ($x:literal, $y:literal) => {{
                let (x, y) = (eight!($x), eight!($y));
                let low = _mm256_permute2f128_ps::<0x20>(x, y);
                _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(x, y))
            }};
        }
        macro_rules! two {
            ($x:expr, $y:expr) => {{
                let (x, y) = (_mm256_castps_pd($x), _mm256_castps_pd($y));
                let (low, high) = (_mm256_unpacklo_pd(x, y), _mm256_unpackhi_pd(x, y));
                _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high))
            }};
        }
        let x = two!(four!(0, 4), four!(1, 5));
        let y = two!(four!(2, 6), four!(3, 7));
        let even = _mm256_shuffle_ps::<0x88>(x, y);
        _mm256_storeu_ps(to, _mm256_add_ps(even, _mm256_shuffle_ps::<0xDD>(x, y)));
    }
}

impl Lanes for Avx512 {
    const WIDTH: usize = 16;

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
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise of room for 16 values; the level is this one.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        // SAFETY: a prefetch does nothing but move caches.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: values of this type are made only at this level.
        Avx512(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn sums(lanes: *const f32, to: *mut f32) {
        // SAFETY: the caller's promise; the level has AVX2.
        unsafe { sums(lanes, to) }
    }
}
