//! Rows to rows: sixteen elements become words of their own first.

use std::arch::x86_64::*;

use super::SIDE;
use super::scales::{scaled, some};
use super::words::Words;
use crate::backend::cpu::simd::weights::{Scales, Weights};

/// As [`super::rows`], of one kind of words.
///
/// # Safety
/// The level is present, and what [`super::rows`] asserts.
#[inline(always)]
pub(super) unsafe fn rows<W: Words>(rows: &Weights<'_>, dst: &mut [f32], stride: usize) -> usize {
    if !rows.k().is_multiple_of(SIDE) {
        return 0;
    }
    let bytes = SIDE * rows.code().bits() / 8;
    for i in 0..rows.len() {
        let mut scales = RowScales::new(rows.scales(), i);
        for part in 0..rows.k() / SIDE {
            let l = part * SIDE;
            // SAFETY: sixteen elements of row i, and their places; the level is present.
            unsafe {
                let words = W::spread(rows.start_of(i).wrapping_add(part * bytes));
                if W::special(words) {
                    return i;
                }
                let scale = scales.of(l);
                let to = dst.as_mut_ptr().add(i * stride + l);
                _mm512_storeu_ps(to, scaled(W::element::<0>(words), scale));
            }
        }
    }
    rows.len()
}

/// The scales of a row: those of sixteen blocks.
struct RowScales<'a> {
    scales: Option<&'a Scales<'a>>,
    row: usize,
    /// Which sixteen blocks.
    part: Option<usize>,
    values: [f32; SIDE],
}

impl<'a> RowScales<'a> {
    #[inline(always)]
    fn new(scales: Option<&'a Scales<'a>>, row: usize) -> Self {
        RowScales { scales, row, part: None, values: [1.0; SIDE] }
    }

    /// That of element `l` in all lanes, with the tensor scale.
    ///
    /// # Safety
    /// The level is present, and the row has the element.
    #[inline(always)]
    unsafe fn of(&mut self, l: usize) -> Option<(__m512, f32)> {
        let scales = self.scales?;
        let block = l / scales.block_k;
        let part = block / SIDE;
        if self.part != Some(part) {
            self.part = Some(part);
            // SAFETY: the caller's promise.
            unsafe {
                let values = some(scales, self.row, part * SIDE);
                _mm512_storeu_ps(self.values.as_mut_ptr(), values);
            }
        }
        // SAFETY: the level is present.
        Some((unsafe { _mm512_set1_ps(self.values[block % SIDE]) }, scales.factor))
    }
}
