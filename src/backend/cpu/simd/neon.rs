//! Lanes of Advanced SIMD, two registers at a time: the 32 of them are as many pairs as AVX2 has
//! registers, so tiles have the same shapes.

use std::arch::aarch64::*;
use std::arch::asm;

use super::lanes::{Lanes, SUMS, put};
use super::math;

/// Eight lanes in two registers.
#[derive(Clone, Copy)]
pub(super) struct Neon(pub(super) [float32x4_t; 2]);

impl Neon {
    #[inline(always)]
    fn join(self, other: Self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        Neon([f(self.0[0], other.0[0]), f(self.0[1], other.0[1])])
    }

    #[inline(always)]
    fn map(self, f: impl Fn(float32x4_t) -> float32x4_t) -> Self {
        Neon(self.0.map(f))
    }

    /// Each level of the tree joins halves of two vectors to one.
    #[inline(always)]
    fn joined(all: &[Self; SUMS], f: impl Fn(Self, Self) -> Self) -> Self {
        // SAFETY: part of the architecture.
        unsafe {
            let four = |i: usize| {
                let ([x, xs], [y, ys]) = (all[i].0, all[i + 1].0);
                f(Neon([x, y]), Neon([xs, ys])).0.map(|x| vreinterpretq_f64_f32(x))
            };
            let halves = |[x, y]: [float64x2_t; 2]| {
                let (low, high) = (vtrn1q_f64(x, y), vtrn2q_f64(x, y));
                (vreinterpretq_f32_f64(low), vreinterpretq_f32_f64(high))
            };
            let two = |i: usize| {
                let ((x, xs), (y, ys)) = (halves(four(i)), halves(four(i + 2)));
                f(Neon([x, y]), Neon([xs, ys])).0
            };
            let ([x, xs], [y, ys]) = (two(0), two(4));
            let even = Neon([vuzp1q_f32(x, xs), vuzp1q_f32(y, ys)]);
            f(even, Neon([vuzp2q_f32(x, xs), vuzp2q_f32(y, ys)]))
        }
    }
}

impl Lanes for Neon {
    const WIDTH: usize = 8;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: part of the architecture.
        Neon([unsafe { vdupq_n_f32(x) }; 2])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise of readable values.
        Neon(unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise of room for the values.
        unsafe {
            vst1q_f32(to, self.0[0]);
            vst1q_f32(to.add(4), self.0[1]);
        }
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        // SAFETY: a prefetch does nothing but move caches; the intrinsic is not stable.
        unsafe {
            asm!("prfm pldl2keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
        }
    }

    #[inline(always)]
    fn prefetch_near(address: *const u8) {
        // SAFETY: as above.
        unsafe {
            asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly))
        }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: part of the architecture.
        let fused = |i: usize| unsafe { vfmaq_f32(self.0[i], a.0[i], b.0[i]) };
        Neon([fused(0), fused(1)])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: part of the architecture.
        self.join(other, |x, y| unsafe { vaddq_f32(x, y) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: part of the architecture.
        self.join(other, |x, y| unsafe { vmulq_f32(x, y) })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: part of the architecture.
        self.join(other, |x, y| unsafe { vbslq_f32(vcgtq_f32(y, x), y, x) })
    }

    /// The steps of [`math::exp2`].
    #[allow(clippy::needless_range_loop, reason = "iterators over registers go through memory")]
    #[inline(always)]
    fn exp2<const N: usize>(vectors: [Self; N]) -> [Self; N] {
        let (mut r, mut shifted) = (vectors, vectors);
        // SAFETY: part of the architecture.
        unsafe {
            let round = vdupq_n_f32(math::ROUND);
            for i in 0..N {
                let x = r[i].max(Self::splat(math::EXP2_IS_ZERO));
                shifted[i] = x.add(Self::splat(math::ROUND));
                let n = shifted[i].map(|x| vsubq_f32(x, round));
                r[i] = x.join(n, |x, n| vsubq_f32(x, n));
            }
            let mut power = math::exp2_power(r);
            for i in 0..N {
                power[i] = power[i].join(shifted[i], |power, shifted| {
                    let zero = vreinterpretq_s32_f32(round);
                    let n = vsubq_s32(vreinterpretq_s32_f32(shifted), zero);
                    let half = vshrq_n_s32::<1>(n);
                    let pow2 = |n| {
                        let biased = vaddq_s32(n, vdupq_n_s32(127));
                        vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
                    };
                    vmulq_f32(vmulq_f32(power, pow2(half)), pow2(vsubq_s32(n, half)))
                });
            }
            power
        }
    }

    #[inline(always)]
    fn one_nan(self) -> Self {
        // SAFETY: part of the architecture.
        self.map(|x| unsafe { vbslq_f32(vceqq_f32(x, x), x, vdupq_n_f32(f32::NAN)) })
    }

    #[inline(always)]
    fn across(vectors: &[Self; SUMS], f: impl Fn(Self, Self) -> Self) -> [f32; SUMS] {
        let mut values = [0.0; SUMS];
        // SAFETY: there is room for as many values.
        unsafe { Self::joined(vectors, f).store(values.as_mut_ptr()) };
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
