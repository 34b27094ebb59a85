//! Narrow elements to f32, sixteen at a time.
//!
//! Every conversion is exact, so each level gives the bits of [`Scalar::to_f32`].

use super::Level;
#[cfg(target_arch = "x86_64")]
use crate::num::DType;
use crate::num::{E2M1, Scalar};

/// Converts elements of a narrow float type to f32.
///
/// # Panics
/// When the lengths differ.
pub fn widen<E: Scalar>(level: Level, src: &[E], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len(), "one f32 for each element");
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vbmi => {
            let whole = src.len() / 16 * 16;
            let bytes: &[u8] = bytemuck::cast_slice(&src[..whole]);
            let done = match E::DTYPE {
                // SAFETY: the level is present, and there are two bytes for each f32.
                DType::BF16 => unsafe { x86::bf16_to_f32(bytes, &mut dst[..whole]) },
                // SAFETY: as above.
                DType::F16 => unsafe { x86::f16_to_f32(bytes, &mut dst[..whole]) },
                // SAFETY: the level is present, and there is one byte for each f32.
                DType::F8E4M3 => unsafe { x86::e4m3_to_f32(bytes, &mut dst[..whole]) },
                // SAFETY: as above.
                DType::F8E5M2 => unsafe { x86::e5m2_to_f32(bytes, &mut dst[..whole]) },
                _ => 0,
            };
            E::to_f32_slice(&src[done..], &mut dst[done..]);
        }
        _ => E::to_f32_slice(src, dst),
    }
}

