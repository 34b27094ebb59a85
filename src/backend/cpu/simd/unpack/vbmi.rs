//! FP8 by tables of bytes, 64 codes at a time.
//!
//! The upper half of an f32 holds every value of FP8. Its two bytes are looked up by the magnitude,
//! and side by side they are words, of which shifts and masks make f32: 14 instructions and the
//! products with scales for 64 codes.

use std::arch::x86_64::*;

use super::super::x86::Avx512;
use super::{Fp4Row, Storage, Stored, Unpack};

/// FP8 E4M3 with an f32 scale for each 32.
pub(in super::super) struct E4m3Table;

/// FP8 E5M2 with an f32 scale for each 32.
pub(in super::super) struct E5m2Table;

/// Lower and upper bytes of the upper halves of the f32 with the magnitudes 0 to 127.
type Bytes = [[u8; 128]; 2];

/// The tables of a format with so many bits of mantissa, the bias of its exponents, and the codes
/// from the first special one on.
const fn bytes(mantissa: u32, bias: u16, special: &[u16]) -> Bytes {
    const F32_BIAS: u16 = 127;
    const F32_MANTISSA: u32 = 7;
    let mut bytes = [[0; 128]; 2];
    let mut code = 0;
    while code < 128 {
        let (exponent, fraction) = (code >> mantissa, code & ((1 << mantissa) - 1));
        let bits = if code as usize >= 128 - special.len() {
            special[code as usize + special.len() - 128]
        } else if exponent > 0 {
            (exponent + F32_BIAS - bias) << F32_MANTISSA | fraction << (F32_MANTISSA - mantissa)
        } else if fraction > 0 {
            // The first bit set becomes the hidden one.
            let shift = F32_MANTISSA - fraction.ilog2();
            let exponent = F32_BIAS + F32_MANTISSA as u16 + 1 - bias - mantissa as u16;
            (exponent - shift as u16) << F32_MANTISSA | (fraction << shift) & 0x7F
        } else {
            0
        };
        [bytes[0][code as usize], bytes[1][code as usize]] = bits.to_le_bytes();
        code += 1;
    }
    bytes
}

const NAN: u16 = 0x7FC0;
const INFINITY: u16 = 0x7F80;

/// From which code each byte comes, so that after bytes were joined to words within 128 bits, and
/// these split to even and odd ones, elements are in order.
const ORDER: [u8; 64] = {
    let mut order = [0; 64];
    let mut at = 0;
    while at < 64 {
        let (quarter, place) = (at / 16, at % 16);
        let vector = place / 8 * 2 + place % 2;
        order[at] = (16 * vector + 4 * quarter + place % 8 / 2) as u8;
        at += 1;
    }
    order
};

/// Words of the first and the last two vectors, and the scales.
type Raw = ([__m512i; 2], *const f32);

/// # Safety
/// AVX-512 BW and VBMI; a group of codes.
#[inline(always)]
unsafe fn load(from: Stored, bytes: &'static Bytes) -> Raw {
    // SAFETY: the caller's promise; tables are two registers each.
    unsafe {
        let read = |from: *const u8| _mm512_loadu_si512(from.cast());
        let codes = _mm512_permutexvar_epi8(read(ORDER.as_ptr()), read(from.codes));
        let look_up = |table: &'static [u8; 128]| {
            let (low, high) = table.split_at(64);
            // By the lower seven bits.
            _mm512_permutex2var_epi8(read(low.as_ptr()), codes, read(high.as_ptr()))
        };
        let (low, high) = (look_up(&bytes[0]), look_up(&bytes[1]));
        // high | (codes & sign)
        let high = _mm512_ternarylogic_epi32::<0xF8>(high, codes, _mm512_set1_epi8(i8::MIN));
        let words = [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)];
        (words, from.scales.cast())
    }
}

/// # Safety
/// AVX-512 F; what `raw` was loaded from is there.
#[inline(always)]
unsafe fn value<const STEP: usize>((words, scales): Raw) -> Avx512 {
    // SAFETY: the caller's promise: a scale for each two steps.
    unsafe {
        let words = words[STEP / 2];
        let bits = match STEP % 2 {
            0 => _mm512_slli_epi32::<16>(words),
            _ => _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF_0000_u32 as i32)),
        };
        let scale = _mm512_set1_ps(scales.add(STEP / 2).read_unaligned());
        Avx512(_mm512_mul_ps(_mm512_castsi512_ps(bits), scale))
    }
}

macro_rules! table {
    ($($name:ident: $bytes:expr;)*) => {$(
        impl Storage for $name {
            const STEPS: usize = 4;
            const CODE_BYTES: usize = 64;
            const SCALE_BYTES: usize = 8;
            const BLOCK: usize = 32;
            const ROWS: usize = 1;
        }

        impl Unpack<Avx512> for $name {
            type Raw = Raw;

            #[inline(always)]
            unsafe fn load(from: Stored, _fp4: *const Fp4Row, _pass: usize) -> Raw {
                static BYTES: Bytes = $bytes;
                // SAFETY: the caller's promise of a group.
                unsafe { load(from, &BYTES) }
            }

            #[inline(always)]
            unsafe fn value<const STEP: usize>(raw: Raw) -> Avx512 {
                // SAFETY: what `load` was promised.
                unsafe { value::<STEP>(raw) }
            }
        }
    )*};
}

table! {
    E4m3Table: bytes(3, 7, &[NAN]);
    E5m2Table: bytes(2, 15, &[INFINITY, NAN, NAN, NAN]);
}
