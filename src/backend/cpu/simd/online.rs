//! The softmax of rows whose scores come block by block, and what they have gathered so far.

use std::ops::Range;

use super::lanes::{self, Lanes, Whole, Work};
use super::math::{exp, mul_add, tanh};
use super::per_level::per_level;
use super::{LANES, Level};

/// The largest score so far, and `Σ e^(s − max)`: 0 where there is no score above −inf.
#[derive(Clone, Copy, Debug)]
pub struct Gathered {
    /// The largest score.
    pub max: f32,
    /// The sum.
    pub sum: f32,
}

impl Gathered {
    /// Nothing yet.
    pub const NONE: Gathered = Gathered { max: f32::NEG_INFINITY, sum: 0.0 };

    /// `ln Σ e^s`
    pub fn log_sum(self) -> f32 {
        let shift = if self.max == f32::NEG_INFINITY { 0.0 } else { self.max };
        (f64::from(shift) + f64::from(self.sum).ln()) as f32
    }
}

/// What is done to products before the softmax.
#[derive(Clone, Copy, Debug)]
pub struct Score {
    /// Multiplies them.
    pub scale: f32,
    /// `cap · tanh(s / cap)`
    pub softcap: Option<f32>,
}

/// What a row sees of a block.
#[derive(Clone, Debug)]
pub struct Line {
    /// The keys whose products count.
    pub seen: Range<usize>,
    /// Added for each key further on.
    pub slope: f32,
    /// The first key's distance.
    pub distance: f32,
}

per_level! {
    /// The scores of products, where there is more to them than a scale: −inf where a key is not
    /// seen.
    fn scores(products: &mut [f32], score: Score, line: &Line) {
        if let Some(cap) = score.softcap {
            products.iter_mut().for_each(|s| *s = cap * tanh::<FUSED>(*s * score.scale / cap));
        } else {
            products.iter_mut().for_each(|s| *s *= score.scale);
        }
        if line.slope != 0.0 {
            for (j, s) in products.iter_mut().enumerate() {
                *s = mul_add::<FUSED>(line.slope, line.distance + j as i32 as f32, *s);
            }
        }
        products[..line.seen.start].fill(f32::NEG_INFINITY);
        products[line.seen.end..].fill(f32::NEG_INFINITY);
    }

    /// Joins what was gathered of later keys, `values` being `Σ e^(s − max) · v` of each.
    pub fn join_values(
        so_far: &mut Gathered,
        values: &mut [f32],
        later: Gathered,
        later_values: &[f32],
    ) {
        let max = if later.max > so_far.max { later.max } else { so_far.max };
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let (old, new) = (exp::<FUSED>(so_far.max - shift), exp::<FUSED>(later.max - shift));
        *so_far = Gathered { max, sum: so_far.sum * old + later.sum * new };
        for (value, later) in values.iter_mut().zip(later_values) {
            *value = *value * old + *later * new;
        }
    }

    /// `x[i] = x[i] / divisor`
    pub fn divide(x: &mut [f32], divisor: f32) {
        x.iter_mut().for_each(|x| *x /= divisor);
    }
}

/// Turns a block's products into `e^(s − max)` with the largest score of this and all earlier
/// blocks, 0 where a row does not see, and brings what was gathered under the old one, `values` and
/// sums, to the new one.
///
/// Row i has `width` products at `products[i · stride]`, sees them as `line(i)` says, and has
/// gathered `values[i · values_stride ..]` of as many elements.
///
/// # Panics
/// When `width` or `values_stride` is no multiple of [`LANES`], `width` is over four times that, or
/// a row reaches past its slice.
pub fn online(
    level: Level,
    (products, stride, width): (&mut [f32], usize, usize),
    score: Score,
    line: impl Fn(usize) -> Line,
    gathered: &mut [Gathered],
    (values, values_stride): (&mut [f32], usize),
) {
    assert!(width.is_multiple_of(LANES) && values_stride.is_multiple_of(LANES), "whole vectors");
    assert!(width <= 4 * LANES, "a row stays in registers");
    let reach = gathered.len().checked_sub(1).map_or(0, |last| last * stride + width);
    assert!(reach <= products.len(), "products lie inside their slice");
    assert!(gathered.len() * values_stride <= values.len(), "values lie inside their slice");
    let (products, values) = ((products, stride, width), (values, values_stride));
    // SAFETY: the assertions above.
    unsafe { lanes::at(level, Online { level, products, score, line, gathered, values }) }
}