/// Decodes packed FP4 codes with one scale for each `block` of them: `(code · scale) · g`.
///
/// # Panics
/// When `block` is not a multiple of 16, or there are not a scale and a byte for each block and
/// pair of values.
pub fn decode_e2m1(
    level: Level,
    codes: &[u8],
    scales: &[f32],
    block: usize,
    g: f32,
    dst: &mut [f32],
) {
    assert!(block.is_multiple_of(16) && block > 0, "blocks are whole vectors");
    let blocks = dst.len().div_ceil(block);
    assert!(scales.len() >= blocks, "a scale for each block");
    assert!(codes.len() * 2 >= dst.len(), "a byte for each pair");
    let done = match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vbmi => {
            let whole = dst.len() / block * block;
            // SAFETY: the level is present; the assertions above give each block of `dst` its
            // scale and its bytes.
            unsafe { x86::e2m1_to_f32(codes, scales, block, g, &mut dst[..whole]) }
        }
        _ => 0,
    };
    for (i, x) in dst.iter_mut().enumerate().skip(done) {
        let code = codes[i / 2] >> (4 * (i % 2));
        *x = E2M1::from_bits(code).to_f32() * scales[i / block] * g;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use crate::num::E2M1;

    /// # Safety
    /// AVX-512 F; `src` has two bytes for each f32 of `dst`, whose length is a multiple of 16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn bf16_to_f32(src: &[u8], dst: &mut [f32]) -> usize {
        for (src, dst) in src.chunks_exact(32).zip(dst.chunks_exact_mut(16)) {
            // SAFETY: 32 bytes are read, 16 values written.
            unsafe {
                let bits = _mm256_loadu_si256(src.as_ptr().cast());
                let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits));
                _mm512_storeu_ps(dst.as_mut_ptr(), _mm512_castsi512_ps(wide));
            }
        }
        dst.len()
    }

    /// # Safety
    /// As [`bf16_to_f32`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn f16_to_f32(src: &[u8], dst: &mut [f32]) -> usize {
        for (src, dst) in src.chunks_exact(32).zip(dst.chunks_exact_mut(16)) {
            // SAFETY: 32 bytes are read, 16 values written.
            unsafe {
                let bits = _mm256_loadu_si256(src.as_ptr().cast());
                _mm512_storeu_ps(dst.as_mut_ptr(), _mm512_cvtph_ps(bits));
            }
        }
        dst.len()
    }

    /// E4M3 has f16's layout with a shorter exponent field and mantissa: shifted into place its
    /// value is 2⁸ times too small, for the biases are 7 and 15.
    ///
    /// # Safety
    /// AVX-512 F, BW and VL; `src` has a byte for each f32 of `dst`, whose length is a multiple
    /// of 16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn e4m3_to_f32(src: &[u8], dst: &mut [f32]) -> usize {
        let (magnitude, nan) = (_mm256_set1_epi16(0x7F), _mm256_set1_epi16(0x7E00));
        for (src, dst) in src.chunks_exact(16).zip(dst.chunks_exact_mut(16)) {
            // SAFETY: 16 bytes are read, 16 values written.
            unsafe {
                let codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(src.as_ptr().cast()));
                let sign = _mm256_slli_epi16::<8>(_mm256_andnot_si256(magnitude, codes));
                let rest = _mm256_and_si256(codes, magnitude);
                let is_nan = _mm256_cmpeq_epi16(rest, magnitude);
                let half = _mm256_or_si256(_mm256_slli_epi16::<7>(rest), sign);
                let half = _mm256_or_si256(half, _mm256_and_si256(is_nan, nan));
                let value = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0));
                _mm512_storeu_ps(dst.as_mut_ptr(), value);
            }
        }
        dst.len()
    }

    /// E5M2 is the upper byte of an f16.
    ///
    /// # Safety
    /// As [`e4m3_to_f32`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn e5m2_to_f32(src: &[u8], dst: &mut [f32]) -> usize {
        for (src, dst) in src.chunks_exact(16).zip(dst.chunks_exact_mut(16)) {
            // SAFETY: 16 bytes are read, 16 values written.
            unsafe {
                let codes = _mm256_cvtepu8_epi16(_mm_loadu_si128(src.as_ptr().cast()));
                let value = _mm512_cvtph_ps(_mm256_slli_epi16::<8>(codes));
                _mm512_storeu_ps(dst.as_mut_ptr(), value);
            }
        }
        dst.len()
    }

    /// Whole blocks: codes picked from the table of their values, times the scale, times `g`.
    ///
    /// # Safety
    /// AVX-512 F, BW and VL; `block` is a multiple of 16, the length of `dst` one of `block`, and
    /// there are half a byte for each f32 and a scale for each block.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn e2m1_to_f32(
        codes: &[u8],
        scales: &[f32],
        block: usize,
        g: f32,
        dst: &mut [f32],
    ) -> usize {
        // SAFETY: the table has 16 values.
        let values = unsafe { _mm512_loadu_ps(E2M1::VALUES.as_ptr()) };
        let (g, nibble) = (_mm512_set1_ps(g), _mm_set1_epi8(0x0F));
        let blocks = dst.chunks_exact_mut(block).zip(codes.chunks_exact(block / 2)).zip(scales);
        for ((dst, codes), &scale) in blocks {
            let scale = _mm512_set1_ps(scale);
            for (codes, dst) in codes.chunks_exact(8).zip(dst.chunks_exact_mut(16)) {
                // SAFETY: 8 bytes are read, 16 values written.
                unsafe {
                    let packed = _mm_loadl_epi64(codes.as_ptr().cast());
                    let low = _mm_and_si128(packed, nibble);
                    let high = _mm_and_si128(_mm_srli_epi16::<4>(packed), nibble);
                    let index = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(low, high));
                    let value = _mm512_permutexvar_ps(index, values);
                    let value = _mm512_mul_ps(_mm512_mul_ps(value, scale), g);
                    _mm512_storeu_ps(dst.as_mut_ptr(), value);
                }
            }
        }
        dst.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::detect;
    use crate::num::{F8E4M3, F8E5M2, bf16, f16};

    fn same_bits<E: Scalar>(codes: Vec<E>) {
        for level in [Level::Portable, Level::of(&detect())] {
            let mut values = vec![0.0; codes.len()];
            widen(level, &codes, &mut values);
            for (code, value) in codes.iter().zip(values) {
                let wanted = code.to_f32();
                let same = wanted.to_bits() == value.to_bits() || wanted.is_nan() && value.is_nan();
                assert!(same, "{level:?} {}: {code:?} is {wanted}, not {value}", E::DTYPE);
            }
        }
    }

    #[test]
    fn every_code_widens_to_its_value() {
        same_bits((0..=u8::MAX).map(F8E4M3::from_bits).chain([F8E4M3::MAX; 3]).collect());
        same_bits((0..=u8::MAX).map(F8E5M2::from_bits).chain([F8E5M2::MAX; 3]).collect());
        same_bits((0..=u16::MAX).map(bf16::from_bits).chain([bf16::ONE; 3]).collect());
        same_bits((0..=u16::MAX).map(f16::from_bits).chain([f16::ONE; 3]).collect());
    }

    #[test]
    fn every_fp4_code_decodes_to_code_times_scale_times_g() {
        let codes: Vec<u8> = (0..=u8::MAX).collect();
        let scales: Vec<f32> = (0..32).map(|i| 0.37 * i as f32).collect();
        for level in [Level::Portable, Level::of(&detect())] {
            for len in [512, 509] {
                let mut values = vec![0.0; len];
                decode_e2m1(level, &codes, &scales, 16, 1.7, &mut values);
                for (i, value) in values.iter().enumerate() {
                    let code = E2M1::from_bits(codes[i / 2] >> (4 * (i % 2)));
                    assert_eq!(*value, code.to_f32() * scales[i / 16] * 1.7);
                }
            }
        }
    }
}
