//! How stored elements become lanes of f32.
//!
//! A row is read in groups of [`LANES`]` · STEPS` elements, which become `STEPS` vectors. Wide
//! elements keep their order: element k is in lane k mod 16. Of FP4, a lane takes the eight codes
//! of four bytes, so that shifts and one table look-up unpack them: element k is in lane
//! (k / 8) mod 16.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::LANES;
use super::tile::Lanes;

/// The sizes of a group in some storage.
pub(super) trait Storage {
    /// Vectors of a group: at most 8.
    const STEPS: usize;
    /// Bytes of codes of a group: at most 64.
    const CODE_BYTES: usize;
    /// Bytes of scales of a group: at most 8.
    const SCALE_BYTES: usize;
    /// Elements that share a scale.
    const BLOCK: usize;

    /// Bytes of codes that hold `n` elements.
    fn code_bytes(n: usize) -> usize {
        (n * Self::CODE_BYTES).div_ceil(LANES * Self::STEPS)
    }

    /// Bytes of scales that `n` elements of a group have.
    fn scale_bytes(n: usize) -> usize {
        let blocks = LANES * Self::STEPS / Self::BLOCK;
        n.div_ceil(Self::BLOCK) * (Self::SCALE_BYTES / blocks)
    }
}

/// Storage that unpacks to vectors of type `V`.
pub(super) trait Unpack<V: Lanes>: Storage {
    /// What is read of a group at once.
    type Raw: Copy;

    /// Reads the lanes `pass · WIDTH ..` of a group. Scales are multiplied by `factor`.
    ///
    /// # Safety
    /// The pointers are valid for a group's codes and scales; the level of `V` is present.
    unsafe fn load(codes: *const u8, scales: *const u8, factor: f32, pass: usize) -> Self::Raw;

    /// Vector `STEP` of the group.
    ///
    /// # Safety
    /// `raw` comes from [`Unpack::load`], and what it was loaded from is still there.
    unsafe fn value<const STEP: usize>(raw: Self::Raw) -> V;
}

macro_rules! storage {
    ($($(#[$doc:meta])* $name:ident: $steps:literal, $codes:literal, $scales:literal, $block:literal;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Storage for $name {
            const STEPS: usize = $steps;
            const CODE_BYTES: usize = $codes;
            const SCALE_BYTES: usize = $scales;
            const BLOCK: usize = $block;
        }
    )*};
}

storage! {
    /// f32 as it is.
    F32: 1, 64, 0, 16;
    /// bf16: the upper half of an f32.
    Bf16: 2, 64, 0, 32;
    /// IEEE half precision.
    F16: 2, 64, 0, 32;
    /// FP8 E4M3 with an f32 scale a group.
    E4m3: 2, 32, 4, 32;
    /// FP8 E5M2 with an f32 scale a group.
    E5m2: 2, 32, 4, 32;
    /// FP4 with a UE4M3 scale for each 16.
    Nvfp4: 8, 64, 8, 16;
    /// FP4 with an E8M0 scale for each 32.
    Mxfp4: 8, 64, 4, 32;
}

impl<V: Lanes> Unpack<V> for F32 {
    type Raw = *const f32;

    #[inline(always)]
    unsafe fn load(codes: *const u8, _scales: *const u8, _factor: f32, pass: usize) -> *const f32 {
        codes.cast::<f32>().wrapping_add(pass * V::WIDTH)
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>(raw: *const f32) -> V {
        // SAFETY: the group that `load` was promised.
        unsafe { V::load(raw) }
    }
}
