//! Tiles of dot products over any vector type and any storage of the right-hand rows.
//!
//! A dot product is [`LANES`] partial sums, each a chain of fused multiply-adds along k, added up
//! at the end by halves: lane i to lane i + 8, then + 4, + 2, + 1. Registers narrower than that
//! take several passes over the same rows, so every width gives the same bits.

use std::mem::MaybeUninit;

use super::lanes::{Lanes, SUMS};
use super::unpack::{F32, Fp4Row, Stored, Tail, Unpack};
use super::{LANES, Rows};
use crate::memory::MatrixMut;

/// Bytes of a cache line, or of half of one.
const LINE: usize = 64;

/// Dot products to be written, or added to what is there.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub(super) to: *mut f32,
    pub(super) stride: usize,
    pub(super) add: bool,
}

impl Out {
    /// The first places of a matrix.
    ///
    /// # Panics
    /// Where it has not so many rows and columns.
    pub(super) fn of(
        mut out: MatrixMut<'_, f32>,
        (rows, columns): (usize, usize),
        add: bool,
    ) -> Self {
        assert!(rows <= out.rows() && columns <= out.width(), "a place for each output");
        Out { to: out.as_mut_ptr(), stride: out.stride(), add }
    }
}

/// Group `at` of the rows: up to eight vectors each.
///
/// # Safety
/// `a` is valid for `MR` rows of a group at its stride, each of `b` for groups up to `at`, `fp4` as
/// [`Unpack::load`] says.
// Loops count, and arrays stay where they are: iterators over arrays of registers go through
// memory.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn group<V: Lanes, U: Unpack<V>, const MR: usize, const NR: usize>(
    sums: &mut [[V; NR]; MR],
    (a, a_stride): (*const f32, usize),
    b: &[Stored; NR],
    at: usize,
    fp4: *const Fp4Row,
    pass: usize,
) {
    macro_rules! load {
        ($j:expr) => {
            // SAFETY: the caller's promise of a group for each row of `b`.
            unsafe { U::load(b[$j].group::<U>(at), fp4, pass) }
        };
    }
    let mut raw = [load!(0); NR];
    for j in 1..NR {
        raw[j] = load!(j);
    }
    // Written out, for the step is an immediate operand of shifts.
    macro_rules! steps {
        ($($step:literal)*) => {$(
            if $step < U::STEPS {
                let mut rows = [V::splat(0.0); MR];
                for i in 0..MR {
                    let at = i * a_stride + $step * LANES + pass * V::WIDTH;
                    // SAFETY: row i < MR, vector `$step` of the group.
                    rows[i] = unsafe { V::load(a.add(at)) };
                }
                for j in 0..NR {
                    // SAFETY: the level is present, by the caller's promise.
                    let column = unsafe { U::value::<$step>(raw[j]) };
                    for i in 0..MR {
                        sums[i][j] = sums[i][j].add_product(rows[i], column);
                    }
                }
            }
        )*};
    }
    steps!(0 1 2 3 4 5 6 7);
}

