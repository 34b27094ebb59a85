//! Products of FP4 rows with rows of int8, in integers.
//!
//! Twice an FP4 value is an integer from −12 to 12, so the products of a block of 16 and their sum
//! are exact in an i32. A lane is a block: of each row of weights four blocks stand side by side, as
//! many rows in a register as it has room for.
//!
//! ```text
//! 64 elements of a row of A:  four blocks of int8 codes, −12 · their sum, and their scales
//! 64 elements of 4 rows of B: 4 vectors of codes + 12, for x86 multiplies unsigned by signed bytes
//!
//!     t = −12 · Σ a + Σ (w + 12) · a      a lane for each row and block, exact
//!     sum += (f32(t) · scale of a) · scale of w
//! ```
//!
//! The four sums of a row, each along k, are added up by halves at the end. Streamed or unpacked
//! beforehand, for one row of A or many, at every level with fused multiply-add: the same operations
//! in the same order, hence the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod i8mm;
#[cfg(target_arch = "aarch64")]
mod neon;
mod packed;
mod portable;
mod products;

pub use packed::{Packed, pack_fp4, pair, quantize};
pub use products::{PANEL_WORDS, STREAM_ROWS, panel, products, stream};

use super::present;
use super::unpack::{Fp4Row, Storage, Stored};
use crate::caps::Isa;

/// Elements that share a scale of A.
pub const BLOCK: usize = 16;

/// Blocks of a row that are multiplied at once.
const BLOCKS: usize = 4;

/// Elements that are multiplied at once.
pub const GROUP: usize = BLOCKS * BLOCK;

/// Most rows of weights in a register.
const ROWS: usize = 4;

/// Twice the value of each FP4 code.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// What makes them unsigned.
const OFFSET: i32 = 12;

/// The instructions that integer products are made with, chosen once for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Int8Level {
    /// What every machine of this architecture has.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with VNNI and VBMI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// Advanced SIMD with dot products.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    /// Advanced SIMD with products of 2 × 2 rows.
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
}

impl Int8Level {
    /// The best of the levels present.
    pub fn of(isa: &[Isa]) -> Self {
        let has = |level| isa.contains(&level) && present(level);
        #[cfg(target_arch = "x86_64")]
        {
            if has(Isa::Avx512Vnni) {
                return Int8Level::Avx512Vnni;
            }
            if has(Isa::Avx2Fma) {
                return Int8Level::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            if has(Isa::NeonI8mm) {
                return Int8Level::NeonI8mm;
            }
            if has(Isa::NeonDot) {
                return Int8Level::NeonDot;
            }
        }
        let _ = has;
        Int8Level::Portable
    }

    /// Places that `rows` rows of A take: where they are stored as [`pair`]s, an even number.
    pub fn places(self, rows: usize) -> usize {
        match self {
            #[cfg(target_arch = "aarch64")]
            Int8Level::NeonI8mm => rows.next_multiple_of(2),
            _ => rows,
        }
    }
}

/// Registers of four blocks for each of some rows of weights.
trait Quad {
    /// Rows in a register: 1, 2 or 4.
    const ROWS: usize;

    /// Rows of A that are multiplied at once: 1, or 2 that are a [`pair`].
    const A_ROWS: usize = 1;

    /// Four vectors of codes, each four bytes of every lane's block: at even places of its first
    /// half, at odd places of it, then so of its second half. For pairs of rows as [`pair`] says.
    type Codes: Copy;

    /// The scales, an f32 for each lane: row by row, block by block.
    type Scales: Copy;

    /// Sums for each lane, and row of A.
    type Floats: Copy;

    fn zero() -> Self::Floats;

    /// The codes of a group, as [`Quad::add_product`] takes them.
    ///
    /// # Safety
    /// The level is present; the first [`Quad::ROWS`] pointers are valid for 32 bytes.
    unsafe fn codes(rows: [*const u8; ROWS]) -> Self::Codes;

    /// Half of the scales of a group.
    ///
    /// # Safety
    /// The level is present; the first [`Quad::ROWS`] pointers are valid for the scales of a group
    /// of storage `S`, and `factor` is that of the weights.
    unsafe fn scales<S: Storage>(rows: [*const u8; ROWS], factor: Factor) -> Self::Scales;

    /// `sum + (Σ codes · a's codes · a's scale) · scale`, for each lane.
    ///
    /// # Safety
    /// The level is present, and the first [`Quad::A_ROWS`] of `a` are valid for reading.
    unsafe fn add_product(
        sum: Self::Floats,
        codes: &Self::Codes,
        scales: Self::Scales,
        a: [*const Packed; 2],
    ) -> Self::Floats;

    /// The sum of each row's lanes, by halves: the third to the first and the fourth to the second,
    /// then the one to the other; for each row of A. What is beyond [`Quad::ROWS`] and
    /// [`Quad::A_ROWS`] means nothing.
    ///
    /// # Safety
    /// The level is present.
    unsafe fn totals(sums: Self::Floats) -> [[f32; ROWS]; 2];

    /// Asks for the cache line at an address, which need not be valid, in the second-level cache.
    fn prefetch(_address: *const u8) {}
}

/// What the scales of weights are multiplied by: half of the tensor scale, which the integers are
/// twice too large for; and the rows of the products of scales with codes, in which half a scale is
/// the one with code 1.
#[derive(Clone, Copy)]
struct Factor {
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "for levels that compute scales")
    )]
    half: f32,
    table: *const Fp4Row,
}

/// The same place in several rows.
#[derive(Clone, Copy)]
struct Places([Stored; ROWS]);

impl Places {
    /// The codes of group `g`.
    #[inline(always)]
    fn codes<S: Storage>(&self, g: usize) -> [*const u8; ROWS] {
        self.0.map(|row| row.codes.wrapping_add(g * S::CODE_BYTES))
    }

    /// The scales of group `g`.
    #[inline(always)]
    fn scales<S: Storage>(&self, g: usize) -> [*const u8; ROWS] {
        self.0.map(|row| row.scales.wrapping_add(g * S::SCALE_BYTES))
    }
}
