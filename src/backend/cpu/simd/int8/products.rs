//! The loops over rows of A and of weights.

use std::ops::Range;

use super::super::Rows;
use super::super::per_level::compiled_for;
use super::super::stream::{AHEAD, NEAR};
use super::super::tile::Out;
use super::super::unpack::{Mxfp4, Nvfp4, Storage, Tail};
use super::super::weights::{Code, Weights};
use super::{Factor, GROUP, Int8Level, Packed, Places, Quad, ROWS};
use crate::memory::MatrixMut;

/// Bytes of a cache line.
const LINE: usize = 64;

/// The most rows that [`stream`] multiplies.
pub const STREAM_ROWS: usize = 4;

/// Most f32 that a group of a row of weights takes in a panel: its codes as bytes, and four scales,
/// which some levels have twice.
pub const PANEL_WORDS: usize =
    GROUP / size_of::<f32>() + if cfg!(target_arch = "aarch64") { 8 } else { 4 };

/// f32 of a group of a row of A.
const PACKED_WORDS: usize = size_of::<Packed>() / size_of::<f32>();

/// Unpacked codes and scales of a group.
#[derive(Clone, Copy)]
#[repr(C)]
struct Unpacked<Q: Quad> {
    codes: Q::Codes,
    scales: Q::Scales,
}

/// Calls `$f` with the vectors of the level and the storage of the weights.
macro_rules! each_level {
    ($level:expr, $code:expr, $f:ident($($argument:expr),*)) => {
        match $level {
            Int8Level::Portable => each_level!($code, portable::$f($($argument),*)),
            #[cfg(target_arch = "x86_64")]
            Int8Level::Avx2 => each_level!($code, avx2::$f($($argument),*)),
            #[cfg(target_arch = "x86_64")]
            Int8Level::Avx512Vnni => each_level!($code, avx512vnni::$f($($argument),*)),
            #[cfg(target_arch = "aarch64")]
            Int8Level::NeonDot => each_level!($code, dotprod::$f($($argument),*)),
            #[cfg(target_arch = "aarch64")]
            Int8Level::NeonI8mm => each_level!($code, i8mm::$f($($argument),*)),
        }
    };
    ($code:expr, $module:ident::$f:ident($($argument:expr),*)) => {
        match $code {
            Code::Mxfp4 => $module::$f::<Mxfp4>($($argument),*),
            _ => $module::$f::<Nvfp4>($($argument),*),
        }
    };
}

/// Whether rows of A are groups of `k` elements, in as many places as the level wants.
fn holds(level: Int8Level, a: Rows<'_>, k: usize) -> bool {
    let words = k.div_ceil(GROUP) * PACKED_WORDS;
    a.len == 0 || (level.places(a.len) - 1) * a.stride + words <= a.data.len()
}

/// `out[i, j] = a[i] · w[rows.start + j]`, the weights as they are stored. Rows of `a`
/// are [`Packed`] groups, stored as [`pair`](super::pair) does it for the level.
///
/// # Panics
/// With more than [`STREAM_ROWS`] rows of `a`, where a row or output is missing, and for weights
/// that are not FP4.
pub fn stream(
    level: Int8Level,
    a: Rows<'_>,
    weights: &Weights<'_>,
    rows: Range<usize>,
    out: MatrixMut<'_, f32>,
) {
    assert!(a.len <= STREAM_ROWS && holds(level, a, weights.k()), "rows of a");
    assert!(rows.start <= rows.end && rows.end <= weights.len(), "rows of weights");
    assert!(weights.is_fp4(), "weights in FP4");
    let columns = rows.end - rows.start;
    if a.len == 0 || columns == 0 {
        return;
    }
    let out = Out::of(out, (a.len, columns), false);
    // SAFETY: `Int8Level::of` gives no level that is not there; rows and outputs were checked.
    unsafe { each_level!(level, weights.code(), stream_at(a, weights, rows, out)) }
}

/// Rows of weights unpacked for [`products`]: for each [`ROWS`] of them, begun or whole,
/// [`PANEL_WORDS`] for each group and row. The panel starts a cache line.
///
/// # Panics
/// Where a row is missing, the panel is too small, and for weights that are not FP4.
pub fn panel(level: Int8Level, weights: &Weights<'_>, rows: Range<usize>, panel: &mut [f32]) {
    assert!(rows.start <= rows.end && rows.end <= weights.len(), "rows of weights");
    assert!(weights.is_fp4(), "weights in FP4");
    check_panel(panel, rows.end - rows.start, weights.k());
    // SAFETY: as in `stream`.
    unsafe { each_level!(level, weights.code(), panel_at(weights, rows, panel.as_mut_ptr())) }
}

