//! Lanes of AVX2 + FMA and of AVX-512.

use std::arch::x86_64::*;

use super::lanes::{Lanes, SUMS, put};
use super::math;

/// Eight lanes in an AVX register.
#[derive(Clone, Copy)]
pub(super) struct Avx2(pub(super) __m256);

/// Sixteen lanes in an AVX-512 register.
#[derive(Clone, Copy)]
pub(super) struct Avx512(pub(super) __m512);

/// What both levels have under names of their own.
macro_rules! common {
    ($width:literal: $splat:ident, $load:ident, $store:ident, $fma:ident, $add:ident, $mul:ident,
     $max:ident) => {
        const WIDTH: usize = $width;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            // SAFETY: values of this type are made only at this level.
            Self(unsafe { $splat(x) })
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise of readable values; the level is this one.
            Self(unsafe { $load(from) })
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise of room for the values; the level is this one.
            unsafe { $store(to, self.0) }
        }

        #[inline(always)]
        fn prefetch(address: *const u8) {
            // SAFETY: a prefetch does nothing but move caches.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        }

        #[inline(always)]
        fn prefetch_near(address: *const u8) {
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }

        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: values of this type are made only at this level.
            Self(unsafe { $fma(a.0, b.0, self.0) })
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: values of this type are made only at this level.
            Self(unsafe { $add(self.0, other.0) })
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: values of this type are made only at this level.
            Self(unsafe { $mul(self.0, other.0) })
        }

        #[inline(always)]
        fn max(self, other: Self) -> Self {
            // The instruction gives its second operand where either is NaN.
            // SAFETY: values of this type are made only at this level.
            Self(unsafe { $max(other.0, self.0) })
        }
    };
}

impl Lanes for Avx2 {
    common!(
        8: _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps, _mm256_add_ps,
        _mm256_mul_ps, _mm256_max_ps
    );

    /// The steps of [`math::exp2`].
    #[allow(clippy::needless_range_loop, reason = "iterators over registers go through memory")]
    #[inline(always)]
    fn exp2<const N: usize>(vectors: [Self; N]) -> [Self; N] {
        let (mut r, mut n) = (vectors, vectors);
        // SAFETY: values of this type are made only at this level.
        unsafe {
            for i in 0..N {
                let x = r[i].max(Self::splat(math::EXP2_IS_ZERO)).0;
                n[i].0 = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
                r[i].0 = _mm256_sub_ps(x, n[i].0);
            }
            let mut power = math::exp2_power(r);
            for i in 0..N {
                let n = _mm256_cvtps_epi32(n[i].0);
                let half = _mm256_srai_epi32::<1>(n);
                let pow2 = |n| {
                    let biased = _mm256_add_epi32(n, _mm256_set1_epi32(127));
                    Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
                };
                power[i] = power[i].mul(pow2(half)).mul(pow2(_mm256_sub_epi32(n, half)));
            }
            power
        }
    }

    #[inline(always)]
    fn one_nan(self) -> Self {
        // SAFETY: values of this type are made only at this level.
        unsafe {
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
            Self(_mm256_blendv_ps(self.0, _mm256_set1_ps(f32::NAN), nan))
        }
    }

    #[inline(always)]
    fn across(vectors: &[Self; SUMS], f: impl Fn(Self, Self) -> Self) -> [f32; SUMS] {
        let mut values = [0.0; SUMS];
        // SAFETY: values of this type are made only at this level.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), Self::joined(vectors, f).0) };
        values
    }

    #[inline(always)]
    unsafe fn add_up<const N: usize>(vectors: &[Self; N], to: *mut f32, add: bool) {
        let mut all = [Self::splat(0.0); SUMS];
        all.iter_mut().zip(vectors).for_each(|(to, vector)| *to = *vector);
        // SAFETY: the caller's promise.
        unsafe { put(&Self::across(&all, Self::add)[..N], to, add) };
    }
}

impl Avx2 {
    /// Each level of the tree joins halves of two vectors to one.
    #[inline(always)]
    fn joined(all: &[Self; SUMS], f: impl Fn(Self, Self) -> Self) -> Self {
        // SAFETY: values of this type are made only at this level.
        unsafe {
            macro_rules! four {
                ($i:expr) => {{
                    let (x, y) = (all[$i].0, all[$i + 4].0);
                    let low = Self(_mm256_permute2f128_ps::<0x20>(x, y));
                    _mm256_castps_pd(f(low, Self(_mm256_permute2f128_ps::<0x31>(x, y))).0)
                }};
            }
            macro_rules! two {
                ($i:literal) => {{
                    let (x, y) = (four!($i), four!($i + 1));
                    let low = Self(_mm256_castpd_ps(_mm256_unpacklo_pd(x, y)));
                    f(low, Self(_mm256_castpd_ps(_mm256_unpackhi_pd(x, y)))).0
                }};
            }
            let (x, y) = (two!(0), two!(2));
            let even = Self(_mm256_shuffle_ps::<0x88>(x, y));
            f(even, Self(_mm256_shuffle_ps::<0xDD>(x, y)))
        }
    }
}

