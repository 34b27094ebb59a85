//! Lanes without instructions beyond the architecture's baseline.

use super::lanes::{Lanes, put};
use super::math;
use super::per_level::BASELINE_FUSED;

/// Four lanes, which compilers turn into one register.
#[derive(Clone, Copy)]
pub(super) struct Four(pub(super) [f32; 4]);

impl Four {
    #[inline(always)]
    fn join(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Four(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Four {
    const WIDTH: usize = 4;

    const FUSED: bool = BASELINE_FUSED;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Four([x; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; unaligned, as slices of f32 may be.
        Four(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        let sum = |i: usize| math::mul_add::<BASELINE_FUSED>(a.0[i], b.0[i], self.0[i]);
        Four(std::array::from_fn(sum))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.join(other, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.join(other, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.join(other, |a, b| a * b)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.join(other, |a, b| if b > a { b } else { a })
    }

    #[inline(always)]
    fn exp(self) -> Self {
        Four(self.0.map(math::exp::<BASELINE_FUSED>))
    }

    #[inline(always)]
    fn total(self) -> f32 {
        let [a, b, c, d] = self.0;
        (a + c) + (b + d)
    }

    #[inline(always)]
    fn largest(self) -> f32 {
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let [a, b, c, d] = self.0;
        larger(larger(a, c), larger(b, d))
    }

    #[inline(always)]
    unsafe fn add_up<const N: usize>(vectors: &[Self; N], to: *mut f32, add: bool) {
        // SAFETY: the caller's promise.
        unsafe { put(&vectors.map(Self::total), to, add) };
    }
}
