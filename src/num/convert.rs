//! Conversions of whole slices.
//!
//! Bit for bit what the element's own conversion gives, one by one; written as loops without
//! branches, which compilers vectorise.

use super::{E2M1, E2M1x2};

/// The values of packed FP4 codes: `dst[i]` from the low nibble of `src[i / 2]` for even `i`,
/// from the high one for odd `i`. The last high nibble is skipped when `dst` is odd.
///
/// # Panics
/// Unless `src.len() == dst.len().div_ceil(2)`; as `copy_from_slice`, for lengths that the caller
/// has checked.
pub fn unpack_e2m1(src: &[E2M1x2], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len().div_ceil(2), "unpack_e2m1: two values to a byte");
    let mut pairs = dst.chunks_exact_mut(2);
    for (pair, byte) in pairs.by_ref().zip(src) {
        pair.copy_from_slice(&PAIRS[usize::from(byte.to_bits())]);
    }
    if let ([last], Some(byte)) = (pairs.into_remainder(), src.last()) {
        *last = byte.lo().to_f32();
    }
}

/// Rounds each value as [`E2M1::from_f32`] does (saturating; NaN gives 6) and packs two to a byte,
/// the lower index in the low nibble. With an odd number of values the last high nibble is 0.
///
/// # Panics
/// Unless `dst.len() == src.len().div_ceil(2)`; as `copy_from_slice`, for lengths that the caller
/// has checked.
pub fn pack_e2m1(src: &[f32], dst: &mut [E2M1x2]) {
    assert_eq!(dst.len(), src.len().div_ceil(2), "pack_e2m1: two values to a byte");
    // Codes first, then nibbles: each step alone vectorises, both in one do not.
    const BLOCK: usize = 64;
    let mut codes = [0; BLOCK];
    for (values, bytes) in src.chunks(BLOCK).zip(dst.chunks_mut(BLOCK / 2)) {
        let codes = &mut codes[..values.len()];
        for (code, &x) in codes.iter_mut().zip(values) {
            *code = E2M1::code_of(x);
        }
        let (pairs, rest) = codes.as_chunks();
        for (byte, [lo, hi]) in bytes.iter_mut().zip(pairs) {
            *byte = E2M1x2::from_bits(lo | hi << 4);
        }
        if let ([last], Some(byte)) = (rest, bytes.last_mut()) {
            *byte = E2M1x2::from_bits(*last);
        }
    }
}

/// The index of the first NaN or infinity.
pub fn first_non_finite(values: &[f32]) -> Option<usize> {
    // Whole blocks first: finding where inside one it is would keep the loop from vectorising.
    const BLOCK: usize = 64;
    let block =
        values.chunks(BLOCK).position(|b| b.iter().fold(false, |f, x| f | !x.is_finite()))?;
    let start = block * BLOCK;
    values[start..].iter().position(|x| !x.is_finite()).map(|i| start + i)
}

/// Both values of every byte of packed FP4.
static PAIRS: [[f32; 2]; 256] = {
    let mut pairs = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = E2M1x2::from_bits(byte as u8).to_f32s();
        byte += 1;
    }
    pairs
};