fn check_panel(panel: &[f32], columns: usize, k: usize) {
    let words = columns.next_multiple_of(ROWS) * k.div_ceil(GROUP) * PANEL_WORDS;
    assert!(words <= panel.len(), "room for all rows");
    assert!(panel.as_ptr().addr().is_multiple_of(LINE), "the panel starts a cache line");
}

/// `out[i, j] = a[i] · w[j]` for `columns` rows that [`panel`] unpacked at this level.
///
/// # Panics
/// Where a row or output is missing.
pub fn products(
    level: Int8Level,
    a: Rows<'_>,
    panel: &[f32],
    (columns, k): (usize, usize),
    out: MatrixMut<'_, f32>,
) {
    assert!(holds(level, a, k), "rows of a");
    check_panel(panel, columns, k);
    if a.len == 0 || columns == 0 {
        return;
    }
    let out = Out::of(out, (a.len, columns), false);
    // SAFETY: as in `stream`.
    unsafe {
        let panel = panel.as_ptr();
        match level {
            Int8Level::Portable => portable::products_at(a, panel, (columns, k), out),
            #[cfg(target_arch = "x86_64")]
            Int8Level::Avx2 => avx2::products_at(a, panel, (columns, k), out),
            #[cfg(target_arch = "x86_64")]
            Int8Level::Avx512Vnni => avx512vnni::products_at(a, panel, (columns, k), out),
            #[cfg(target_arch = "aarch64")]
            Int8Level::NeonDot => dotprod::products_at(a, panel, (columns, k), out),
            #[cfg(target_arch = "aarch64")]
            Int8Level::NeonI8mm => i8mm::products_at(a, panel, (columns, k), out),
        }
    }
}

/// The functions of one level: generic code, compiled with its instructions. A tile of `MR` rows, or
/// pairs of rows, of A and `NR` registers of weights keeps its sums, and what it takes of either, in registers.
macro_rules! level {
    ($level:ident, $Q:ty, $MR:literal by $NR:literal) => {
        mod $level {
            use super::*;

            compiled_for! {
                $level:
                /// # Safety
                /// As [`super::stream_rows`], and the level is present.
                pub(super) unsafe fn stream_at<S: Storage>(
                    a: Rows<'_>,
                    weights: &Weights<'_>,
                    rows: Range<usize>,
                    out: Out,
                ) {
                    // SAFETY: the caller's promises.
                    unsafe {
                        match a.len.div_ceil(<$Q>::A_ROWS) {
                            1 => stream_rows::<$Q, S, 1>(a, weights, rows, out),
                            2 => stream_rows::<$Q, S, 2>(a, weights, rows, out),
                            3 => stream_rows::<$Q, S, 3>(a, weights, rows, out),
                            _ => stream_rows::<$Q, S, 4>(a, weights, rows, out),
                        }
                    }
                }
            }

            compiled_for! {
                $level:
                /// # Safety
                /// As [`super::unpack_rows`], and the level is present.
                pub(super) unsafe fn panel_at<S: Storage>(
                    weights: &Weights<'_>,
                    rows: Range<usize>,
                    panel: *mut f32,
                ) {
                    // SAFETY: the caller's promises.
                    unsafe { unpack_rows::<$Q, S>(weights, rows, panel.cast()) }
                }
            }

            compiled_for! {
                $level:
                /// # Safety
                /// As [`super::multiply`], and the level is present.
                pub(super) unsafe fn products_at(
                    a: Rows<'_>,
                    panel: *const f32,
                    sizes: (usize, usize),
                    out: Out,
                ) {
                    // SAFETY: the caller's promises.
                    unsafe { multiply::<$Q, $MR, $NR>(a, panel.cast(), sizes, out) }
                }
            }
        }
    };
}

level!(portable, super::super::portable::One, 2 by 1);
#[cfg(target_arch = "x86_64")]
level!(avx2, super::super::avx2::Two, 4 by 1);
#[cfg(target_arch = "x86_64")]
level!(avx512vnni, super::super::avx512::Four, 2 by 4);
#[cfg(target_arch = "aarch64")]
level!(dotprod, super::super::neon::One, 4 by 2);
#[cfg(target_arch = "aarch64")]
level!(i8mm, super::super::i8mm::Two, 3 by 1);

