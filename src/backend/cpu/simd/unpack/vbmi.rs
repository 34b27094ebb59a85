//! FP8 by tables of bytes, 64 codes at a time.
//!
//! The upper half of an f32 holds every value of FP8. Its two bytes are looked up by the magnitude,
//! and side by side they are words, of which shifts and masks make f32: 14 instructions and the
//! products with scales for 64 codes.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::super::x86::Avx512;
use super::{Fp4Row, Storage, Stored, Unpack};

/// FP8 with an f32 scale for each 32, looked up in the table of a format.
pub(in super::super) struct Table<T>(PhantomData<T>);

/// The table of a format.
pub(in super::super) trait TableOf {
    const BYTES: &'static Bytes;
}

pub(in super::super) struct OfE4m3;
pub(in super::super) struct OfE5m2;

pub(in super::super) type E4m3Table = Table<OfE4m3>;
pub(in super::super) type E5m2Table = Table<OfE5m2>;

/// Lower and upper bytes of the upper halves of the f32 with the magnitudes 0 to 127.
pub(in super::super) type Bytes = [[u8; 128]; 2];

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
/// these split to even and odd ones, elements are in order: lane `l` of vector `v` is code
/// `v · V + l · L`.
const fn order<const V: usize, const L: usize>() -> [u8; 64] {
    let mut order = [0; 64];
    let mut at = 0;
    while at < 64 {
        let (quarter, place) = (at / 16, at % 16);
        let vector = place / 8 * 2 + place % 2;
        order[at] = (vector * V + (4 * quarter + place % 8 / 2) * L) as u8;
        at += 1;
    }
    order
}

impl<T: TableOf> Table<T> {
    /// The words of four vectors, two vectors in each: lane `l` of vector `v` is that of code
    /// `v · V + l · L`.
    ///
    /// # Safety
    /// AVX-512 BW and VBMI.
    #[inline(always)]
    pub(in super::super) unsafe fn look_up<const V: usize, const L: usize>(
        codes: __m512i,
    ) -> [__m512i; 2] {
        // SAFETY: the caller's promise; tables are two registers each.
        unsafe {
            let read = |from: *const u8| _mm512_loadu_si512(from.cast());
            let order: &'static [u8; 64] = &const { order::<V, L>() };
            let codes = _mm512_permutexvar_epi8(read(order.as_ptr()), codes);
            let look_up = |table: &'static [u8; 128]| {
                let (low, high) = table.split_at(64);
                // By the lower seven bits.
                _mm512_permutex2var_epi8(read(low.as_ptr()), codes, read(high.as_ptr()))
            };
            let (low, high) = (look_up(&T::BYTES[0]), look_up(&T::BYTES[1]));
            // high | (codes & sign)
            let high = _mm512_ternarylogic_epi32::<0xF8>(high, codes, _mm512_set1_epi8(i8::MIN));
            [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)]
        }
    }

    /// A vector of the words.
    ///
    /// # Safety
    /// AVX-512 F.
    #[inline(always)]
    pub(in super::super) unsafe fn vector<const V: usize>(words: [__m512i; 2]) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let words = words[V / 2];
            _mm512_castsi512_ps(match V % 2 {
                0 => _mm512_slli_epi32::<16>(words),
                _ => _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF_0000_u32 as i32)),
            })
        }
    }
}

impl<T> Storage for Table<T> {
    const STEPS: usize = 4;
    const CODE_BYTES: usize = 64;
    const SCALE_BYTES: usize = 8;
    const BLOCK: usize = 32;
    const ROWS: usize = 1;
}

impl<T: TableOf> Unpack<Avx512> for Table<T> {
    /// Words of the first and the last two vectors, and the scales.
    type Raw = ([__m512i; 2], *const f32);

    #[inline(always)]
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, _pass: usize) -> Self::Raw {
        // SAFETY: the caller's promise of a group.
        let words = unsafe { Self::look_up::<16, 1>(_mm512_loadu_si512(from.codes.cast())) };
        (words, from.scales.cast())
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>((words, scales): Self::Raw) -> Avx512 {
        // SAFETY: the caller's promise: a scale for each two steps.
        unsafe {
            let scale = _mm512_set1_ps(scales.add(STEP / 2).read_unaligned());
            Avx512(_mm512_mul_ps(Self::vector::<STEP>(words), scale))
        }
    }
}

impl TableOf for OfE4m3 {
    const BYTES: &'static Bytes = &bytes(3, 7, &[NAN]);
}

impl TableOf for OfE5m2 {
    const BYTES: &'static Bytes = &bytes(2, 15, &[INFINITY, NAN, NAN, NAN]);
}
