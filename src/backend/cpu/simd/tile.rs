//! Tiles of dot products over any vector type of [`LANES`] lanes.

use super::{LANES, Rows};

/// [`LANES`] f32 values in registers.
pub(super) trait Vector: Copy {
    fn zero() -> Self;

    /// # Safety
    /// `from` is valid for reading [`LANES`] values.
    unsafe fn load(from: *const f32) -> Self;

    /// `self + a · b`, fused where the level has that.
    fn add_product(self, a: Self, b: Self) -> Self;

    /// The lanes added up by halves: lane i to lane i + 8, then + 4, + 2, + 1.
    fn sum(self) -> f32;
}

/// One tile: `MR × NR` dot products in registers.
///
/// # Safety
/// `a` and `b` are valid for `MR` and `NR` rows of `k` elements at their strides, `out` for the
/// `MR × NR` outputs at its stride.
#[inline(always)]
unsafe fn tile<V: Vector, const MR: usize, const NR: usize>(
    (a, a_stride): (*const f32, usize),
    (b, b_stride): (*const f32, usize),
    k: usize,
    (out, out_stride): (*mut f32, usize),
) {
    let mut sums = [[V::zero(); NR]; MR];
    let mut l = 0;
    while l < k {
        let mut columns = [V::zero(); NR];
        for (j, column) in columns.iter_mut().enumerate() {
            // SAFETY: row j < NR of `b`, elements l..l + LANES of its k.
            *column = unsafe { V::load(b.add(j * b_stride + l)) };
        }
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row i < MR of `a`, elements l..l + LANES of its k.
            let row = unsafe { V::load(a.add(i * a_stride + l)) };
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = sum.add_product(row, column);
            }
        }
        l += LANES;
    }
    for (i, sums) in sums.iter().enumerate() {
        for (j, sum) in sums.iter().enumerate() {
            // SAFETY: output (i, j) of the tile.
            unsafe { *out.add(i * out_stride + j) = sum.sum() };
        }
    }
}

/// All dot products in tiles of `MR × NR`, the rest in smaller ones.
///
/// # Safety
/// `a` and `b` hold `k` elements in each row, `k` a multiple of [`LANES`], and `out` has a place
/// for each output.
#[inline(always)]
pub(super) unsafe fn dots<V: Vector, const MR: usize, const NR: usize>(
    a: Rows<'_>,
    b: Rows<'_>,
    k: usize,
    out: &mut [f32],
    out_stride: usize,
) {
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
                let b = (b.data.as_ptr().add(j * b.stride), b.stride);
                let out = (out.as_mut_ptr().add(i * out_stride + j), out_stride);
                match (rows == MR, columns == NR) {
                    (true, true) => tile::<V, MR, NR>(a, b, k, out),
                    (true, false) => tile::<V, MR, 1>(a, b, k, out),
                    (false, true) => tile::<V, 1, NR>(a, b, k, out),
                    (false, false) => tile::<V, 1, 1>(a, b, k, out),
                }
            }
            i += rows;
        }
        j += columns;
    }
}
