//! Tiles without instructions beyond the architecture's baseline.

use super::tile::{self, Vector};
use super::{LANES, Rows};

impl Vector for [f32; LANES] {
    #[inline(always)]
    fn zero() -> Self {
        [0.0; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; unaligned, as slices of f32 may be.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // Not fused: without the instruction that is a slow library call.
        std::array::from_fn(|i| self[i] + a[i] * b[i])
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = self;
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }
}

pub(super) fn dots(a: Rows<'_>, b: Rows<'_>, k: usize, out: &mut [f32], out_stride: usize) {
    // SAFETY: `super::dots` has checked the slices against the sizes.
    unsafe { tile::dots::<[f32; LANES], 2, 2>(a, b, k, out, out_stride) }
}
