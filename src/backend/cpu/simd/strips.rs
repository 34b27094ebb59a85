//! Products of many rows with strips of columns, to the bits of the dot products by lanes.
//!
//! ```text
//! a strip, up to STRIP columns of B:      [turn of the lane][step along k][column], padded
//! a band, BAND rows of A:                 [turn of the lane][step along k][row], padded
//! each tile, MR rows × NV vectors of columns:
//!     each lane:   MR × NV chains of multiply-adds along its steps, in registers
//!     add up the lanes by halves
//! ```
//!
//! Element k is in lane k mod [`LANES`]; lanes take turns such that those to be added up come one
//! after the other. Where a vector of a dot product holds the partial sums of
//! one output by lane, a vector here holds the same lane's sums of many outputs: adding up lanes
//! takes an addition of vectors for each, and no shuffles. What it takes instead is B in columns,
//! which pays with enough rows of A.

use std::mem::MaybeUninit;

use super::lanes::{self, Lanes, Work};
use super::outer::chains;
use super::tile::Out;
use super::{LANES, Level, Rows, prefetch_line_to_write};
use crate::memory::MatrixMut;

/// Most columns of a strip: three vectors of the widest level.
pub const STRIP: usize = 48;

/// Rows of a band.
pub const BAND: usize = 8;

/// From how many rows of A on strips pay; `None` where adding up lanes is no more work than it
/// saves: with narrower registers, which are fewer as well.
pub fn strips_pay(level: Level) -> Option<usize> {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vbmi => Some(24),
        _ => None,
    }
}

/// Rows in bands, each of them `stride · BAND` values from the one before.
#[derive(Clone, Copy, Debug)]
pub struct Bands<'a> {
    /// The values.
    pub data: &'a [f32],
    /// Values of a row.
    pub stride: usize,
    /// How many rows; those that the last band lacks are of any values.
    pub len: usize,
}

/// The turn of a lane: 0 and 8 come first, then 4 and 12, the halves that are added up.
const fn turn(lane: usize) -> usize {
    lane.reverse_bits() >> (usize::BITS - LANES.ilog2())
}

/// Values from one turn to the next: an odd number of cache lines, so that turns do not compete for
/// the same places of a cache.
const fn turn_len(steps: usize, width: usize) -> usize {
    ((steps * width).div_ceil(LANES) | 1) * LANES
}

/// Values of all turns of a chunk.
pub const fn by_lanes_len(steps: usize, width: usize) -> usize {
    LANES * turn_len(steps, width)
}

/// Where element `at` of column 0 of a chunk has its place.
pub const fn place(at: usize, (steps, width): (usize, usize)) -> usize {
    turn(at % LANES) * turn_len(steps, width) + at / LANES * width
}

/// Steps that B is asked for ahead of its use: what a second-level cache takes to answer.
const B_AHEAD: usize = 8;

/// The same for A, which may be in a third-level cache.
const A_AHEAD: usize = 64;

/// Puts `len` elements of rows side by side as columns, in the order of lanes: element
/// `step · LANES + lane` of row i goes to place `step · width + i` of the lane's turn. Elements of the
/// last step, and rows up to [`LANES`] or to `width`, that are missing are taken as 0.
///
/// # Panics
/// When there are more rows than that, `width` is not [`BAND`] nor a multiple of [`LANES`], or an
/// element is missing or has no place.
pub fn by_lanes(
    level: Level,
    rows: Rows<'_>,
    len: usize,
    dst: &mut [f32],
    (steps, width): (usize, usize),
) {
    let columns = width.min(LANES);
    assert!(rows.holds(len) && rows.len <= columns, "rows lie inside their slice");
    assert!(width == BAND || width.is_multiple_of(LANES), "whole vectors");
    let (own, apart) = (len.div_ceil(LANES), turn_len(steps, width));
    let reach = (LANES - 1) * apart + (own * width).saturating_sub(width) + columns;
    assert!(own <= steps && reach <= dst.len(), "columns have places");
    let done = match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vbmi if rows.len == columns => {
            // SAFETY: the level is present; the assertions above.
            unsafe { x86::by_lanes_512(rows, len, dst, (apart, width)) }
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 if rows.len == columns => {
            // SAFETY: as above.
            unsafe { x86::by_lanes(rows, len, dst, (apart, width)) }
        }
        _ => 0,
    };
    for at in done * LANES..own * LANES {
        let place = place(at, (steps, width));
        for (i, x) in dst[place..place + columns].iter_mut().enumerate() {
            let there = i < rows.len && at < len;
            *x = if there { rows.data[i * rows.stride + at] } else { 0.0 };
        }
    }
}