impl Avx512 {
    /// Each level of the tree joins halves of two vectors to one.
    #[inline(always)]
    fn joined(all: &[Self; SUMS], f: impl Fn(Self, Self) -> Self) -> Avx2 {
        // SAFETY: values of this type are made only at this level.
        unsafe {
            // Half of each vector stays where it is: one shuffle instead of two.
            macro_rules! eight {
                ($i:expr) => {{
                    let (x, y) = (all[$i].0, all[$i + 1].0);
                    let own = Self(_mm512_mask_mov_ps(x, 0xFF00, y));
                    f(own, Self(_mm512_shuffle_f32x4::<0b01_00_11_10>(x, y)))
                }};
            }
            macro_rules! four {
                ($i:literal) => {{
                    let (x, y) = (eight!($i).0, eight!($i + 2).0);
                    let even = Self(_mm512_shuffle_f32x4::<0b10_00_10_00>(x, y));
                    let odd = Self(_mm512_shuffle_f32x4::<0b11_01_11_01>(x, y));
                    _mm512_castps_pd(f(even, odd).0)
                }};
            }
            let (x, y) = (four!(0), four!(4));
            let low = Self(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)));
            let two = f(low, Self(_mm512_castpd_ps(_mm512_unpackhi_pd(x, y))));
            // Results i and i + 4 are at the front of quarter i.
            let one = f(two, Self(_mm512_movehdup_ps(two.0))).0;
            let order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
            Avx2(_mm512_castps512_ps256(_mm512_permutexvar_ps(order, one)))
        }
    }
}

impl Lanes for Avx512 {
    common!(
        16: _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_fmadd_ps, _mm512_add_ps,
        _mm512_mul_ps, _mm512_max_ps
    );

    /// The steps of [`math::exp2`], with instructions for two of them, which take what is far
    /// below 0 and −inf as well.
    #[allow(clippy::needless_range_loop, reason = "iterators over registers go through memory")]
    #[inline(always)]
    fn exp2<const N: usize>(vectors: [Self; N]) -> [Self; N] {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        let (mut r, mut n) = (vectors, vectors);
        // SAFETY: values of this type are made only at this level.
        unsafe {
            for i in 0..N {
                r[i].0 = _mm512_reduce_ps::<NEAREST>(n[i].0);
            }
            for i in 0..N {
                n[i].0 = _mm512_sub_ps(n[i].0, r[i].0);
            }
            let mut power = math::exp2_power(r);
            for i in 0..N {
                power[i].0 = _mm512_scalef_ps(power[i].0, n[i].0);
            }
            power
        }
    }

    #[inline(always)]
    fn one_nan(self) -> Self {
        // SAFETY: values of this type are made only at this level.
        unsafe {
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            Self(_mm512_mask_mov_ps(self.0, nan, _mm512_set1_ps(f32::NAN)))
        }
    }

    #[inline(always)]
    fn across(vectors: &[Self; SUMS], f: impl Fn(Self, Self) -> Self) -> [f32; SUMS] {
        let mut values = [0.0; SUMS];
        // SAFETY: values of this type are made only at this level.
        unsafe { _mm256_storeu_ps(values.as_mut_ptr(), Self::joined(vectors, f).0) };
        values
    }

    #[inline(always)]
    unsafe fn add_up<const N: usize>(vectors: &[Self; N], to: *mut f32, add: bool) {
        let mut all = [Self::splat(0.0); SUMS];
        all.iter_mut().zip(vectors).for_each(|(to, vector)| *to = *vector);
        // SAFETY: values of this type are made only at this level; the caller's promise.
        unsafe {
            let mut sums = Self::joined(&all, Self::add).0;
            let there = ((1u32 << N) - 1) as u8;
            if add {
                sums = _mm256_add_ps(_mm256_maskz_loadu_ps(there, to), sums);
            }
            // Which NaN comes out would depend on the order of commutative operands.
            _mm256_mask_storeu_ps(to, there, Avx2(sums).one_nan().0);
        }
    }
}
