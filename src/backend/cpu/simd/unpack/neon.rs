//! Eight lanes at a time, in two registers.
//!
//! FP8 E4M3 and FP4 go through the upper half of an f32, which needs no conversion instruction: of
//! those a core has half as many, or a quarter, as of others.

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::neon::Neon;
use super::{Bf16, E4m3, E5m2, F16, Fp4Row, LANES, Mxfp4, Nvfp4, Storage, Stored, Unpack};
use crate::num::E2M1;

/// The upper halves of eight f32, as f32.
///
/// # Safety
/// None: part of the architecture.
#[inline(always)]
unsafe fn upper(bits: uint16x8_t) -> [float32x4_t; 2] {
    // SAFETY: part of the architecture.
    unsafe {
        let zero = vdupq_n_u16(0);
        let (low, high) = (vzip1q_u16(zero, bits), vzip2q_u16(zero, bits));
        [vreinterpretq_f32_u16(low), vreinterpretq_f32_u16(high)]
    }
}

/// Eight f16 as f32.
///
/// # Safety
/// None: part of the architecture; the intrinsics are not stable.
#[inline(always)]
unsafe fn halves(bits: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: the instructions read and write registers only.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {bits:v}.4h",
            "fcvtl2 {high:v}.4s, {bits:v}.8h",
            bits = in(vreg) bits,
            low = out(vreg) low,
            high = lateout(vreg) high,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [low, high]
}

impl Unpack<Neon> for Bf16 {
    type Raw = *const u8;

    #[inline(always)]
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, pass: usize) -> Self::Raw {
        from.codes.wrapping_add(16 * pass)
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>(raw: *const u8) -> Neon {
        // SAFETY: 16 bytes of a group of 64.
        unsafe { Neon(upper(vreinterpretq_u16_u8(vld1q_u8(raw.add(32 * STEP))))) }
    }
}

impl Unpack<Neon> for F16 {
    type Raw = *const u8;

    #[inline(always)]
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, pass: usize) -> Self::Raw {
        from.codes.wrapping_add(16 * pass)
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>(raw: *const u8) -> Neon {
        // SAFETY: 16 bytes of a group of 64.
        unsafe { Neon(halves(vreinterpretq_u16_u8(vld1q_u8(raw.add(32 * STEP))))) }
    }
}

/// Codes of half of each vector, and their scale.
///
/// # Safety
/// Four readable bytes of scale.
#[inline(always)]
unsafe fn fp8(from: Stored, pass: usize) -> (*const u8, f32) {
    // SAFETY: the caller's promise.
    let scale = unsafe { from.scales.cast::<f32>().read_unaligned() };
    (from.codes.wrapping_add(8 * pass), scale)
}

impl Unpack<Neon> for E4m3 {
    type Raw = (*const u8, f32);

    #[inline(always)]
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, pass: usize) -> Self::Raw {
        // SAFETY: the caller's promise of a group.
        unsafe { fp8(from, pass) }
    }

    /// E4M3 has bf16's layout with a shorter exponent field and mantissa: shifted into place its
    /// value is 2¹²⁰ times too small, for the biases are 7 and 127.
    #[inline(always)]
    unsafe fn value<const STEP: usize>((codes, scale): Self::Raw) -> Neon {
        // SAFETY: 8 bytes of a group of 32.
        unsafe {
            let codes = vcombine_u8(vld1_u8(codes.add(16 * STEP)), vdup_n_u8(0));
            let top = vreinterpretq_s16_u8(vzip1q_u8(vdupq_n_u8(0), codes));
            let bits = vreinterpretq_u16_s16(vshrq_n_s16::<4>(top));
            let magnitude = vdupq_n_u16(0x07F0);
            let nan = vceqq_u16(vandq_u16(bits, magnitude), magnitude);
            let bits = vorrq_u16(vandq_u16(bits, vdupq_n_u16(0x87F0)), nan);
            Neon(upper(bits).map(|x| vmulq_n_f32(vmulq_n_f32(x, 2f32.powi(120)), scale)))
        }
    }
}

