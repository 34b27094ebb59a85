//! f32 to narrow elements and blocks, bit for bit as [`Scalar::from_f32`] and quantisers round.

use super::Level;
use super::per_level::per_level;
use crate::error::Result;
use crate::format::RowQuantizer;
use crate::num::{DType, Scalar, f16};

/// Rounds to another float type.
///
/// # Panics
/// When the lengths differ.
pub fn narrow<E: Scalar>(level: Level, src: &[f32], dst: &mut [E]) {
    assert_eq!(src.len(), dst.len(), "an element for each f32");
    if E::DTYPE == DType::F16
        && let Ok(dst) = bytemuck::try_cast_slice_mut::<E, u16>(dst)
    {
        narrow_f16(level, src, dst);
    } else {
        narrow_each(level, src, dst);
    }
}

per_level! {
    /// [`RowQuantizer::quantize_band`] compiled for the level.
    pub fn quantize_band(
        quantizer: &RowQuantizer,
        band: usize,
        src: &[f32],
        codes: &mut [u8],
        scales: &mut [u8],
    ) -> Result<()> {
        quantizer.quantize_band(band, src, codes, scales)
    }

    fn narrow_each<E: Scalar>(src: &[f32], dst: &mut [E]) {
        for (dst, src) in dst.iter_mut().zip(src) {
            *dst = E::from_f32(*src);
        }
    }
}

fn narrow_f16(level: Level, src: &[f32], dst: &mut [u16]) {
    let done = match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: both levels have F16C.
        Level::Avx2 | Level::Avx512 | Level::Avx512Vbmi => unsafe { f16c(src, dst) },
        _ => 0,
    };
    for (dst, src) in dst.iter_mut().zip(src).skip(done) {
        *dst = f16::from_f32(*src).to_bits();
    }
}

/// Whole vectors; gives how many elements that was.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,f16c")]
fn f16c(src: &[f32], dst: &mut [u16]) -> usize {
    use std::arch::x86_64::*;
    let (src, dst) = (src.as_chunks::<8>().0, dst.as_chunks_mut::<8>().0);
    for (src, dst) in src.iter().zip(dst.iter_mut()) {
        // SAFETY: eight values are read, eight written.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(src.as_ptr()));
            _mm_storeu_si128(dst.as_mut_ptr().cast(), half);
        }
    }
    src.len() * 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::levels;
    use crate::num::{F8E4M3, F8E5M2, bf16};

    /// f32 around every value of a 16-bit float and every midpoint, every 65521st, and all NaN
    /// patterns of the upper bits.
    fn values() -> Vec<f32> {
        let near = |bits: u32| [bits.wrapping_sub(1), bits, bits.wrapping_add(1)];
        let bf16s = (0..=u16::MAX).flat_map(|x| near(u32::from(x) << 16));
        let ties = (0..=u16::MAX).flat_map(|x| near((u32::from(x) << 16) | 0x8000));
        let f16s = (0..0x7C00u16).map(f16::from_bits);
        let halves = f16s.flat_map(|x| {
            let (low, high) = (x.to_f32(), f16::from_bits(x.to_bits() + 1).to_f32());
            let high = if high.is_finite() { high } else { 65536.0 };
            near(low.midpoint(high).to_bits()).into_iter().chain(near(low.to_bits()))
        });
        let all = bf16s.chain(ties).chain(halves).chain((0..u32::MAX).step_by(65521));
        all.flat_map(|bits| [bits, bits ^ 1 << 31]).map(f32::from_bits).collect()
    }

    fn same_bits<E: Scalar>(values: &[f32]) {
        for level in levels() {
            let mut found = vec![E::from_f32(0.0); values.len()];
            narrow(level, values, &mut found);
            for (x, found) in values.iter().zip(found) {
                let wanted = E::from_f32(*x);
                assert!(
                    bytemuck::bytes_of(&found) == bytemuck::bytes_of(&wanted),
                    "{level:?} {}: {x:e} gives {found:?}, not {wanted:?}",
                    E::DTYPE
                );
            }
        }
    }

    #[test]
    fn every_level_rounds_as_the_element_does() {
        let values = values();
        same_bits::<bf16>(&values);
        same_bits::<f16>(&values);
        same_bits::<F8E4M3>(&values);
        same_bits::<F8E5M2>(&values);
        same_bits::<f32>(&values);
    }
}
