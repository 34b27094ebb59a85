//! Products with rows as they are stored, unpacked in registers on the way.

use std::ops::Range;

use super::lanes::Lanes;
use super::tile::{self, Out};
use super::unpack::{Bf16, E4m3, E5m2, F16, F32, Fp4Row, Mxfp4, Nvfp4, Stored, Tail, Unpack};
use super::weights::{Code, Weights};
use super::{LANES, Level, Rows};
use crate::num::DType;

/// Elements of the largest group that is unpacked at once: rows are padded to whole ones.
pub const GROUP: usize = 64;

/// Most elements along k that are summed up before the sum is added to the output. Four rows of
/// them fit a first-level cache.
pub const CHUNK: usize = 1024;

/// Elements in a chunk along `k`: as few chunks as [`CHUNK`] allows, of about the same size.
pub fn chunk(k: usize) -> usize {
    let chunks = k.div_ceil(CHUNK).max(1);
    k.div_ceil(chunks).max(1).next_multiple_of(GROUP)
}

/// Bytes that are asked for ahead of those in use: what memory sends while it takes to answer.
/// Of rows that are multiplied at once, all bytes of the next ones, for they are read in stretches.
pub(super) const AHEAD: usize = 8 << 10;

/// Most bytes that, asked for ahead, stay in a second-level cache until they are used.
pub(super) const NEAR: usize = 128 << 10;

/// The most rows that [`stream`] multiplies at once.
pub const STREAM_ROWS: usize = 4;

