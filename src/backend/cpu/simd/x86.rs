//! Lanes of AVX2 + FMA and of AVX-512.

use std::arch::x86_64::*;

use super::tile::{Lanes, SUMS, put};

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
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: values of this type are made only at this level.
        Avx2(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: values of this type are made only at this level.
        Avx2(unsafe { _mm256_add_ps(self.0, other.0) })
    }

    /// Each level of the tree adds halves of two vectors into one.
    #[inline(always)]
    unsafe fn add_up<const N: usize>(vectors: &[Self; N], to: *mut f32, add: bool) {
        // SAFETY: values of this type are made only at this level; the caller's promise.
        unsafe {
            let mut all = [_mm256_setzero_ps(); SUMS];
            for (to, vector) in all.iter_mut().zip(vectors) {
                *to = vector.0;
            }
            macro_rules! four {
                ($i:expr) => {{
                    let (x, y) = (all[$i], all[$i + 4]);
                    let low = _mm256_permute2f128_ps::<0x20>(x, y);
                    _mm256_castps_pd(_mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(x, y)))
                }};
            }
            macro_rules! two {
                ($i:literal) => {{
                    let (x, y) = (four!($i), four!($i + 1));
                    let (low, high) = (_mm256_unpacklo_pd(x, y), _mm256_unpackhi_pd(x, y));
                    _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high))
                }};
            }
            let (x, y) = (two!(0), two!(2));
            let even = _mm256_shuffle_ps::<0x88>(x, y);
            let sums = _mm256_add_ps(even, _mm256_shuffle_ps::<0xDD>(x, y));
            let mut values = [0.0; SUMS];
            _mm256_storeu_ps(values.as_mut_ptr(), sums);
            put(&values[..N], to, add);
        }
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
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: values of this type are made only at this level.
        Avx512(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: values of this type are made only at this level.
        Avx512(unsafe { _mm512_add_ps(self.0, other.0) })
    }

    /// Each level of the tree adds halves of two vectors into one.
    #[inline(always)]
    unsafe fn add_up<const N: usize>(vectors: &[Self; N], to: *mut f32, add: bool) {
        // SAFETY: values of this type are made only at this level; the caller's promise.
        unsafe {
            let mut all = [_mm512_setzero_ps(); SUMS];
            for (to, vector) in all.iter_mut().zip(vectors) {
                *to = vector.0;
            }
            macro_rules! eight {
                ($i:expr) => {{
                    let (x, y) = (all[$i], all[$i + 1]);
                    let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(x, y);
                    _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_10_11_10>(x, y))
                }};
            }
            macro_rules! four {
                ($i:literal) => {{
                    let (x, y) = (eight!($i), eight!($i + 2));
                    let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(x, y);
                    let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(x, y);
                    _mm512_castps_pd(_mm512_add_ps(even, odd))
                }};
            }
            let (x, y) = (four!(0), four!(4));
            let (low, high) = (_mm512_unpacklo_pd(x, y), _mm512_unpackhi_pd(x, y));
            let two = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
            // Sums i and i + 4 are at the front of quarter i.
            let one = _mm512_add_ps(two, _mm512_movehdup_ps(two));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
            let mut sums = _mm512_castps512_ps256(_mm512_permutexvar_ps(order, one));
            let there = ((1u32 << N) - 1) as u8;
            if add {
                sums = _mm256_add_ps(_mm256_maskz_loadu_ps(there, to), sums);
            }
            // Which NaN comes out would depend on the order of commutative operands.
            let nan = _mm256_cmp_ps_mask::<_CMP_UNORD_Q>(sums, sums);
            let sums = _mm256_mask_mov_ps(sums, nan, _mm256_set1_ps(f32::NAN));
            _mm256_mask_storeu_ps(to, there, sums);
        }
    }
}