struct Online<'a, F> {
    level: Level,
    products: (&'a mut [f32], usize, usize),
    score: Score,
    line: F,
    gathered: &'a mut [Gathered],
    values: (&'a mut [f32], usize),
}

/// Rows that go through a step together, so that one does not wait for the other's result.
const ROWS: usize = 8;

impl<F: Fn(usize) -> Line> Work for Online<'_, F> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: what `online` asserts.
        unsafe {
            match self.products.2 / LANES {
                0 => {}
                1 => self.rows::<V, 1>(),
                2 => self.rows::<V, 2>(),
                3 => self.rows::<V, 3>(),
                _ => self.rows::<V, 4>(),
            }
        }
    }
}

impl<F: Fn(usize) -> Line> Online<'_, F> {
    /// # Safety
    /// As of [`Online::run`]; rows have `N` times [`LANES`] products.
    #[inline(always)]
    unsafe fn rows<V: Lanes, const N: usize>(self) {
        let (products, stride, width) = self.products;
        let (values, values_stride) = self.values;
        for (chunk, gathered) in self.gathered.chunks_mut(ROWS).enumerate() {
            let first = chunk * ROWS;
            // What is taken from each score, and what products are multiplied by to be one.
            let mut steps = [(0.0, 1.0); ROWS];
            for (i, ((shift, scale), so_far)) in (first..).zip(steps.iter_mut().zip(&mut *gathered))
            {
                let row = &mut products[i * stride..][..width];
                let line = (self.line)(i);
                if self.score.softcap.is_some() || line.slope != 0.0 || line.seen != (0..width) {
                    scores(self.level, row, self.score, &line);
                } else {
                    *scale = self.score.scale;
                }
                let mut largest = Whole::<V>::splat(f32::NEG_INFINITY);
                for j in 0..N {
                    // SAFETY: vector j of the row.
                    let s = unsafe { Whole::<V>::load(row.as_ptr().add(j * LANES)) };
                    largest = largest.join(s.map(|s| s.mul(V::splat(*scale))), V::max);
                }
                let found = largest.fold(V::max).largest();
                let max = if found > so_far.max { found } else { so_far.max };
                *shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
                // Most blocks have no larger score, and e^0 takes as long as any other power.
                let old = std::mem::replace(&mut so_far.max, max);
                if old != *shift {
                    let factor = match V::FUSED {
                        true => exp::<true>(old - *shift),
                        false => exp::<false>(old - *shift),
                    };
                    so_far.sum *= factor;
                    let factor = V::splat(factor);
                    let row = &mut values[i * values_stride..][..values_stride];
                    for x in row.chunks_exact_mut(V::WIDTH) {
                        // SAFETY: a vector of the row.
                        unsafe { V::load(x.as_ptr()).mul(factor).store(x.as_mut_ptr()) };
                    }
                }
            }
            for (i, ((shift, scale), so_far)) in (first..).zip(steps.iter().zip(gathered)) {
                let row = &mut products[i * stride..][..width];
                let (shift, scale) = (V::splat(*shift), V::splat(*scale));
                let mut sums = Whole::<V>::splat(0.0);
                for j in 0..N {
                    // SAFETY: vector j of the row.
                    unsafe {
                        let s = Whole::<V>::load(row.as_ptr().add(j * LANES));
                        let e = s.map(|s| s.mul(scale).sub(shift).exp());
                        e.store(row.as_mut_ptr().add(j * LANES));
                        sums = sums.join(e, V::add);
                    }
                }
                so_far.sum += sums.fold(V::add).total();
            }
        }
    }
}