/// Calls `$f` with the vector type of the level and the storage of the code.
macro_rules! each_level {
    ($level:expr, $code:expr, $f:ident($($argument:expr),*)) => {
        match $level {
            Level::Portable => each_code!($code, portable::$f($($argument),*)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => each_code!($code, avx2::$f($($argument),*)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => each_code!($code, avx512::$f($($argument),*)),
        }
    };
}

macro_rules! each_code {
    ($code:expr, $module:ident::$f:ident($($argument:expr),*)) => {
        match $code {
            Code::Plain(DType::BF16) => $module::$f::<Bf16>($($argument),*),
            Code::Plain(DType::F16) => $module::$f::<F16>($($argument),*),
            // `Weights::new` lets no other type pass.
            Code::Plain(_) => $module::$f::<F32>($($argument),*),
            Code::Fp8(DType::F8E5M2) => $module::$f::<E5m2>($($argument),*),
            Code::Fp8(_) => $module::$f::<E4m3>($($argument),*),
            Code::Nvfp4 => $module::$f::<Nvfp4>($($argument),*),
            Code::Mxfp4 => $module::$f::<Mxfp4>($($argument),*),
        }
    };
}

/// `out[i · out_stride + j] = a[i] · w[rows.start + j]`.
///
/// Rows of `a` are arranged as [`Weights::interleaved`] says, and padded with zeros to a multiple
/// of [`GROUP`].
///
/// # Panics
/// With more than [`STREAM_ROWS`] rows of `a`, or where a row or output is missing.
pub fn stream(
    level: Level,
    a: Rows<'_>,
    weights: &Weights<'_>,
    rows: Range<usize>,
    out: &mut [f32],
    out_stride: usize,
) {
    assert!(a.len <= STREAM_ROWS && a.holds(weights.k().next_multiple_of(GROUP)), "rows of a");
    assert!(rows.start <= rows.end && rows.end <= weights.len(), "rows of weights");
    let columns = rows.end - rows.start;
    if a.len == 0 || columns == 0 {
        return;
    }
    assert!((a.len - 1) * out_stride + columns <= out.len(), "outputs lie inside their slice");
    let out = Out { to: out.as_mut_ptr(), stride: out_stride, add: false };
    // SAFETY: the level is present, for `Level::of` gives no other; rows and outputs were checked.
    unsafe { each_level!(level, weights.code(), stream_at(a, weights, rows, out)) }
}

/// Elements `first .. first + len` of a row in f32, arranged as [`Weights::interleaved`] says and
/// padded with zeros to whole groups; `first` is a multiple of [`GROUP`], `len` at most [`CHUNK`].
///
/// # Panics
/// Where the row does not have them, or `dst` is not a multiple of [`GROUP`] that holds them.
pub fn unpack(
    level: Level,
    weights: &Weights<'_>,
    row: usize,
    (first, len): (usize, usize),
    dst: &mut [f32],
) {
    assert!(row < weights.len() && first + len <= weights.k(), "elements of the row");
    assert!(first.is_multiple_of(GROUP) && len <= CHUNK, "a chunk");
    assert!(dst.len().is_multiple_of(GROUP) && len <= dst.len(), "room for whole groups");
    if len == 0 {
        return dst.fill(0.0);
    }
    // SAFETY: the level is present, for `Level::of` gives no other; the sizes were checked.
    unsafe { each_level!(level, weights.code(), unpack_at(weights, row, (first, len), dst)) }
}

/// The functions of one level: generic code, compiled with its instructions.
macro_rules! level {
    ($module:ident, $V:ty, $(#[$feature:meta])?) => {
        mod $module {
            use super::*;

            /// # Safety
            /// As [`super::stream_rows`], and the level is present.
            $(#[$feature])?
            pub(super) unsafe fn stream_at<U: Unpack<$V>>(
                a: Rows<'_>,
                weights: &Weights<'_>,
                rows: Range<usize>,
                out: Out,
            ) {
                // Many rows at once share what is loaded of `a`, and have sums that do not wait for
                // each other.
                // SAFETY: the caller's promises.
                unsafe {
                    match (a.len, U::CODE_BYTES / U::STEPS) {
                        (1, ..=8) => stream_rows::<$V, U, 1, 8>(a, weights, rows, out),
                        (1, _) => stream_rows::<$V, U, 1, 4>(a, weights, rows, out),
                        (2, _) => stream_rows::<$V, U, 2, 2>(a, weights, rows, out),
                        (3, _) => stream_rows::<$V, U, 3, 2>(a, weights, rows, out),
                        _ => stream_rows::<$V, U, 4, 2>(a, weights, rows, out),
                    }
                }
            }

            /// # Safety
            /// As [`super::unpack_row`], and the level is present.
            $(#[$feature])?
            pub(super) unsafe fn unpack_at<U: Unpack<$V>>(
                weights: &Weights<'_>,
                row: usize,
                part: (usize, usize),
                dst: &mut [f32],
            ) {
                // SAFETY: the caller's promises.
                unsafe { unpack_row::<$V, U>(weights, row, part, dst) }
            }
        }
    };
}

level!(portable, super::super::portable::Four,);
#[cfg(target_arch = "x86_64")]
level!(avx2, super::super::x86::Avx2, #[target_feature(enable = "avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
level!(
    avx512,
    super::super::x86::Avx512,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
);

/// # Safety
/// `a` has `MR` rows of whole groups, `weights` the rows, `out` room for the products.
#[inline(always)]
unsafe fn stream_rows<V: Lanes, U: Unpack<V>, const MR: usize, const NR: usize>(
    a: Rows<'_>,
    weights: &Weights<'_>,
    rows: Range<usize>,
    out: Out,
) {
    let mut j = rows.start;
    while j < rows.end {
        // SAFETY: rows j .. of the range and their outputs, by the caller's promise.
        unsafe {
            let out = Out { to: out.to.add(j - rows.start), ..out };
            if j + NR <= rows.end {
                stream_tile::<V, U, MR, NR>(a, weights, j, out);
                j += NR;
            } else {
                stream_tile::<V, U, MR, 1>(a, weights, j, out);
                j += 1;
            }
        }
    }
}

/// # Safety
/// As [`stream_rows`], for rows `j .. j + NR`.
#[inline(always)]
unsafe fn stream_tile<V: Lanes, U: Unpack<V>, const MR: usize, const NR: usize>(
    a: Rows<'_>,
    weights: &Weights<'_>,
    j: usize,
    out: Out,
) {
    let (k, chunk) = (weights.k(), chunk(weights.k()));
    let tile = NR * weights.row_bytes();
    // Of long rows the processor itself fetches ahead.
    let ahead = (tile <= NEAR).then(|| weights.start_of(j).wrapping_add(tile.max(AHEAD)));
    let mut scratch = [[0.0; CHUNK / 32]; NR];
    let mut first = 0;
    while first < k {
        let len = chunk.min(k - first);
        let mut b = [Stored { codes: weights.start_of(j), scales: weights.start_of(j) }; NR];
        for (c, (b, scratch)) in b.iter_mut().zip(&mut scratch).enumerate() {
            // SAFETY: a row of the range, and `first` in it.
            *b = unsafe { weights.stored(j + c, first, scratch) };
        }
        // SAFETY: `a` holds k rounded up to whole groups, and `chunk` is a multiple of a group;
        // `Weights::new` has checked codes and scales.
        unsafe {
            let a = (a.data.as_ptr().add(first), a.stride);
            let out = Out { add: first > 0, ..out };
            let passed = NR * (first / (LANES * U::STEPS) * U::CODE_BYTES);
            let ahead = ahead.map_or(std::ptr::null(), |ahead| ahead.wrapping_add(passed));
            tile::tile::<V, U, MR, NR>(a, b, len, (weights.fp4(), ahead), out);
        }
        first += chunk;
    }
}

/// # Safety
/// The row has elements `first .. first + len`, and `dst` is a multiple of [`GROUP`] that holds
/// them.
#[inline(always)]
unsafe fn unpack_row<V: Lanes, U: Unpack<V>>(
    weights: &Weights<'_>,
    row: usize,
    (first, len): (usize, usize),
    dst: &mut [f32],
) {
    let mut scratch = [0.0; CHUNK / 32];
    // SAFETY: by the caller's promise.
    let stored = unsafe { weights.stored(row, first, &mut scratch) };
    let elements = LANES * U::STEPS;
    let (whole, rest) = (len / elements, len % elements);
    let (to, fp4) = (dst.as_mut_ptr(), weights.fp4());
    for g in 0..whole {
        // SAFETY: group g of the row and of `dst`.
        unsafe { unpack_group::<V, U>(stored.group::<U>(g), fp4, to.add(g * elements)) };
    }
    let mut done = whole * elements;
    if rest > 0 {
        let mut tail = Tail::ZERO;
        // SAFETY: the elements after the last whole group, and room for a group.
        unsafe {
            tail.fill::<U>(stored, whole, rest);
            unpack_group::<V, U>(tail.stored(), fp4, to.add(done));
        }
        done += elements;
    }
    dst[done..].fill(0.0);
}

/// # Safety
/// `from` is a group, and `to` has room for its elements.
#[inline(always)]
unsafe fn unpack_group<V: Lanes, U: Unpack<V>>(from: Stored, fp4: *const Fp4Row, to: *mut f32) {
    for pass in 0..LANES / V::WIDTH {
        // SAFETY: the caller's promise of a group.
        let raw = unsafe { U::load(from, fp4, pass) };
        macro_rules! steps {
            ($($step:literal)*) => {$(
                if $step < U::STEPS {
                    // SAFETY: vector `$step` of the group.
                    unsafe {
                        let to = to.add($step * LANES + pass * V::WIDTH);
                        U::value::<$step>(raw).store(to);
                    }
                }
            )*};
        }
        steps!(0 1 2 3 4 5 6 7);
    }
}
