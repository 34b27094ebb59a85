//! Two rows of weights with two rows of A at a time, by matrix products of signed bytes.

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::unpack::Storage;
use super::packed::Pair;
use super::{BLOCKS, DOUBLED, Factor, Packed, Quad, ROWS, portable};

/// Two rows in registers of Advanced SIMD.
pub(super) struct Two;

/// `t` plus the products of eight bytes of two rows of A with those of two rows of weights.
///
/// # Safety
/// Matrix products of bytes are present.
#[inline(always)]
unsafe fn dots(mut t: int32x4_t, a: int8x16_t, codes: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes registers only; the intrinsic is not stable.
    unsafe {
        asm!(
            "smmla {t:v}.4s, {a:v}.16b, {codes:v}.16b",
            t = inout(vreg) t,
            a = in(vreg) a,
            codes = in(vreg) codes,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    t
}

/// The scales of a block, of each row, for each row of A.
type Scales = [float32x4_t; BLOCKS];

impl Quad for Two {
    const ROWS: usize = 2;

    const A_ROWS: usize = 2;

    /// Of each block the codes at even and at odd places, of both rows.
    type Codes = [int8x16_t; 2 * BLOCKS];

    type Scales = Scales;

    /// Of each block: row by row of A, row by row of weights.
    type Floats = [float32x4_t; BLOCKS];

    #[inline(always)]
    fn zero() -> Self::Floats {
        // SAFETY: part of the architecture.
        [unsafe { vdupq_n_f32(0.0) }; BLOCKS]
    }

    #[inline(always)]
    unsafe fn codes(rows: [*const u8; ROWS]) -> Self::Codes {
        // SAFETY: the caller's promise.
        unsafe {
            let two = |row: *const u8, at: usize| vreinterpretq_u64_u8(vld1q_u8(row.add(16 * at)));
            let (x, y) = (two(rows[0], 0), two(rows[1], 0));
            let (z, w) = (two(rows[0], 1), two(rows[1], 1));
            let blocks = [vzip1q_u64(x, y), vzip2q_u64(x, y), vzip1q_u64(z, w), vzip2q_u64(z, w)];
            let [a, b, c, d] = blocks.map(|codes| vreinterpretq_u8_u64(codes));
            let table = vld1q_s8(DOUBLED.as_ptr());
            let even = |codes| vqtbl1q_s8(table, vandq_u8(codes, vdupq_n_u8(15)));
            let odd = |codes| vqtbl1q_s8(table, vshrq_n_u8::<4>(codes));
            [even(a), odd(a), even(b), odd(b), even(c), odd(c), even(d), odd(d)]
        }
    }

    #[inline(always)]
    unsafe fn scales<S: Storage>(rows: [*const u8; ROWS], factor: Factor) -> Scales {
        // SAFETY: the caller's promise.
        unsafe {
            let four = |row| vld1q_f32(portable::scales::<S>(row, factor).as_ptr());
            let (x, y) = (four(rows[0]), four(rows[1]));
            let low = vreinterpretq_f64_f32(vzip1q_f32(x, y));
            let high = vreinterpretq_f64_f32(vzip2q_f32(x, y));
            let twice = [
                vdupq_laneq_f64::<0>(low),
                vdupq_laneq_f64::<1>(low),
                vdupq_laneq_f64::<0>(high),
                vdupq_laneq_f64::<1>(high),
            ];
            twice.map(|scales| vreinterpretq_f32_f64(scales))
        }
    }

    #[inline(always)]
    unsafe fn add_product(
        mut sums: Self::Floats,
        codes: &Self::Codes,
        scales: Scales,
        a: [*const Packed; 2],
    ) -> Self::Floats {
        for block in 0..BLOCKS {
            // SAFETY: the caller's promise of a pair.
            unsafe {
                let (half, at) = (&*a[block / 2].cast::<Pair>(), block % 2);
                let part = |i: usize| vld1q_s8(half.codes[2 * at + i].as_ptr().cast());
                let t = dots(vdupq_n_s32(0), part(0), codes[2 * block]);
                let t = dots(t, part(1), codes[2 * block + 1]);
                let t = vmulq_f32(vcvtq_f32_s32(t), vld1q_f32(half.scales[at].as_ptr()));
                sums[block] = vfmaq_f32(sums[block], t, scales[block]);
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn totals([a, b, c, d]: Self::Floats) -> [[f32; ROWS]; 2] {
        let mut lanes = [0.0; 4];
        // SAFETY: four values.
        unsafe {
            let total = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
            vst1q_f32(lanes.as_mut_ptr(), total);
        }
        let [a, b, c, d] = lanes;
        [[a, b, 0.0, 0.0], [c, d, 0.0, 0.0]]
    }
}
