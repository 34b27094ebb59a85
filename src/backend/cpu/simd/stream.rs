//! Products with rows as they are stored, unpacked in registers on the way.

use std::ops::Range;

use super::lanes::Lanes;
use super::order::Order;
use super::per_level::compiled_for;
use super::tile::{self, Out};
use super::unpack::{Bf16, E4m3, E5m2, F16, F32, Fp4Row, Mxfp4, Nvfp4, Stored, Unpack};
#[cfg(target_arch = "x86_64")]
use super::unpack::{E4m3Table, E5m2Table};
use super::weights::{Code, Weights};
use super::{Level, Rows};
use crate::memory::MatrixMut;
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

/// Most bytes of A that stay in a first-level cache while weights pass by.
const NEAREST: usize = 32 << 10;

/// Rows of weights that pass by a chunk of larger A.
const BLOCK: usize = 16;

/// The most rows of A that [`stream`] multiplies: with more it pays to unpack weights beforehand, or
/// to put them in columns. Where there are registers for it eight rows share what is unpacked, and
/// what takes few instructions to unpack may be unpacked twice.
pub fn stream_rows(level: Level, weights: &Weights<'_>) -> usize {
    match (level, weights.code()) {
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512 | Level::Avx512Vbmi, Code::Fp8(_)) => 8,
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512 | Level::Avx512Vbmi, _) => 16,
        _ => 4,
    }
}

/// Of so many rows of A those that are multiplied at once, of which none are left alone.
const fn rows_at_once(left: usize) -> usize {
    match left {
        ..=4 => left,
        5 => 3,
        7 => 4,
        6 | 9 | 10 => 6,
        _ => 8,
    }
}

