//! Matrix products as sums of outer products: `C += A·B` with B's rows contiguous along n.
//!
//! Each output is one chain of multiply-adds along k, whatever the tile, so that a row's result
//! does not depend on how many rows there are.

use super::lanes::{self, Lanes, Work};
use super::tile::Out;
use super::{Level, Rows};

/// B's rows, and C's, are padded to a multiple of this many columns.
pub const COLUMNS: usize = 16;

/// `MR × (NV · WIDTH)` chains of multiply-adds along k, A's elements in all lanes of a vector.
///
/// # Safety
/// `a` is valid for `k` values of `MR` rows: its numbers are from one row and from one value to the
/// next; `b` for `k` rows of `NV · WIDTH` values at its stride. Values of `a`'s first row are asked
/// for so many ahead, and rows of `b`, if that is not 0.
#[inline(always)]
pub(super) unsafe fn chains<
    V: Lanes,
    const MR: usize,
    const NV: usize,
    const A_AHEAD: usize,
    const B_AHEAD: usize,
>(
    sums: &mut [[V; NV]; MR],
    a: (*const f32, usize, usize),
    b: (*const f32, usize),
    k: usize,
) {
    for l in 0..k {
        // SAFETY: value and row l < k, by the caller's promise.
        unsafe { step::<V, MR, NV, A_AHEAD, B_AHEAD>(sums, a, b, l) };
    }
}

/// A link of each chain: value `l` of `a`, row `l` of `b`.
///
/// # Safety
/// As [`chains`], of `l` below its `k`.
#[inline(always)]
unsafe fn step<
    V: Lanes,
    const MR: usize,
    const NV: usize,
    const A_AHEAD: usize,
    const B_AHEAD: usize,
>(
    sums: &mut [[V; NV]; MR],
    (a, a_row, a_step): (*const f32, usize, usize),
    (b, b_stride): (*const f32, usize),
    l: usize,
) {
    let mut row = [V::splat(0.0); NV];
    for (j, row) in row.iter_mut().enumerate() {
        // SAFETY: vector j of row l of `b`.
        *row = unsafe { V::load(b.add(l * b_stride + j * V::WIDTH)) };
        if B_AHEAD > 0 {
            V::prefetch_near(b.wrapping_add((l + B_AHEAD) * b_stride + j * V::WIDTH).cast());
        }
    }
    if A_AHEAD > 0 {
        V::prefetch_near(a.wrapping_add((l + A_AHEAD) * a_step).cast());
    }
    for (i, sums) in sums.iter_mut().enumerate() {
        // SAFETY: element l of row i < MR of `a`.
        let x = V::splat(unsafe { *a.add(i * a_row + l * a_step) });
        for (sum, row) in sums.iter_mut().zip(row) {
            *sum = sum.add_product(x, row);
        }
    }
}

/// `MR × (NV · WIDTH)` outputs in registers.
///
/// # Safety
/// `a` is valid for `MR` rows of `k` values at its stride, `b` for `k` rows of `NV · WIDTH` values
/// at its own, `out` for `MR` such rows.
#[inline(always)]
unsafe fn tile<V: Lanes, const MR: usize, const NV: usize>(
    (a, a_stride): (*const f32, usize),
    (b, b_stride): (*const f32, usize),
    k: usize,
    out: Out,
) {
    let place = |i: usize, j: usize| out.to.wrapping_add(i * out.stride + j * V::WIDTH);
    let mut sums = [[V::splat(0.0); NV]; MR];
    if out.add {
        for (i, sums) in sums.iter_mut().enumerate() {
            for (j, sum) in sums.iter_mut().enumerate() {
                // SAFETY: vector j of row i of the outputs.
                *sum = unsafe { V::load(place(i, j)) };
            }
        }
    }
    /// Links of a chain that are written out: fewer turns, whose number a processor foresees, so
    /// that it begins the next tile while this one ends. For four, Arm has too few registers.
    const LINKS: usize = if cfg!(target_arch = "aarch64") { 2 } else { 4 };
    let whole = k / LINKS * LINKS;
    for l in (0..whole).step_by(LINKS) {
        for link in 0..LINKS {
            // SAFETY: l + link < k; the caller's promise.
            unsafe {
                step::<V, MR, NV, 0, 0>(&mut sums, (a, a_stride, 1), (b, b_stride), l + link);
            }
        }
    }
    // SAFETY: what is left of the k values and rows.
    unsafe {
        let (a, b) = (a.add(whole), b.add(whole * b_stride));
        chains::<V, MR, NV, 0, 0>(&mut sums, (a, a_stride, 1), (b, b_stride), k - whole);
    }
    for (i, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate() {
            // SAFETY: vector j of row i of the outputs.
            unsafe { sum.store(place(i, j)) };
        }
    }
}