/// What is left of some rows behind their whole groups.
///
/// # Safety
/// The rows have `rest` elements, fewer than a group, behind `whole` groups.
#[inline(always)]
unsafe fn tails<S: Storage>(rows: &Places, whole: usize, rest: usize) -> [Tail; ROWS] {
    rows.0.map(|row| {
        let mut tail = Tail::ZERO;
        // SAFETY: the caller's promise.
        unsafe { tail.fill::<S>(row, whole, rest) };
        tail
    })
}

/// Where [`Quad::ROWS`] rows of weights begin; the last row again for those from `end` on.
///
/// # Safety
/// The rows `j .. end` are there, at least one.
#[inline(always)]
unsafe fn places(weights: &Weights<'_>, j: usize, end: usize) -> Places {
    // SAFETY: a row of the range, by the caller's promise.
    Places(std::array::from_fn(|r| unsafe { weights.fp4_row((j + r).min(end - 1)) }))
}

/// # Safety
/// The pointers are those of a group of rows, and the factor that of their weights.
#[inline(always)]
unsafe fn unpack<Q: Quad, S: Storage>(rows: &Places, g: usize, factor: Factor) -> Unpacked<Q> {
    // SAFETY: the caller's promise.
    unsafe {
        Unpacked {
            codes: Q::codes(rows.codes::<S>(g)),
            scales: Q::scales::<S>(rows.scales::<S>(g), factor),
        }
    }
}

fn factor(weights: &Weights<'_>) -> Factor {
    let half = weights.scales().map_or(0.0, |scales| 0.5 * scales.factor);
    Factor { half, table: weights.fp4() }
}

/// Puts totals in their places: those of as many rows of A and of weights as there are.
///
/// # Safety
/// The level is present, and there is room for them in rows `stride` apart.
#[inline(always)]
unsafe fn put<Q: Quad>(
    sums: Q::Floats,
    (rows, columns): (usize, usize),
    to: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    let totals = unsafe { Q::totals(sums) };
    for (i, totals) in totals[..Q::A_ROWS.min(rows)].iter().enumerate() {
        for (j, &total) in totals[..columns].iter().enumerate() {
            // Which NaN comes out would depend on the order of commutative operands.
            let total = if total.is_nan() { f32::NAN } else { total };
            // SAFETY: the caller's promise.
            unsafe { *to.add(i * stride + j) = total };
        }
    }
}

/// Group `g` of the rows of A that are multiplied at once, behind `i` times as many.
#[inline(always)]
fn a_rows<Q: Quad>((a, stride): (*const f32, usize), i: usize, g: usize) -> [*const Packed; 2] {
    let row = |r: usize| a.wrapping_add((i * Q::A_ROWS + r) * stride).cast::<Packed>();
    [row(0).wrapping_add(g), row(Q::A_ROWS - 1).wrapping_add(g)]
}

/// # Safety
/// `a` has `MR` rows, or pairs of rows, of groups, `weights` the rows in FP4 of storage `S`, `out` room for the
/// products.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn stream_rows<Q: Quad, S: Storage, const MR: usize>(
    a: Rows<'_>,
    weights: &Weights<'_>,
    rows: Range<usize>,
    out: Out,
) {
    let (whole, rest) = (weights.k() / GROUP, weights.k() % GROUP);
    let (factor, tile) = (factor(weights), Q::ROWS * weights.row_bytes());
    let a_rows = |i: usize, g: usize| a_rows::<Q>((a.data.as_ptr(), a.stride), i, g);
    let mut j = rows.start;
    while j < rows.end {
        // SAFETY: rows from j to the end, their groups, and their outputs, by the caller's promise.
        unsafe {
            let there = Q::ROWS.min(rows.end - j);
            let places = places(weights, j, rows.end);
            // Of long rows the processor itself fetches ahead.
            let ahead = (tile <= NEAR).then(|| places.0[0].codes.wrapping_add(tile.max(AHEAD)));
            let mut sums = [Q::zero(); MR];
            for g in 0..whole {
                if let Some(ahead) = ahead {
                    let group = Q::ROWS * S::CODE_BYTES;
                    for line in (0..group).step_by(LINE) {
                        Q::prefetch(ahead.wrapping_add(g * group + line));
                    }
                }
                let w = unpack::<Q, S>(&places, g, factor);
                for i in 0..MR {
                    sums[i] = Q::add_product(sums[i], &w.codes, w.scales, a_rows(i, g));
                }
            }
            if rest > 0 {
                let tails = tails::<S>(&places, whole, rest);
                let places = Places(tails.each_ref().map(Tail::stored));
                let w = unpack::<Q, S>(&places, 0, factor);
                for i in 0..MR {
                    sums[i] = Q::add_product(sums[i], &w.codes, w.scales, a_rows(i, whole));
                }
            }
            for i in 0..MR {
                let to = out.to.add(i * Q::A_ROWS * out.stride + j - rows.start);
                put::<Q>(sums[i], (a.len - i * Q::A_ROWS, there), to, out.stride);
            }
        }
        j += Q::ROWS;
    }
}