/// Calls `$f` with the vector type of the level and the storage of the code.
macro_rules! each_level {
    ($level:expr, $code:expr, $f:ident($($argument:expr),*)) => {
        match $level {
            Level::Portable => each_code!($code, portable::$f($($argument),*)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => each_code!($code, avx2::$f($($argument),*)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => each_code!($code, avx512::$f($($argument),*)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vbmi => match $code {
                Code::Fp8(DType::F8E5M2) => avx512vnni::$f::<E5m2Table>($($argument),*),
                Code::Fp8(_) => avx512vnni::$f::<E4m3Table>($($argument),*),
                _ => each_code!($code, avx512::$f($($argument),*)),
            },
            #[cfg(target_arch = "aarch64")]
            Level::Neon => each_code!($code, neon::$f($($argument),*)),
        }
    };
}

/// The same for the functions of one level.
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

pub(super) use {each_code, each_level};

/// `out[i, j] = a[i] · w[rows.start + j]`.
///
/// Rows of `a` are arranged as [`Weights::interleaved`] says, and padded with zeros to a multiple
/// of [`GROUP`].
///
/// # Panics
/// With more than [`stream_rows`] rows of `a`, or where a row or output is missing.
pub fn stream(
    level: Level,
    a: Rows<'_>,
    weights: &Weights<'_>,
    rows: Range<usize>,
    out: MatrixMut<'_, f32>,
) {
    assert!(
        a.len <= stream_rows(level, weights) && a.holds(weights.k().next_multiple_of(GROUP)),
        "rows of a"
    );
    assert!(rows.start <= rows.end && rows.end <= weights.len(), "rows of weights");
    let columns = rows.end - rows.start;
    if a.len == 0 || columns == 0 {
        return;
    }
    let out = Out::of(out, (a.len, columns), false);
    // SAFETY: the level is present, for `Level::of` gives no other; rows and outputs were checked.
    unsafe { each_level!(level, weights.code(), stream_at(a, weights, rows, out)) }
}

/// The functions of one level: generic code, compiled with its instructions. A row of A is
/// multiplied with so many rows of FP4 or FP8 at once: their sums and what is read of them are in
/// registers.
macro_rules! level {
    ($level:ident, $V:ty, $narrow:literal) => {
        mod $level {
            use super::*;

            compiled_for! {
                $level:
                /// # Safety
                /// As [`super::stream_all`], and the level is present.
                pub(super) unsafe fn stream_at<U: Unpack<$V>>(
                    a: Rows<'_>,
                    weights: &Weights<'_>,
                    rows: Range<usize>,
                    out: Out,
                ) {
                    // SAFETY: the caller's promises.
                    unsafe {
                        match U::CODE_BYTES / U::STEPS {
                            ..=8 => stream_all::<$V, U, $narrow>(a, weights, rows, out),
                            _ => stream_all::<$V, U, 4>(a, weights, rows, out),
                        }
                    }
                }
            }
        }
    };
}

level!(portable, super::super::portable::Four, 8);
#[cfg(target_arch = "x86_64")]
level!(avx2, super::super::x86::Avx2, 8);
#[cfg(target_arch = "x86_64")]
level!(avx512, super::super::x86::Avx512, 8);
#[cfg(target_arch = "x86_64")]
level!(avx512vnni, super::super::x86::Avx512, 4);
#[cfg(target_arch = "aarch64")]
level!(neon, super::super::neon::Neon, 4);

/// All rows of `a` with some of the weights: one with `ONE` of them at once, which share what is
/// loaded of it, more with two, whose sums do not wait for each other either.
///
/// # Safety
/// `a` has rows of whole groups, `weights` the rows, `out` room for the products.
#[inline(always)]
unsafe fn stream_all<V: Lanes, U: Unpack<V>, const ONE: usize>(
    a: Rows<'_>,
    weights: &Weights<'_>,
    rows: Range<usize>,
    out: Out,
) {
    let most = if a.len == 1 { ONE } else { 2 };
    // Where all of `a` stays in a first-level cache, weights are read as they follow each other.
    let near = a.len * weights.k() * size_of::<f32>() <= NEAREST;
    let block = if near { most } else { BLOCK };
    for first in rows.clone().step_by(block) {
        let block = first..rows.end.min(first + block);
        // SAFETY: rows of the range and their outputs, by the caller's promise.
        unsafe {
            let out = Out { to: out.to.add(first - rows.start), ..out };
            match a.len {
                1 => stream_block::<V, U, 1, ONE>(a, weights, block, out),
                _ => stream_block::<V, U, 8, 2>(a, weights, block, out),
            }
        }
    }
}

/// Chunk by chunk, `MOST` rows of `a` at once with all of some weights, `NR` of them at once.
///
/// # Safety
/// As [`stream_all`].
#[inline(always)]
unsafe fn stream_block<V: Lanes, U: Unpack<V>, const MOST: usize, const NR: usize>(
    a: Rows<'_>,
    weights: &Weights<'_>,
    rows: Range<usize>,
    out: Out,
) {
    let (k, chunk) = (weights.k(), chunk(weights.k()));
    let order = Order::new::<U>(weights, rows.len(), NR);
    let mut scratch = [Weights::NO_SCALES; NR];
    let mut first = 0;
    while first < k {
        let len = chunk.min(k - first);
        let mut i = 0;
        while i < a.len {
            let count = if const { MOST > 1 } { rows_at_once(a.len - i) } else { 1 };
            let mut j = rows.start;
            while j < rows.end {
                let columns = if j + NR <= rows.end { NR } else { 1 };
                let mut b =
                    [Stored { codes: weights.start_of(j), scales: weights.start_of(j) }; NR];
                for (c, (b, scratch)) in b.iter_mut().zip(&mut scratch).enumerate().take(columns) {
                    // SAFETY: a row of the range, and `first` in it.
                    *b = unsafe { weights.stored(j + c, first, scratch) };
                }
                let ahead = if i == 0 { order.ahead(j - rows.start, first / chunk) } else { 0 };
                let with = (weights.fp4(), ahead);
                // SAFETY: `a` holds k rounded up to whole groups, and `chunk` is a multiple of a
                // group; `Weights::new` has checked codes and scales.
                unsafe {
                    let a = (a.data.as_ptr().add(i * a.stride + first), a.stride);
                    let to = out.to.add(i * out.stride + j - rows.start);
                    let out = Out { to, add: first > 0, ..out };
                    if columns == NR {
                        stream_tile::<V, U, MOST, NR>((a, count), b, len, with, out);
                    } else {
                        stream_tile::<V, U, MOST, 1>((a, count), [b[0]], len, with, out);
                    }
                }
                j += columns;
            }
            i += count;
        }
        first += chunk;
    }
}

/// Some rows of `a`: one, or with `MOST` above 1 as many as [`rows_at_once`] gives.
///
/// # Safety
/// As [`tile::tile`].
#[inline(always)]
unsafe fn stream_tile<V: Lanes, U: Unpack<V>, const MOST: usize, const NR: usize>(
    (a, count): ((*const f32, usize), usize),
    b: [Stored; NR],
    k: usize,
    with: (*const Fp4Row, isize),
    out: Out,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if const { MOST > 1 } {
            match count {
                1 => tile::tile::<V, U, 1, NR>(a, b, k, with, out),
                2 => tile::tile::<V, U, 2, NR>(a, b, k, with, out),
                3 => tile::tile::<V, U, 3, NR>(a, b, k, with, out),
                4 => tile::tile::<V, U, 4, NR>(a, b, k, with, out),
                6 => tile::tile::<V, U, 6, NR>(a, b, k, with, out),
                _ => tile::tile::<V, U, 8, NR>(a, b, k, with, out),
            }
        } else {
            tile::tile::<V, U, 1, NR>(a, b, k, with, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{Scales, levels};

    /// Products of the most rows that are streamed have the bits of each row's own.
    fn check(weights: &Weights<'_>) {
        let (k, n) = (weights.k(), weights.len());
        let stride = k.next_multiple_of(GROUP) + 16;
        for level in levels() {
            for m in 2..=stream_rows(level, weights) {
                let mut data = vec![0.0; m * stride];
                for (i, row) in data.chunks_mut(stride).enumerate() {
                    let value = |l: usize| ((i * 31 + l * 7) % 67) as f32 * 0.37 - 12.0;
                    row[..k].iter_mut().enumerate().for_each(|(l, x)| *x = value(l));
                }
                let a = Rows { data: &data, stride, len: m };
                let mut all = vec![f32::NAN; m * (n + 1)];
                stream(level, a, weights, 1..n, MatrixMut::packed(&mut all, n + 1));
                for (i, all) in all.chunks(n + 1).enumerate() {
                    let mut one = vec![f32::NAN; n - 1];
                    let out = MatrixMut::packed(&mut one, n - 1);
                    stream(level, a.part(i..i + 1), weights, 1..n, out);
                    let same = one.iter().zip(all).all(|(x, y)| x.to_bits() == y.to_bits());
                    assert!(same, "{level:?} {:?}, {m} rows, k {k}: row {i}", weights.code());
                }
            }
        }
    }

    #[test]
    fn rows_that_share_weights_have_the_bits_of_their_own_products() {
        // One chunk that stays in a cache; many, of which the last is shorter.
        for (n, k) in [(7, 70), (21, 2 * CHUNK + 40), (38, 9 * CHUNK)] {
            let bytes: Vec<u8> = (0..n * k * 4).map(|i| (i * 37 % 101) as u8 & 0x3F).collect();
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let code = Code::Plain(dtype);
                let row = k * dtype.size();
                check(&Weights::new(code, &bytes, row, (n, k), None).expect("whole rows"));
            }
            let scales: Vec<u8> = (0..n * k.div_ceil(32)).map(|i| 120 + (i % 9) as u8).collect();
            let columns = k.div_ceil(32);
            for dtype in [DType::F8E4M3, DType::F8E5M2] {
                let scales = Scales {
                    bytes: &scales,
                    dtype: DType::E8M0,
                    columns,
                    block_rows: 1,
                    block_k: 32,
                    factor: 1.0,
                    fp4: None,
                };
                let code = Code::Fp8(dtype);
                check(&Weights::new(code, &bytes, k, (n, k), Some(scales)).expect("whole rows"));
            }
        }
    }
}
