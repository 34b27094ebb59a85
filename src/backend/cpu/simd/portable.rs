//! Lanes without instructions beyond the architecture's baseline.

use super::tile::{Lanes, put};

/// Four lanes, which compilers turn into one register.
#[derive(Clone, Copy)]
pub(super) struct Four(pub(super) [f32; 4]);

impl Lanes for Four {
    const WIDTH: usize = 4;

    #[inline(always)]
    fn zero() -> Self {
        Four([0.0; 4])
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
        // Not fused: without the instruction that is a slow library call.
        Four(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Four(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    #[inline(always)]
    unsafe fn add_up<const N: usize>(vectors: &[Self; N], to: *mut f32, add: bool) {
        let sums = vectors.map(|Four([a, b, c, d])| (a + c) + (b + d));
        // SAFETY: the caller's promise.
        unsafe { put(&sums, to, add) };
    }
}
