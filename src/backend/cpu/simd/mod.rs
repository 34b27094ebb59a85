//! Register tiles of dot products, per instruction-set level.
//!
//! The one idea that all CPU matrix products rest on: an output is the dot product of two rows
//! that are contiguous along k, kept as [`LANES`] partial sums by lane and added up at the end by
//! halves, in chunks along k ([`chunk`]) whose sums are added in order. That order follows from k
//! and the way the right-hand rows are stored, and is the same for every tile shape, so a result
//! does not depend on how many rows or threads there are; levels with fused multiply-add give the
//! same bits as each other.

mod decode;
mod fold;
pub mod int8;
mod lanes;
mod map;
mod math;
mod narrow;
#[cfg(target_arch = "aarch64")]
mod neon;
mod online;
mod order;
mod outer;
mod per_level;
mod portable;
mod rotate;
mod stream;
mod strips;
mod tile;
mod unpack;
mod unpacked;
mod weights;
mod widen;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use decode::{columns, rows};
pub use fold::{accumulate, all_finite, gather, join, normalize, position, softmax, squares};
pub use map::{binary, unary};
pub use narrow::{narrow, quantize_band};
pub use online::{Gathered, Line, Score, divide, join_values, online};
pub use outer::{COLUMNS, products, transpose};
pub use rotate::{rotate, sin_cos};
pub use stream::{CHUNK, GROUP, chunk, stream, stream_rows};
pub use strips::{BAND, Bands, STRIP, by_lanes, by_lanes_len, place, strip, strips_pay};
pub use unpack::Fp4Table;
pub use unpacked::unpack;
pub use weights::{Code, Scales, Weights, interleave};
pub use widen::{decode_e2m1, widen};

use lanes::{Lanes, Work};
use tile::Out;

use std::ops::Range;

use crate::caps::Isa;
use crate::memory::MatrixMut;

/// Partial sums of a dot product; rows are padded with zeros to a multiple of it.
pub const LANES: usize = 16;

/// Rows of f32, each contiguous: row `i` starts at `i · stride`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
    /// How many rows.
    pub len: usize,
}

impl<'a> Rows<'a> {
    /// Some of them.
    pub fn part(&self, rows: Range<usize>) -> Rows<'a> {
        let data = self.data.get(rows.start * self.stride..).unwrap_or_default();
        Rows { data, stride: self.stride, len: rows.len() }
    }

    fn holds(&self, k: usize) -> bool {
        self.len == 0 || (self.len - 1) * self.stride + k <= self.data.len()
    }
}

