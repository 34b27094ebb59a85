//! Lanes without instructions beyond the architecture's baseline.

use super::LANES;
use super::tile::{Lanes, SUMS};

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
    unsafe fn sums(lanes: *const f32, to: *mut f32) {
        for i in 0..SUMS {
            // SAFETY: the caller's promise.
            unsafe {
                let quarter = |q: usize| Self::load(lanes.add(i * LANES + q * 4));
                let (a, b, c, d) = (quarter(0).0, quarter(1).0, quarter(2).0, quarter(3).0);
                let four = |i: usize| (a[i] + c[i]) + (b[i] + d[i]);
                *to.add(i) = (four(0) + four(2)) + (four(1) + four(3));
            }
        }
    }
}