impl Unpack<Neon> for E5m2 {
    type Raw = (*const u8, f32);

    #[inline(always)]
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, pass: usize) -> Self::Raw {
        // SAFETY: the caller's promise of a group.
        unsafe { fp8(from, pass) }
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>((codes, scale): Self::Raw) -> Neon {
        // SAFETY: 8 bytes of a group of 32. E5M2 is the upper byte of an f16.
        unsafe {
            let codes = vcombine_u8(vld1_u8(codes.add(16 * STEP)), vdup_n_u8(0));
            let bits = vreinterpretq_u16_u8(vzip1q_u8(vdupq_n_u8(0), codes));
            Neon(halves(bits).map(|x| vmulq_n_f32(x, scale)))
        }
    }
}

/// Half a group of codes, a byte each in the order of lanes, and its scales with the table of their
/// products with codes.
#[derive(Clone, Copy)]
pub(in super::super) struct Fp4 {
    codes: [uint8x16_t; 2],
    scales: *const u8,
    rows: *const Fp4Row,
}

/// A byte of the upper half of each code's value as an f32.
const fn byte(shift: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut code = 0;
    while code < 16 {
        bytes[code] = (E2M1::VALUES[code].to_bits() >> shift) as u8;
        code += 1;
    }
    bytes
}

/// Of each block's eight bytes, those of the first and of the second half in turn.
const ORDER: [u8; 16] = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15];

/// The codes of a group at even nibbles (`pass` 0) or odd ones.
///
/// # Safety
/// 32 readable bytes.
#[inline(always)]
unsafe fn fp4_codes(from: *const u8, pass: usize) -> [uint8x16_t; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let order = vld1q_u8(ORDER.as_ptr());
        let half = |i: usize| {
            let codes = vqtbl1q_u8(vld1q_u8(from.add(16 * i)), order);
            if pass == 0 { vandq_u8(codes, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(codes) }
        };
        [half(0), half(1)]
    }
}

/// Half a block: values times the scale, which is its product with code 2, a one.
///
/// # Safety
/// The table has a row for each scale.
#[inline(always)]
unsafe fn fp4<S: Storage, const STEP: usize>(raw: Fp4) -> Neon {
    const { assert!(E2M1::VALUES[2] == 1.0) };
    // SAFETY: the caller's promise: a scale for each step or two.
    unsafe {
        let codes = raw.codes[STEP / 2];
        let look_up = |table: &'static [u8; 16]| vqtbl1q_u8(vld1q_u8(table.as_ptr()), codes);
        let (low, high) = (look_up(&const { byte(16) }), look_up(&const { byte(24) }));
        let bits = if STEP % 2 == 0 { vzip1q_u8(low, high) } else { vzip2q_u8(low, high) };
        let row = raw.rows.add(S::row(*raw.scales.add(STEP * LANES / S::BLOCK)));
        let scale = (*row).0[2];
        Neon(upper(vreinterpretq_u16_u8(bits)).map(|x| vmulq_n_f32(x, scale)))
    }
}

macro_rules! fp4 {
    ($($name:ident),*) => {$(
        impl Unpack<Neon> for $name {
            type Raw = Fp4;

            #[inline(always)]
            unsafe fn load(from: Stored, fp4: *const Fp4Row, pass: usize) -> Self::Raw {
                // SAFETY: 32 bytes of codes.
                let codes = unsafe { fp4_codes(from.codes, pass) };
                Fp4 { codes, scales: from.scales, rows: fp4 }
            }

            #[inline(always)]
            unsafe fn value<const STEP: usize>(raw: Fp4) -> Neon {
                // SAFETY: what `load` was promised.
                unsafe { fp4::<$name, STEP>(raw) }
            }
        }
    )*};
}

fp4!(Nvfp4, Mxfp4);
