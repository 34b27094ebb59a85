//! Lanes without instructions beyond the architecture's baseline.

use super::lanes::{Lanes, SUMS, put};
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
    fn mul(self, other: Self) -> Self {
        self.join(other, |a, b| a * b)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.join(other, |a, b| if b > a { b } else { a })
    }

    #[inline(always)]
    fn exp2<const N: usize>(vectors: [Self; N]) -> [Self; N] {
        vectors.map(|x| Four(x.0.map(math::exp2::<BASELINE_FUSED>)))
    }

    #[inline(always)]
    fn one_nan(self) -> Self {
        Four(self.0.map(|x| if x.is_nan() { f32::NAN } else { x }))
    }

    #[inline(always)]
    fn across(vectors: &[Self; SUMS], f: impl Fn(Self, Self) -> Self) -> [f32; SUMS] {
        vectors.map(|x| {
            let two = f(x, Four([x.0[2], x.0[3], 0.0, 0.0]));
            f(two, Four([two.0[1], 0.0, 0.0, 0.0])).0[0]
        })
    }

    #[inline(always)]
    unsafe fn add_up<const N: usize>(vectors: &[Self; N], to: *mut f32, add: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            let total = |Four([a, b, c, d]): Self| (a + c) + (b + d);
            put(&vectors.map(total), to, add)
        };
    }
}