/// All rows against `NV` vectors of columns.
///
/// # Safety
/// As [`tile`], for all rows of `a`.
#[inline(always)]
unsafe fn columns<V: Lanes, const NV: usize>(
    a: Rows<'_>,
    b: (*const f32, usize),
    k: usize,
    out: Out,
) {
    /// Rows of a tile: with four vectors of columns 24 sums and 5 more, of 32 registers.
    const MR: usize = 6;
    let mut i = 0;
    while i < a.len {
        // SAFETY: rows i.. of `a` and of the outputs, as many as are left of them.
        unsafe {
            let rows = (a.data.as_ptr().add(i * a.stride), a.stride);
            let out = Out { to: out.to.add(i * out.stride), ..out };
            match a.len - i {
                1 => tile::<V, 1, NV>(rows, b, k, out),
                2 => tile::<V, 2, NV>(rows, b, k, out),
                3 => tile::<V, 3, NV>(rows, b, k, out),
                4 => tile::<V, 4, NV>(rows, b, k, out),
                5 => tile::<V, 5, NV>(rows, b, k, out),
                _ => tile::<V, MR, NV>(rows, b, k, out),
            }
        }
        i += MR;
    }
}

/// All rows against all columns, `NV` vectors at a time, then half as many, then single ones.
///
/// # Safety
/// The slices hold what [`products`] asserts.
#[inline(always)]
unsafe fn all<V: Lanes, const NV: usize>(a: Rows<'_>, b: Rows<'_>, n: usize, out: Out) {
    let mut j = 0;
    while j < n {
        let vectors = match (n - j) / V::WIDTH {
            left if left >= NV => NV,
            left if left >= 2 => 2,
            _ => 1,
        };
        // SAFETY: columns j.. of `b` and of the outputs, inside their n.
        unsafe {
            let b_part = (b.data.as_ptr().add(j), b.stride);
            let out = Out { to: out.to.add(j), ..out };
            match vectors {
                1 => columns::<V, 1>(a, b_part, b.len, out),
                2 => columns::<V, 2>(a, b_part, b.len, out),
                _ => columns::<V, NV>(a, b_part, b.len, out),
            }
        }
        j += vectors * V::WIDTH;
    }
}

/// `C = A·B`, or `C += A·B` with `add`: A's rows have as many elements as B has rows, and `n`
/// columns of B are used, a multiple of [`COLUMNS`].
///
/// # Panics
/// When a row reaches past its slice.
pub fn products(
    level: Level,
    a: Rows<'_>,
    b: Rows<'_>,
    n: usize,
    out: &mut [f32],
    out_stride: usize,
    add: bool,
) {
    assert!(n.is_multiple_of(COLUMNS), "columns are padded");
    assert!(a.holds(b.len) && b.holds(n), "rows lie inside their slices");
    let reach = a.len.checked_sub(1).map_or(0, |last| last * out_stride + n);
    assert!(reach <= out.len(), "outputs lie inside their slice");
    let out = Out { to: out.as_mut_ptr(), stride: out_stride, add };
    // SAFETY: the assertions above.
    unsafe { lanes::at(level, Products { a, b, n, out }) }
}

/// The operands of [`products`].
struct Products<'a> {
    a: Rows<'a>,
    b: Rows<'a>,
    n: usize,
    out: Out,
}

impl Work for Products<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Products { a, b, n, out } = self;
        // SAFETY: what `products` asserts. Of 16 registers two vectors of columns leave 12 for
        // sums.
        unsafe {
            match V::WIDTH {
                16 => all::<V, 4>(a, b, n, out),
                _ => all::<V, 2>(a, b, n, out),
            }
        }
    }
}