/// `out[i, j] = a[i] · b[j]`, or added to it, over `steps` steps of each lane.
///
/// `b` are `columns` columns, `width` apart from step to step.
///
/// # Panics
/// When `width` is no multiple of [`LANES`] up to [`STRIP`], an operand reaches past its slice, or an
/// output has no place.
pub fn strip(
    level: Level,
    a: Bands<'_>,
    (b, width, columns): (&[f32], usize, usize),
    steps: usize,
    out: MatrixMut<'_, f32>,
    add: bool,
) {
    assert!(width.is_multiple_of(LANES) && columns <= width && width <= STRIP, "whole vectors");
    assert!(by_lanes_len(steps, width) <= b.len(), "steps lie inside the strip");
    let before = a.len.div_ceil(BAND).saturating_sub(1) * BAND * a.stride;
    assert!(before + by_lanes_len(steps, BAND) <= a.data.len(), "steps lie inside the bands");
    let out = Out::of(out, (a.len, columns), add);
    let b = (b.as_ptr(), width);
    // SAFETY: the assertions above.
    unsafe { lanes::at(level, Strip { a, b, columns, steps, out }) }
}

/// The operands of [`strip`].
struct Strip<'a> {
    a: Bands<'a>,
    b: (*const f32, usize),
    columns: usize,
    steps: usize,
    out: Out,
}

impl Work for Strip<'_> {
    /// Tiles take 24 sums of 32 registers, or 12 of 16.
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: what `strip` asserts.
        unsafe {
            match V::WIDTH {
                16 => self.tiles::<V, BAND>(),
                _ => self.tiles::<V, 4>(),
            }
        }
    }
}

impl Strip<'_> {
    /// # Safety
    /// What [`strip`] asserts; `MR` divides [`BAND`].
    #[inline(always)]
    unsafe fn tiles<V: Lanes, const MR: usize>(self) {
        let Strip { a, b: (b, width), columns, steps, out } = self;
        let mut j = 0;
        while j < columns {
            let vectors = (columns - j).div_ceil(V::WIDTH).min(3);
            for i in (0..a.len).step_by(MR) {
                // SAFETY: bands hold whole tiles, strips whole vectors; the tile is told how many
                // outputs there are.
                unsafe {
                    let band = a.data.as_ptr().add(i / BAND * BAND * a.stride + i % BAND);
                    let b = (b.add(j), width);
                    let out = Out { to: out.to.add(i * out.stride + j), ..out };
                    let there = (a.len - i, columns - j);
                    match vectors {
                        1 => tile::<V, MR, 1>(band, b, steps, out, there),
                        2 => tile::<V, MR, 2>(band, b, steps, out, there),
                        _ => tile::<V, MR, 3>(band, b, steps, out, there),
                    }
                }
            }
            j += vectors * V::WIDTH;
        }
    }
}

