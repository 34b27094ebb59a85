//! Register tiles of dot products, per instruction-set level.
//!
//! The one idea that all CPU matrix products rest on: an output is the dot product of two rows
//! that are contiguous along k, kept as [`LANES`] partial sums by `k mod LANES` and added up at
//! the end by halves. That order is the same for every tile shape, so a result does not depend on
//! how many rows or threads there are; levels with fused multiply-add give the same bits as each
//! other.

mod fold;
mod map;
mod math;
mod narrow;
mod online;
mod outer;
mod per_level;
mod portable;
mod rotate;
mod tile;
mod widen;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use fold::{accumulate, gather, join, normalize, position, softmax, squares};
pub use map::{binary, unary};
pub use narrow::{narrow, quantize_band};
pub use online::{Gathered, Score, divide, join_values, online, scale};
pub use outer::{COLUMNS, prefetch, products, transpose};
pub use rotate::{rotate, sin_cos};
pub use widen::{decode_e2m1, widen};

use crate::caps::Isa;

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

impl Rows<'_> {
    fn holds(&self, k: usize) -> bool {
        self.len == 0 || (self.len - 1) * self.stride + k <= self.data.len()
    }
}

/// The instruction-set level that kernels run at, chosen once for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What every machine of this architecture has.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best of the levels present.
    pub fn of(isa: &[Isa]) -> Self {
        // `isa` may be anything: what is not there is not used.
        #[cfg(target_arch = "x86_64")]
        {
            let has = |level| isa.contains(&level) && present(level);
            if has(Isa::Avx512) {
                return Level::Avx512;
            }
            if has(Isa::Avx2Fma) {
                return Level::Avx2;
            }
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
                return wide && has!("avx512dq") && has!("avx512vl");
            }
            _ => {}
        }
    }
    cfg!(target_arch = "aarch64") && isa == Isa::Neon
}

/// The levels that this machine has.
pub fn detect() -> Vec<Isa> {
    [Isa::Avx2Fma, Isa::Avx512, Isa::Neon].into_iter().filter(|&isa| present(isa)).collect()
}

/// Every level that this machine can run.
#[cfg(test)]
fn levels() -> Vec<Level> {
    let mut levels = vec![Level::Portable, Level::of(&[Isa::Avx2Fma]), Level::of(&detect())];
    levels.dedup();
    levels
}

/// `out[i · out_stride + j] = a[i] · b[j]` over the first `k` elements of each row.
///
/// # Panics
/// When `k` is not a multiple of [`LANES`], or a row or output reaches past its slice.
pub fn dots(level: Level, a: Rows<'_>, b: Rows<'_>, k: usize, out: &mut [f32], out_stride: usize) {
    assert!(k.is_multiple_of(LANES), "rows are padded to whole vectors");
    assert!(a.holds(k) && b.holds(k), "rows lie inside their slices");
    assert!(
        a.len == 0 || b.len == 0 || (a.len - 1) * out_stride + b.len <= out.len(),
        "outputs lie inside their slice"
    );
    match level {
        Level::Portable => portable::dots(a, b, k, out, out_stride),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            // SAFETY: `Level::of` gives this level only where AVX2 and FMA were detected; the
            // assertions above keep every access inside its slice.
            unsafe { x86::dots_avx2(a, b, k, out, out_stride) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => {
            // SAFETY: `Level::of` gives this level only where AVX-512 F was detected; the
            // assertions above keep every access inside its slice.
            unsafe { x86::dots_avx512(a, b, k, out, out_stride) }
        }
    }
}
