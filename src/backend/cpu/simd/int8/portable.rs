//! One row at a time, with what every machine has.

use super::super::math;
use super::super::per_level::BASELINE_FUSED;
use super::super::unpack::Storage;
use super::{BLOCK, BLOCKS, DOUBLED, Factor, Packed, Quad, ROWS};

/// A row.
pub(super) struct One;

/// Half of the scales of a group, from the table.
///
/// # Safety
/// As [`Quad::scales`].
#[inline(always)]
pub(super) unsafe fn scales<S: Storage>(row: *const u8, factor: Factor) -> [f32; BLOCKS] {
    std::array::from_fn(|block| {
        // SAFETY: a scale of the group, and its row of the table.
        unsafe { (*factor.table.add(S::row(*row.add(block * BLOCK / S::BLOCK)))).half() }
    })
}

impl Quad for One {
    const ROWS: usize = 1;

    type Codes = [[i8; 4 * BLOCKS]; 4];

    type Scales = [f32; BLOCKS];

    type Floats = [f32; BLOCKS];

    #[inline(always)]
    fn zero() -> [f32; BLOCKS] {
        [0.0; BLOCKS]
    }

    #[inline(always)]
    unsafe fn codes(rows: [*const u8; ROWS]) -> Self::Codes {
        // SAFETY: the caller's promise.
        let bytes = unsafe { rows[0].cast::<[u8; 32]>().read() };
        std::array::from_fn(|vector| {
            std::array::from_fn(|at| {
                let byte = bytes[8 * (at / 4) + 4 * (vector / 2) + at % 4];
                DOUBLED[usize::from(byte >> (4 * (vector % 2)) & 15)]
            })
        })
    }

    #[inline(always)]
    unsafe fn scales<S: Storage>(rows: [*const u8; ROWS], factor: Factor) -> [f32; BLOCKS] {
        // SAFETY: the caller's promise.
        unsafe { scales::<S>(rows[0], factor) }
    }

    #[inline(always)]
    unsafe fn add_product(
        sum: [f32; BLOCKS],
        codes: &Self::Codes,
        scales: [f32; BLOCKS],
        [a, _]: [*const Packed; 2],
    ) -> [f32; BLOCKS] {
        // SAFETY: the caller's promise.
        let a = unsafe { &*a };
        std::array::from_fn(|block| {
            let mut t = 0;
            for (codes, a) in codes.iter().zip(&a.codes) {
                for at in 4 * block..4 * block + 4 {
                    t += i32::from(codes[at]) * i32::from(a[at]);
                }
            }
            let t = t as f32 * a.scales[block];
            math::mul_add::<BASELINE_FUSED>(t, scales[block], sum[block])
        })
    }

    #[inline(always)]
    unsafe fn totals([a, b, c, d]: [f32; BLOCKS]) -> [[f32; ROWS]; 2] {
        [[(a + c) + (b + d); ROWS]; 2]
    }
}
