//! One row at a time, by dot products of signed bytes.

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::unpack::Storage;
use super::portable;
use super::{DOUBLED, Factor, Packed, Quad, ROWS};

/// A row in registers of Advanced SIMD.
pub(super) struct One;

/// `t` plus the products of four bytes in each lane.
///
/// # Safety
/// Dot products are present.
#[inline(always)]
unsafe fn dot(mut t: int32x4_t, codes: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes registers only; the intrinsic is not stable.
    unsafe {
        asm!(
            "sdot {t:v}.4s, {codes:v}.16b, {a:v}.16b",
            t = inout(vreg) t,
            codes = in(vreg) codes,
            a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    t
}

impl Quad for One {
    const ROWS: usize = 1;

    type Codes = [int8x16_t; 4];

    type Scales = float32x4_t;

    type Floats = float32x4_t;

    #[inline(always)]
    fn zero() -> float32x4_t {
        // SAFETY: part of the architecture.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    unsafe fn codes(rows: [*const u8; ROWS]) -> [int8x16_t; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let x = vreinterpretq_u32_u8(vld1q_u8(rows[0]));
            let y = vreinterpretq_u32_u8(vld1q_u8(rows[0].add(16)));
            let first = vreinterpretq_u8_u32(vuzp1q_u32(x, y));
            let second = vreinterpretq_u8_u32(vuzp2q_u32(x, y));
            let table = vld1q_s8(DOUBLED.as_ptr());
            let low = |codes| vqtbl1q_s8(table, vandq_u8(codes, vdupq_n_u8(15)));
            let high = |codes| vqtbl1q_s8(table, vshrq_n_u8::<4>(codes));
            [low(first), high(first), low(second), high(second)]
        }
    }

    #[inline(always)]
    unsafe fn scales<S: Storage>(rows: [*const u8; ROWS], factor: Factor) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vld1q_f32(portable::scales::<S>(rows[0], factor).as_ptr()) }
    }

    #[inline(always)]
    unsafe fn add_product(
        sum: float32x4_t,
        codes: &[int8x16_t; 4],
        scales: float32x4_t,
        [a, _]: [*const Packed; 2],
    ) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let a = &*a;
            let mut t = vdupq_n_s32(0);
            for (codes, a) in codes.iter().zip(&a.codes) {
                t = dot(t, *codes, vld1q_s8(a.as_ptr()));
            }
            let t = vmulq_f32(vcvtq_f32_s32(t), vld1q_f32(a.scales.as_ptr()));
            vfmaq_f32(sum, t, scales)
        }
    }

    #[inline(always)]
    unsafe fn totals(sums: float32x4_t) -> [[f32; ROWS]; 2] {
        let mut lanes = [0.0; 4];
        // SAFETY: four values.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), sums) };
        let [a, b, c, d] = lanes;
        [[(a + c) + (b + d); ROWS]; 2]
    }
}
