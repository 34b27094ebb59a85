//! Four lanes at a time, with what every machine has.

use super::super::portable::Four;
use super::{
    Bf16, E4m3, E5m2, F16, Fp4Row, LANES, Mxfp4, Nvfp4, Storage, Stored, Unpack, fp4_element,
};
use crate::num::{F8E4M3, F8E5M2, Scalar, bf16, f16};

/// Four elements of a scalar type.
///
/// # Safety
/// `from` is valid for four elements.
#[inline(always)]
unsafe fn four<E: Scalar>(from: *const u8) -> [f32; 4] {
    // SAFETY: the caller's promise; unaligned, as bytes of files are.
    let elements = unsafe { from.cast::<[E; 4]>().read_unaligned() };
    elements.map(|x| x.to_f32())
}

macro_rules! plain {
    ($($name:ident: $E:ty),*) => {$(
        impl Unpack<Four> for $name {
            type Raw = *const u8;

            #[inline(always)]
            unsafe fn load(from: Stored, _fp4: *const Fp4Row, pass: usize) -> Self::Raw {
                from.codes.wrapping_add(pass * 4 * size_of::<$E>())
            }

            #[inline(always)]
            unsafe fn value<const STEP: usize>(raw: *const u8) -> Four {
                // SAFETY: four elements of vector STEP of the group.
                Four(unsafe { four::<$E>(raw.add(STEP * 16 * size_of::<$E>())) })
            }
        }
    )*};
}

plain!(Bf16: bf16, F16: f16);

macro_rules! fp8 {
    ($($name:ident: $E:ty),*) => {$(
        impl Unpack<Four> for $name {
            type Raw = (*const u8, f32);

            #[inline(always)]
            unsafe fn load(from: Stored, _fp4: *const Fp4Row, pass: usize) -> Self::Raw {
                // SAFETY: four bytes of scale.
                let scale = unsafe { from.scales.cast::<f32>().read_unaligned() };
                (from.codes.wrapping_add(pass * 4), scale)
            }

            #[inline(always)]
            unsafe fn value<const STEP: usize>((codes, scale): Self::Raw) -> Four {
                // SAFETY: four elements of vector STEP of the group.
                Four(unsafe { four::<$E>(codes.add(STEP * 16)) }.map(|x| x * scale))
            }
        }
    )*};
}

fp8!(E4m3: F8E4M3, E5m2: F8E5M2);

macro_rules! fp4 {
    ($($name:ident),*) => {$(
        impl Unpack<Four> for $name {
            type Raw = (*const u8, *const u8, *const Fp4Row, usize);

            #[inline(always)]
            unsafe fn load(from: Stored, fp4: *const Fp4Row, pass: usize) -> Self::Raw {
                (from.codes, from.scales, fp4, pass)
            }

            #[inline(always)]
            unsafe fn value<const STEP: usize>((codes, scales, fp4, pass): Self::Raw) -> Four {
                // SAFETY: the block's codes and scale, and the row of that scale.
                let (codes, row) = unsafe {
                    let codes = codes.add(8 * STEP).cast::<[u8; 8]>().read();
                    let scale = *scales.add(STEP * LANES / <$name as Storage>::BLOCK);
                    (u64::from_le_bytes(codes), &(*fp4.add(<$name as Storage>::row(scale))).0)
                };
                Four(std::array::from_fn(|lane| {
                    row[(codes >> (4 * fp4_element(4 * pass + lane))) as usize % 16]
                }))
            }
        }
    )*};
}

fp4!(Nvfp4, Mxfp4);
