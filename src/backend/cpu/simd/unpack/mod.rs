//! How stored elements become lanes of f32.
//!
//! A row is read in groups of [`LANES`]` · STEPS` elements, which become `STEPS` vectors. Wide
//! elements keep their order: element k is in lane k mod 16. Of FP4, a vector is a block of 16 with
//! its own scale in an order that one shift by lane makes of its eight bytes: see [`fp4_element`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod vbmi;

#[cfg(target_arch = "x86_64")]
pub(super) use vbmi::{E4m3Table, E5m2Table, Table, TableOf};

use std::sync::LazyLock;

use super::LANES;
use super::lanes::Lanes;
use crate::num::{DType, E2M1, E8M0, UE4M3};

/// The products of a scale with the 16 codes of FP4: a cache line, in the order of the codes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Fp4Row([f32; 16]);

impl Fp4Row {
    /// Half of the scale: its product with code 1.
    pub(super) fn half(&self) -> f32 {
        self.0[1]
    }
}

/// The products of every scale of FP4 codes, times a tensor scale, with every code.
#[derive(Debug)]
pub struct Fp4Table(Vec<Fp4Row>);

impl Fp4Table {
    /// For scales of that type, UE4M3 or E8M0; `None` for others.
    pub fn new(scale: DType, factor: f32) -> Option<Self> {
        let value: fn(u8) -> f32 = match scale {
            DType::UE4M3 => |bits| UE4M3::from_bits(bits).to_f32(),
            DType::E8M0 => |bits| E8M0::from_bits(bits).to_f32(),
            _ => return None,
        };
        let mut rows = vec![Fp4Row([0.0; 16]); if scale == DType::UE4M3 { 128 } else { 256 }];
        // Made anew for each product: plain loops, which become vectors.
        for (bits, row) in (0..=u8::MAX).zip(&mut rows) {
            let scale = value(bits) * factor;
            for (product, code) in row.0.iter_mut().zip(&E2M1::VALUES) {
                *product = code * scale;
            }
        }
        Some(Fp4Table(rows))
    }

    /// The one of a type of scales without a tensor scale.
    pub fn plain(scale: DType) -> Option<&'static Self> {
        static NVFP4: LazyLock<Option<Fp4Table>> =
            LazyLock::new(|| Fp4Table::new(DType::UE4M3, 1.0));
        static MXFP4: LazyLock<Option<Fp4Table>> =
            LazyLock::new(|| Fp4Table::new(DType::E8M0, 1.0));
        match scale {
            DType::UE4M3 => NVFP4.as_ref(),
            DType::E8M0 => MXFP4.as_ref(),
            _ => None,
        }
    }

    /// A row for each scale.
    pub(super) fn rows(&self) -> &[Fp4Row] {
        &self.0
    }
}

/// Which element of a block of 16 FP4 codes is in a lane: from 0 to 7 those of the first four bytes
/// at even nibbles and of the last four in turn, then those at odd nibbles.
pub const fn fp4_element(lane: usize) -> usize {
    lane % 2 * 8 + lane / 2 % 4 * 2 + lane / 8
}

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
    /// Scales of FP4: the rows of their table.
    const ROWS: usize;

    /// The row of a scale of FP4.
    #[inline(always)]
    fn row(scale: u8) -> usize {
        usize::from(scale) % Self::ROWS
    }

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

/// Where a stretch of a stored row begins.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub codes: *const u8,
    pub scales: *const u8,
}

impl Stored {
    /// Where the group after `g` others begins.
    #[inline(always)]
    pub fn group<S: Storage>(self, g: usize) -> Self {
        Stored {
            codes: self.codes.wrapping_add(g * S::CODE_BYTES),
            scales: self.scales.wrapping_add(g * S::SCALE_BYTES),
        }
    }
}

/// What is left of a row behind its whole groups, padded with zeros to one.
pub(super) struct Tail {
    codes: [u8; 64],
    scales: [u8; 8],
}

impl Tail {
    pub const ZERO: Tail = Tail { codes: [0; 64], scales: [0; 8] };

    /// # Safety
    /// The row has `rest` elements, fewer than a group, behind `whole` groups.
    #[inline(always)]
    pub unsafe fn fill<S: Storage>(&mut self, row: Stored, whole: usize, rest: usize) {
        let from = row.group::<S>(whole);
        // SAFETY: the bytes of the elements that are there, and of a group no more than there is
        // room for.
        unsafe {
            from.codes.copy_to_nonoverlapping(self.codes.as_mut_ptr(), S::code_bytes(rest));
            from.scales.copy_to_nonoverlapping(self.scales.as_mut_ptr(), S::scale_bytes(rest));
        }
    }

    pub fn stored(&self) -> Stored {
        Stored { codes: self.codes.as_ptr(), scales: self.scales.as_ptr() }
    }
}

/// Storage that unpacks to vectors of type `V`.
pub(super) trait Unpack<V: Lanes>: Storage {
    /// What is read of a group at once.
    type Raw: Copy;

    /// Reads the lanes `pass · WIDTH ..` of a group.
    ///
    /// # Safety
    /// `from` is valid for a group's codes and scales, for FP4 that of the table for all of
    /// [`Storage::ROWS`]; the level of `V` is present.
    unsafe fn load(from: Stored, fp4: *const Fp4Row, pass: usize) -> Self::Raw;

    /// Vector `STEP` of the group.
    ///
    /// # Safety
    /// `raw` comes from [`Unpack::load`], and what it was loaded from is still there.
    unsafe fn value<const STEP: usize>(raw: Self::Raw) -> V;
}

macro_rules! storage {
    ($($(#[$doc:meta])* $name:ident: $steps:literal, $codes:literal, $scales:literal, $block:literal, $rows:literal;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Storage for $name {
            const STEPS: usize = $steps;
            const CODE_BYTES: usize = $codes;
            const SCALE_BYTES: usize = $scales;
            const BLOCK: usize = $block;
            const ROWS: usize = $rows;
        }
    )*};
}

storage! {
    /// f32 as it is.
    F32: 1, 64, 0, 16, 1;
    /// bf16: the upper half of an f32.
    Bf16: 2, 64, 0, 32, 1;
    /// IEEE half precision.
    F16: 2, 64, 0, 32, 1;
    /// FP8 E4M3 with an f32 scale a group.
    E4m3: 2, 32, 4, 32, 1;
    /// FP8 E5M2 with an f32 scale a group.
    E5m2: 2, 32, 4, 32, 1;
    /// FP4 with a UE4M3 scale for each 16.
    Nvfp4: 4, 32, 4, 16, 128;
    /// FP4 with an E8M0 scale for each 32.
    Mxfp4: 4, 32, 2, 32, 256;
}

impl<V: Lanes> Unpack<V> for F32 {
    type Raw = *const f32;

    #[inline(always)]
    unsafe fn load(from: Stored, _fp4: *const Fp4Row, pass: usize) -> Self::Raw {
        from.codes.cast::<f32>().wrapping_add(pass * V::WIDTH)
    }

    #[inline(always)]
    unsafe fn value<const STEP: usize>(raw: *const f32) -> V {
        // SAFETY: the group that `load` was promised.
        unsafe { V::load(raw) }
    }
}