/// # Safety
/// `weights` has the rows in FP4 of storage `S`, `panel` room for their groups, aligned.
#[inline(always)]
unsafe fn unpack_rows<Q: Quad, S: Storage>(
    weights: &Weights<'_>,
    rows: Range<usize>,
    mut panel: *mut Unpacked<Q>,
) {
    const { assert!(size_of::<Unpacked<Q>>() <= Q::ROWS * PANEL_WORDS * size_of::<f32>()) };
    const { assert!(align_of::<Unpacked<Q>>() <= LINE) };
    let (whole, rest, factor) = (weights.k() / GROUP, weights.k() % GROUP, factor(weights));
    for j in rows.clone().step_by(Q::ROWS) {
        // SAFETY: rows from j to the end, and room for their groups, by the caller's promise.
        unsafe {
            let places = places(weights, j, rows.end);
            for g in 0..whole {
                panel.write(unpack::<Q, S>(&places, g, factor));
                panel = panel.add(1);
            }
            if rest > 0 {
                let tails = tails::<S>(&places, whole, rest);
                let places = Places(tails.each_ref().map(Tail::stored));
                panel.write(unpack::<Q, S>(&places, 0, factor));
                panel = panel.add(1);
            }
        }
    }
}

/// # Safety
/// `a` has rows of groups of `k` elements, `panel` as many of `columns` rows of weights, `out` room
/// for the products.
#[inline(always)]
unsafe fn multiply<Q: Quad, const MR: usize, const NR: usize>(
    a: Rows<'_>,
    panel: *const Unpacked<Q>,
    (columns, k): (usize, usize),
    out: Out,
) {
    let groups = k.div_ceil(GROUP);
    let mut j = 0;
    while j < columns {
        let registers = if j + (NR - 1) * Q::ROWS < columns { NR } else { 1 };
        let mut i = 0;
        while i < a.len {
            let units = if i + (MR - 1) * Q::A_ROWS < a.len { MR } else { 1 };
            // SAFETY: rows i .. of `a`, columns j .. and their outputs, by the caller's promise.
            unsafe {
                let sizes = (a.len - i, columns - j, groups);
                let a = (a.data.as_ptr().add(i * a.stride), a.stride);
                let panel = panel.add(j / Q::ROWS * groups);
                let out = Out { to: out.to.add(i * out.stride + j), ..out };
                match (units == MR, registers == NR) {
                    (true, true) => tile::<Q, MR, NR>(a, panel, sizes, out),
                    (true, false) => tile::<Q, MR, 1>(a, panel, sizes, out),
                    (false, true) => tile::<Q, 1, NR>(a, panel, sizes, out),
                    (false, false) => tile::<Q, 1, 1>(a, panel, sizes, out),
                }
            }
            i += units * Q::A_ROWS;
        }
        j += registers * Q::ROWS;
    }
}

/// # Safety
/// As [`multiply`], for `MR` rows, or pairs, and `NR` registers, of which the last may be in part
/// beyond the rows and columns.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn tile<Q: Quad, const MR: usize, const NR: usize>(
    (a, a_stride): (*const f32, usize),
    panel: *const Unpacked<Q>,
    (rows, columns, groups): (usize, usize, usize),
    out: Out,
) {
    let mut sums = [[Q::zero(); NR]; MR];
    for g in 0..groups {
        for i in 0..MR {
            for c in 0..NR {
                // SAFETY: group g of row i and of register c.
                unsafe {
                    let a = a_rows::<Q>((a, a_stride), i, g);
                    let w = &*panel.add(c * groups + g);
                    sums[i][c] = Q::add_product(sums[i][c], &w.codes, w.scales, a);
                }
            }
        }
    }
    for i in 0..MR {
        for c in 0..NR {
            let there = Q::ROWS.min(columns - c * Q::ROWS);
            // SAFETY: the columns that are there.
            unsafe {
                let to = out.to.add(i * Q::A_ROWS * out.stride + c * Q::ROWS);
                put::<Q>(sums[i][c], (rows - i * Q::A_ROWS, there), to, out.stride);
            }
        }
    }
}