/// `MR × NR` dot products over `k` elements.
///
/// # Safety
/// `a` is valid for `MR` rows of `k` elements rounded up to whole groups, at its stride; `b` for
/// `k` elements each with their scales, `fp4` as [`Unpack::load`] says; `out` for `MR × NR` outputs.
/// For each line of `b` the one so many bytes ahead is asked for, unless that is 0.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub(super) unsafe fn tile<V: Lanes, U: Unpack<V>, const MR: usize, const NR: usize>(
    (a, a_stride): (*const f32, usize),
    b: [Stored; NR],
    k: usize,
    (fp4, ahead): (*const Fp4Row, isize),
    out: Out,
) {
    const { assert!(NR <= SUMS && LANES / V::WIDTH <= 4, "columns and passes") };
    let elements = LANES * U::STEPS;
    let (whole, rest) = (k / elements, k % elements);
    // What is left of each row, padded with zeros to a group.
    let mut padded = [Tail::ZERO; NR];
    let mut tails = b;
    if rest > 0 {
        for (padded, b) in padded.iter_mut().zip(&mut tails) {
            // SAFETY: the elements after the last whole group.
            unsafe { padded.fill::<U>(*b, whole, rest) };
            *b = padded.stored();
        }
    }
    let passes = LANES / V::WIDTH;
    let mut earlier = [MaybeUninit::<[[V; NR]; MR]>::uninit(); 3];
    for pass in 0..passes {
        let mut sums = [[V::splat(0.0); NR]; MR];
        for g in 0..whole {
            if pass == 0 && ahead != 0 && (g * U::CODE_BYTES).is_multiple_of(LINE) {
                for row in &b {
                    V::prefetch(row.codes.wrapping_add(g * U::CODE_BYTES).wrapping_offset(ahead));
                }
            }
            // SAFETY: group g of each row.
            unsafe {
                let a = (a.add(g * elements), a_stride);
                group::<V, U, MR, NR>(&mut sums, a, &b, g, fp4, pass);
            }
        }
        if rest > 0 {
            // SAFETY: `a` is padded to whole groups, tails are groups.
            unsafe {
                let a = (a.add(whole * elements), a_stride);
                group::<V, U, MR, NR>(&mut sums, a, &tails, 0, fp4, pass);
            }
        }
        if pass + 1 < passes {
            earlier[pass].write(sums);
            continue;
        }
        for i in 0..MR {
            let mut row = sums[i];
            macro_rules! earlier {
                ($pass:literal, $j:expr) => {
                    // SAFETY: the passes before this one were written.
                    unsafe { earlier[$pass].assume_init_ref()[i][$j] }
                };
            }
            for j in 0..NR {
                if passes == 2 {
                    row[j] = earlier!(0, j).add(row[j]);
                } else if passes == 4 {
                    let odd = earlier!(1, j).add(row[j]);
                    row[j] = earlier!(0, j).add(earlier!(2, j)).add(odd);
                }
            }
            // SAFETY: outputs (i, 0) to (i, NR - 1), by the caller's promise.
            unsafe { V::add_up(&row, out.to.add(i * out.stride), out.add) };
        }
    }
}

/// All dot products of f32 rows in tiles of `MR × NR`, the rest in smaller ones.
///
/// # Safety
/// `a` and `b` hold `k` elements in each row, `k` a multiple of [`LANES`], and `out` has a place
/// for each output.
#[inline(always)]
pub(super) unsafe fn dots<V: Lanes, const MR: usize, const NR: usize>(
    a: Rows<'_>,
    b: Rows<'_>,
    k: usize,
    out: Out,
) {
    let none = (std::ptr::null(), 0);
    let mut j = 0;
    while j < b.len {
        let columns = if j + NR <= b.len { NR } else { 1 };
        let mut i = 0;
        while i < a.len {
            let rows = if i + MR <= a.len { MR } else { 1 };
            // SAFETY: rows i.. of `a`, j.. of `b` and their outputs are inside, by the caller's
            // promise and the tests above.
            unsafe {
                let a = (a.data.as_ptr().add(i * a.stride), a.stride);
                let row = |j: usize| Stored {
                    codes: b.data.as_ptr().add(j * b.stride).cast(),
                    scales: b.data.as_ptr().cast(),
                };
                let out = Out { to: out.to.add(i * out.stride + j), ..out };
                match (rows == MR, columns == NR) {
                    (true, true) => {
                        let b = std::array::from_fn(|c| row(j + c));
                        tile::<V, F32, MR, NR>(a, b, k, none, out);
                    }
                    (true, false) => tile::<V, F32, MR, 1>(a, [row(j)], k, none, out),
                    (false, true) => {
                        let b = std::array::from_fn(|c| row(j + c));
                        tile::<V, F32, 1, NR>(a, b, k, none, out);
                    }
                    (false, false) => tile::<V, F32, 1, 1>(a, [row(j)], k, none, out),
                }
            }
            i += rows;
        }
        j += columns;
    }
}