/// The instruction-set level that kernels run at, chosen once for a device. What is behind it, and
/// why there is no level for more of Arm's extensions: [`ISA_VARIABLE`](crate::device::ISA_VARIABLE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What every machine of this architecture has.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL, and all of AVX2's level.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// All of that, and VBMI.
    #[cfg(target_arch = "x86_64")]
    Avx512Vbmi,
    /// Advanced SIMD, written as such: every 64-bit Arm machine has it.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// The best of the levels present.
    pub fn of(isa: &[Isa]) -> Self {
        // `isa` may be anything: what is not there is not used.
        #[cfg(target_arch = "x86_64")]
        {
            let has = |level| isa.contains(&level) && present(level);
            if has(Isa::Avx512Vnni) {
                return Level::Avx512Vbmi;
            }
            if has(Isa::Avx512) {
                return Level::Avx512;
            }
            if has(Isa::Avx2Fma) {
                return Level::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        if isa.contains(&Isa::Neon) {
            return Level::Neon;
        }
        let _ = isa;
        Level::Portable
    }
}

/// Whether this machine has a level.
fn present(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        match isa {
            Isa::Avx2Fma => return has!("avx2") && has!("fma") && has!("f16c"),
            Isa::Avx512 => {
                let wide = has!("avx512f") && has!("avx512bw");
                let wide = wide && has!("avx512dq") && has!("avx512vl");
                // What is compiled for this level uses the other's instructions too.
                return wide && present(Isa::Avx2Fma);
            }
            Isa::Avx512Vnni => {
                return has!("avx512vnni") && has!("avx512vbmi") && present(Isa::Avx512);
            }
            _ => {}
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected as has;
        match isa {
            Isa::Neon => return true,
            Isa::NeonDot => return has!("dotprod"),
            Isa::NeonI8mm => return has!("i8mm"),
            _ => {}
        }
    }
    let _ = isa;
    false
}

/// The levels that this machine has.
pub fn detect() -> Vec<Isa> {
    const ARM: [Isa; 3] = [Isa::Neon, Isa::NeonDot, Isa::NeonI8mm];
    let all = [Isa::Avx2Fma, Isa::Avx512, Isa::Avx512Vnni].into_iter().chain(ARM);
    all.filter(|&isa| present(isa)).collect()
}

/// Every level that this machine can run.
#[cfg(test)]
fn levels() -> Vec<Level> {
    let sets = [&[] as &[Isa], &[Isa::Avx2Fma], &[Isa::Avx512], &detect()];
    let mut levels: Vec<_> = sets.into_iter().map(Level::of).collect();
    levels.dedup();
    levels
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Has the processor fetch some values to its second-level cache.
pub fn prefetch<T>(values: &[T]) {
    prefetch_from(values.as_ptr().cast(), size_of_val(values));
}

/// The same for bytes that need not be there.
#[inline(always)]
fn prefetch_from(first: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(LINE) {
        prefetch_line(first.wrapping_add(at));
    }
}

/// The same for the line of an address.
#[inline(always)]
fn prefetch_line(address: *const u8) {
    // A hint that needs no level.
    #[cfg(target_arch = "x86_64")]
    x86::Avx2::prefetch(address);
    #[cfg(target_arch = "aarch64")]
    neon::Neon::prefetch(address);
    let _ = address;
}

/// Has the processor fetch some values that will be overwritten: other processors that have them are
/// to give them up.
pub fn prefetch_to_write<T>(values: &[T]) {
    let first = values.as_ptr().cast::<u8>();
    for at in (0..size_of_val(values)).step_by(LINE) {
        prefetch_line_to_write(first.wrapping_add(at));
    }
}

/// The same for the line of an address, which need not be valid.
#[inline(always)]
fn prefetch_line_to_write(address: *const u8) {
    // SAFETY: a hint, without effect on any state; processors that lack it pass it over. The
    // intrinsic is the instruction only where a feature is on that is not stable.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!(
            "prefetchw [{}]", in(reg) address,
            options(nostack, preserves_flags, readonly)
        );
    }
    let _ = address;
}

/// `out[i, j] = a[i] · b[j]` over the first `k` elements of each row, in one chunk.
///
/// # Panics
/// When `k` is not a multiple of [`LANES`], a row reaches past its slice, or an output has no place.
pub fn dots(level: Level, a: Rows<'_>, b: Rows<'_>, k: usize, out: MatrixMut<'_, f32>) {
    tiles(level, a, b, k, out, false);
}

/// As [`dots`], added to what is in `out`.
///
/// # Panics
/// As [`dots`].
pub fn add_dots(level: Level, a: Rows<'_>, b: Rows<'_>, k: usize, out: MatrixMut<'_, f32>) {
    tiles(level, a, b, k, out, true);
}

fn tiles(level: Level, a: Rows<'_>, b: Rows<'_>, k: usize, out: MatrixMut<'_, f32>, add: bool) {
    assert!(k.is_multiple_of(LANES), "rows are padded to whole vectors");
    assert!(a.holds(k) && b.holds(k), "rows lie inside their slices");
    let out = Out::of(out, (a.len, b.len), add);
    // SAFETY: the assertions above keep every access inside its slice or matrix.
    unsafe { lanes::at(level, Dots { a, b, k, out }) }
}

/// The operands of [`tiles`].
struct Dots<'a> {
    a: Rows<'a>,
    b: Rows<'a>,
    k: usize,
    out: Out,
}

impl Work for Dots<'_> {
    /// Tiles of 4 × 6 take 24 of 32 registers for sums, 3 × 4 twelve of 16. Where a vector is two
    /// registers, 2 × 6 leave room for both of every operand, which 3 × 4 do not.
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Dots { a, b, k, out } = self;
        // SAFETY: what `tiles` asserts.
        unsafe {
            match V::WIDTH {
                16 => tile::dots::<V, 4, 6>(a, b, k, out),
                8 if cfg!(target_arch = "aarch64") => tile::dots::<V, 2, 6>(a, b, k, out),
                8 => tile::dots::<V, 3, 4>(a, b, k, out),
                _ => tile::dots::<V, 2, 4>(a, b, k, out),
            }
        }
    }
}