/// Turns rows into columns: element `(i, l)` of `src` goes to `(l, i)` of `dst`, whose rows are
/// `dst_stride` apart, for `l` below `k`.
///
/// # Panics
/// When a row reaches past its slice.
pub fn transpose(level: Level, src: Rows<'_>, k: usize, dst: &mut [f32], dst_stride: usize) {
    assert!(src.holds(k) && dst_stride >= src.len, "rows lie inside their slices");
    let reach = k.checked_sub(1).map_or(0, |last| last * dst_stride + src.len);
    assert!(reach <= dst.len(), "columns lie inside their slice");
    let (rows, columns) = match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: both levels have AVX; the assertions above.
        Level::Avx2 | Level::Avx512 | Level::Avx512Vbmi => unsafe {
            x86::transpose(src, k, dst, dst_stride)
        },
        _ => (0, 0),
    };
    for i in 0..src.len {
        let first = if i < rows { columns } else { 0 };
        for l in first..k {
            dst[l * dst_stride + i] = src.data[i * src.stride + l];
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::Rows;

    /// Blocks of 8 × 8; gives how many rows and columns of them that was.
    ///
    /// # Safety
    /// AVX, and what [`super::transpose`] asserts.
    #[target_feature(enable = "avx")]
    pub(super) unsafe fn transpose(
        src: Rows<'_>,
        k: usize,
        dst: &mut [f32],
        dst_stride: usize,
    ) -> (usize, usize) {
        let (rows, columns) = (src.len / 8 * 8, k / 8 * 8);
        for i in (0..rows).step_by(8) {
            for l in (0..columns).step_by(8) {
                // SAFETY: eight values of eight rows, and their places.
                unsafe {
                    let from = src.data.as_ptr().add(i * src.stride + l);
                    let to = dst.as_mut_ptr().add(l * dst_stride + i);
                    let mut places = [to; 8];
                    for (c, place) in places.iter_mut().enumerate() {
                        *place = to.wrapping_add(c * dst_stride);
                    }
                    transpose_block(from, src.stride, places);
                }
            }
        }
        (rows, columns)
    }

    /// 8 × 8 values: a place for each column.
    ///
    /// # Safety
    /// AVX; `from` is valid for eight rows of eight values at its stride, a place for eight values.
    #[inline]
    #[target_feature(enable = "avx")]
    pub(in super::super) unsafe fn transpose_block(
        from: *const f32,
        stride: usize,
        to: [*mut f32; 8],
    ) {
        let mut r = [_mm256_setzero_ps(); 8];
        for (row, r) in r.iter_mut().enumerate() {
            // SAFETY: a row, by the caller's promise.
            *r = unsafe { _mm256_loadu_ps(from.add(row * stride)) };
        }
        let mut pairs = r;
        for p in 0..4 {
            let (a, b) = (r[2 * p], r[2 * p + 1]);
            (pairs[2 * p], pairs[2 * p + 1]) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        }
        // Of rows 4g .. 4g + 4: columns c and 4 + c at 4g + c.
        let mut quads = r;
        for g in [0, 4] {
            for half in 0..2 {
                let (a, b) = (pairs[g + half], pairs[g + half + 2]);
                quads[g + 2 * half] = _mm256_shuffle_ps::<0b01_00_01_00>(a, b);
                quads[g + 2 * half + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(a, b);
            }
        }
        for c in 0..4 {
            let (a, b) = (quads[c], quads[4 + c]);
            // SAFETY: two places, by the caller's promise.
            unsafe {
                _mm256_storeu_ps(to[c], _mm256_permute2f128_ps::<0x20>(a, b));
                _mm256_storeu_ps(to[4 + c], _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::levels;

    fn values(n: usize, salt: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + salt * 11) % 101) as f32 * 0.25 - 12.0).collect()
    }

    #[test]
    fn products_are_sums_in_order_at_every_level() {
        // Small integers over 4: every sum is exact, whatever its order.
        for (m, k, n) in [(1, 5, 16), (6, 64, 64), (7, 3, 80), (13, 0, 32), (0, 4, 16)] {
            let (a, b) = (values(m * (k + 2) + 2, 1), values(k * (n + 1), 2));
            for (level, add) in levels().into_iter().flat_map(|l| [(l, false), (l, true)]) {
                let mut out = vec![0.5; m * (n + 3)];
                let a_rows = Rows { data: &a, stride: k + 2, len: m };
                let b_rows = Rows { data: &b, stride: n + 1, len: k };
                products(level, a_rows, b_rows, n, &mut out, n + 3, add);
                for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                    let start = if add { 0.5 } else { 0.0 };
                    let term = |l: usize| a[i * (k + 2) + l] * b[l * (n + 1) + j];
                    let wanted = (0..k).fold(start, |sum, l| sum + term(l));
                    assert_eq!(out[i * (n + 3) + j], wanted, "{level:?} {m} {k} {n} [{i}, {j}]");
                }
            }
        }
    }

    #[test]
    fn transposing_moves_every_element() {
        for (rows, k) in [(64, 64), (5, 9), (17, 20), (8, 0), (0, 8)] {
            let src = values(rows * (k + 1), 3);
            for level in levels() {
                let mut dst = vec![f32::NAN; k * 70];
                transpose(level, Rows { data: &src, stride: k + 1, len: rows }, k, &mut dst, 70);
                for (i, l) in (0..rows).flat_map(|i| (0..k).map(move |l| (i, l))) {
                    assert_eq!(dst[l * 70 + i], src[i * (k + 1) + l], "{level:?} {rows} {k}");
                }
            }
        }
    }
}