/// `MR × (NV · WIDTH)` outputs, of which only those `there` have a place.
///
/// # Safety
/// `a` is valid for `MR` rows of a band, `b` for `NV` vectors of a strip, at `steps` steps of each
/// lane; `out` for the outputs that are there.
#[inline(always)]
unsafe fn tile<V: Lanes, const MR: usize, const NV: usize>(
    a: *const f32,
    (b, width): (*const f32, usize),
    steps: usize,
    out: Out,
    (rows, columns): (usize, usize),
) {
    // Sums of lanes that wait for others, each of twice as many lanes as the one after it.
    let mut waiting = [MaybeUninit::<[[V; NV]; MR]>::uninit(); LANES.ilog2() as usize + 1];
    let mut depth = 0;
    for turn in 0..LANES {
        // Other processors give up where results go, a row at a time: so many lines at once would
        // leave no room for those of the strip.
        if turn < rows.min(MR) {
            let row = out.to.wrapping_add(turn * out.stride);
            for j in 0..NV {
                prefetch_line_to_write(row.wrapping_add(j * V::WIDTH).cast());
            }
        }
        let mut sums = [[V::splat(0.0); NV]; MR];
        // SAFETY: the steps of a lane.
        unsafe {
            let a = (a.add(turn * turn_len(steps, BAND)), 1, BAND);
            let b = (b.add(turn * turn_len(steps, width)), width);
            chains::<V, MR, NV, A_AHEAD, B_AHEAD>(&mut sums, a, b, steps);
        }
        for _ in 0..turn.trailing_ones() {
            depth -= 1;
            // SAFETY: it was written when it came to wait.
            let earlier = unsafe { waiting[depth].assume_init_ref() };
            for (sums, earlier) in sums.iter_mut().zip(earlier) {
                for (sum, earlier) in sums.iter_mut().zip(earlier) {
                    *sum = earlier.add(*sum);
                }
            }
        }
        waiting[depth].write(sums);
        depth += 1;
    }
    // SAFETY: the last turn left the sum of all lanes.
    let sums = unsafe { waiting[0].assume_init_ref() };
    for (i, sums) in sums.iter().enumerate().take(rows) {
        for (j, sum) in sums.iter().enumerate() {
            let n = columns.saturating_sub(j * V::WIDTH).min(V::WIDTH);
            let mut few = [0.0; LANES];
            // SAFETY: the outputs of vector j of row i that are there; a vector fits `few`.
            unsafe {
                let place = out.to.add(i * out.stride + columns.min(j * V::WIDTH));
                let whole = n == V::WIDTH;
                let to = if whole { place } else { few.as_mut_ptr() };
                if out.add && !whole {
                    to.copy_from_nonoverlapping(place, n);
                }
                let sum = if out.add { V::load(to).add(*sum) } else { *sum };
                sum.one_nan().store(to);
                if !whole {
                    place.copy_from_nonoverlapping(to, n);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LANES, Rows, turn};
    use crate::backend::cpu::simd::outer::x86::transpose_block;

    /// Whole steps in blocks of 8 × 8; gives how many.
    ///
    /// # Safety
    /// AVX, and what [`super::by_lanes`] asserts, of 8 or 16 rows.
    #[target_feature(enable = "avx")]
    pub(super) unsafe fn by_lanes(
        rows: Rows<'_>,
        len: usize,
        dst: &mut [f32],
        (apart, width): (usize, usize),
    ) -> usize {
        let (from, to) = (rows.data.as_ptr(), dst.as_mut_ptr());
        for step in 0..len / LANES {
            for (i, lane) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
                if i < rows.len {
                    let mut places = [to; 8];
                    for (c, place) in places.iter_mut().enumerate() {
                        let at = turn(lane + c) * apart + step * width + i;
                        *place = to.wrapping_add(at);
                    }
                    // SAFETY: eight elements of eight rows, and their places.
                    unsafe {
                        let from = from.add(i * rows.stride + step * LANES + lane);
                        transpose_block(from, rows.stride, places);
                    }
                }
            }
        }
        len / LANES
    }

    /// Whole steps in blocks of 16 × 16: one of 16 rows, or two of 8, which are neighbours in `dst`.
    /// Gives how many.
    ///
    /// # Safety
    /// AVX-512 F and DQ, and what [`super::by_lanes`] asserts, of 8 or 16 rows.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) unsafe fn by_lanes_512(
        rows: Rows<'_>,
        len: usize,
        dst: &mut [f32],
        (apart, width): (usize, usize),
    ) -> usize {
        /// Steps that are asked for ahead.
        const AHEAD: usize = 8;
        let (from, stride, to) = (rows.data.as_ptr(), rows.stride, dst.as_mut_ptr());
        let (each, second) = match rows.len {
            16 => (1, 8 * stride),
            _ => (2, LANES),
        };
        let done = len / LANES / each * each;
        for step in (0..done).step_by(each) {
            let from = from.wrapping_add(step * LANES);
            // Four rows each.
            let quarters = [0, 4 * stride, second, second + 4 * stride];
            let quarters = quarters.map(|at| from.wrapping_add(at));
            for i in 0..4 {
                for quarter in quarters {
                    let ahead = quarter.wrapping_add(i * stride + AHEAD * each * LANES);
                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                }
            }
            // Of row i of each quarter the elements from 4 · l on: each row is read at once, for so
            // many rows may share few places of a cache.
            let mut fours = [[_mm512_setzero_ps(); 4]; 4];
            for i in 0..4 {
                for (l, fours) in fours.iter_mut().enumerate() {
                    // SAFETY: elements of a step of the rows.
                    let four =
                        |q: usize| unsafe { _mm_loadu_ps(quarters[q].add(i * stride + 4 * l)) };
                    let low = _mm512_castps128_ps512(four(0));
                    let low = _mm512_mask_broadcast_f32x4(low, 0x00F0, four(1));
                    let high = _mm512_mask_broadcast_f32x4(low, 0x0F00, four(2));
                    fours[i] = _mm512_mask_broadcast_f32x4(high, 0xF000, four(3));
                }
            }
            for (l, [a, b, c, d]) in fours.into_iter().enumerate() {
                let pair = |a, b| {
                    let (low, high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                    (_mm512_castps_pd(low), _mm512_castps_pd(high))
                };
                let ((a, c), (b, d)) = (pair(a, b), pair(c, d));
                let columns = [
                    _mm512_unpacklo_pd(a, b),
                    _mm512_unpackhi_pd(a, b),
                    _mm512_unpacklo_pd(c, d),
                    _mm512_unpackhi_pd(c, d),
                ];
                for (i, column) in columns.into_iter().enumerate() {
                    let at = turn(4 * l + i) * apart + step * width;
                    // SAFETY: 16 columns of a step, or 8 of two.
                    unsafe { _mm512_storeu_ps(to.add(at), _mm512_castpd_ps(column)) };
                }
            }
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{add_dots, dots, levels};

    fn values(n: usize, salt: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + salt * 11) % 101) as f32 * 0.37 - 12.0).collect()
    }

    /// Rows of `k` values in bands, what is missing NaN.
    fn banded(level: Level, rows: Rows<'_>, steps: usize) -> Vec<f32> {
        let k = steps * LANES;
        let len = by_lanes_len(steps, BAND);
        let mut data = vec![f32::NAN; rows.len.div_ceil(BAND) * len];
        for (band, dst) in data.chunks_mut(len).enumerate() {
            let mut plain = [f32::NAN; BAND].repeat(k);
            for (i, row) in plain.chunks_mut(k).enumerate().take(rows.len - band * BAND) {
                row.copy_from_slice(&rows.data[(band * BAND + i) * rows.stride..][..k]);
            }
            let rows = Rows { data: &plain, stride: k, len: BAND };
            by_lanes(level, rows, k, dst, (steps, BAND));
        }
        data
    }

    #[test]
    fn strips_give_the_bits_of_dots() {
        for (m, n, steps) in [(1, 1, 1), (8, 48, 3), (13, 37, 40), (20, 16, 2), (4, 30, 5)] {
            let k = steps * LANES;
            let (a, mut b) = (values(m * (k + 3), 1), values(n * (k + 5), 2));
            b[k / 2] = f32::INFINITY;
            for (level, add) in levels().into_iter().flat_map(|l| [(l, false), (l, true)]) {
                let a = Rows { data: &a, stride: k + 3, len: m };
                let rows = Rows { data: &b, stride: k + 5, len: n };
                let mut wanted = vec![0.5; m * (n + 2)];
                let mut out = wanted.clone();
                let dots = if add { add_dots } else { dots };
                dots(level, a, rows, k, MatrixMut::packed(&mut wanted, n + 2));
                let width = n.next_multiple_of(LANES);
                let mut padded = vec![f32::NAN; width * k];
                for (j, row) in padded.chunks_mut(k).enumerate().take(n) {
                    row.copy_from_slice(&b[j * (k + 5)..][..k]);
                }
                let mut columns = vec![f32::NAN; by_lanes_len(steps, width)];
                for first in (0..width).step_by(LANES) {
                    let rows = Rows { data: &padded[first * k..], stride: k, len: LANES };
                    by_lanes(level, rows, k, &mut columns[first..], (steps, width));
                }
                let data = banded(level, a, steps);
                let stride = by_lanes_len(steps, BAND) / BAND;
                let bands = Bands { data: &data, stride, len: m };
                strip(
                    level,
                    bands,
                    (&columns, width, n),
                    steps,
                    MatrixMut::packed(&mut out, n + 2),
                    add,
                );
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&out), bits(&wanted), "{level:?} {m} × {n} × {k}, add {add}");
            }
        }
    }
}
