//! Four lanes at a time, with what every machine has.

use super::super::portable::Four;
use super::{Bf16, E4m3, E5m2, F16, Mxfp4, Nvfp4, Storage, Unpack};
use crate::num::{E2M1, E8M0, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, f16};

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
            unsafe fn load(
                codes: *const u8,
                _scales: *const u8,
                _factor: f32,
                pass: usize,
            ) -> *const u8 {
                codes.wrapping_add(pass * 4 * size_of::<$E>())
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
            unsafe fn load(
                codes: *const u8,
                scales: *const u8,
                _factor: f32,
                pass: usize,
            ) -> Self::Raw {
                // SAFETY: four bytes of scale.
                let scale = unsafe { scales.cast::<f32>().read_unaligned() };
                (codes.wrapping_add(pass * 4), scale)
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
    ($($name:ident: $S:ty),*) => {$(
        impl Unpack<Four> for $name {
            type Raw = ([u32; 4], [f32; 4]);

            #[inline(always)]
            unsafe fn load(
                codes: *const u8,
                scales: *const u8,
                factor: f32,
                pass: usize,
            ) -> Self::Raw {
                // Lanes that share a scale.
                let share = 16 / <$name as Storage>::SCALE_BYTES;
                let scale = |lane: usize| {
                    // SAFETY: a scale of the group; the type is a byte.
                    let scale = unsafe { *scales.add((pass * 4 + lane) / share).cast::<$S>() };
                    scale.to_f32() * factor
                };
                let lane = |lane: usize| {
                    // SAFETY: four bytes of the group for each lane.
                    let bytes = unsafe { codes.add((pass * 4 + lane) * 4).cast::<[u8; 4]>().read() };
                    u32::from_le_bytes(bytes)
                };
                (std::array::from_fn(lane), std::array::from_fn(scale))
            }

            #[inline(always)]
            unsafe fn value<const STEP: usize>((codes, scales): Self::Raw) -> Four {
                let value = |lane: usize| {
                    let code = (codes[lane] >> (4 * STEP)) & 0xF;
                    E2M1::VALUES[code as usize] * scales[lane]
                };
                Four(std::array::from_fn(value))
            }
        }
    )*};
}

fp4!(Nvfp4: UE4M3, Mxfp4: E8M0);
