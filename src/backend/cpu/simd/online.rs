//! The softmax of rows whose scores come block by block, and what they have gathered so far.
//!
//! Scores are taken times `log2 e`, so that a power of 2 is what is left to compute.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::lanes::{self, Lanes, SUMS, Whole, Work};
use super::math::{exp2, mul_add, tanh};
use super::per_level::per_level;
use super::{LANES, Level};

/// The largest score so far, and `Σ e^(s − max)`: 0 where there is no score above −inf.
#[derive(Clone, Copy, Debug)]
pub struct Gathered {
    /// The largest score, times `log2 e`.
    max: f32,
    /// The sum.
    pub sum: f32,
}

impl Gathered {
    /// Nothing yet.
    pub const NONE: Gathered = Gathered { max: f32::NEG_INFINITY, sum: 0.0 };

    /// A score, with what its power counts in the sum.
    pub fn one(score: f32, sum: f32) -> Gathered {
        Gathered { max: score * LOG2_E, sum }
    }

    /// `ln Σ e^s`
    pub fn log_sum(self) -> f32 {
        let shift = if self.max == f32::NEG_INFINITY { 0.0 } else { self.max };
        (f64::from(shift) * std::f64::consts::LN_2 + f64::from(self.sum).ln()) as f32
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
    /// The scores of products, times `log2 e`, where there is more to them than a scale.
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
        products.iter_mut().for_each(|s| *s *= LOG2_E);
    }

    /// Joins what was gathered of later keys, `values` being `Σ e^(s − max) · v` of each.
    pub fn join_values(
        so_far: &mut Gathered,
        values: &mut [f32],
        later: Gathered,
        later_values: &[f32],
    ) {
        let larger = later.max > so_far.max;
        let (max, low) = match larger {
            true => (later.max, so_far.max),
            false => (so_far.max, later.max),
        };
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let factor = exp2::<FUSED>(low - shift);
        let (old, new) = if larger { (factor, 1.0) } else { (1.0, factor) };
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
/// When `width` or `values_stride` is no multiple of [`LANES`], or a row reaches past its slice.
pub fn online(
    level: Level,
    (products, stride, width): (&mut [f32], usize, usize),
    score: Score,
    line: impl Fn(usize) -> Line,
    gathered: &mut [Gathered],
    (values, values_stride): (&mut [f32], usize),
) {
    assert!(width.is_multiple_of(LANES) && values_stride.is_multiple_of(LANES), "whole vectors");
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
const ROWS: usize = SUMS;

impl<F: Fn(usize) -> Line> Work for Online<'_, F> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let (products, stride, width) = self.products;
        let (values, values_stride) = self.values;
        let scale = self.score.scale * LOG2_E;
        for (chunk, gathered) in self.gathered.chunks_mut(ROWS).enumerate() {
            let first = chunk * ROWS;
            // What products are multiplied by to be scores.
            let mut scales = [scale; ROWS];
            let mut largest = [V::splat(f32::NEG_INFINITY); ROWS];
            for i in 0..gathered.len() {
                let row = &mut products[(first + i) * stride..][..width];
                let line = (self.line)(first + i);
                // The largest product is not the largest score where the scale is negative.
                if self.score.softcap.is_some() || line.slope != 0.0 || scale <= 0.0 {
                    scores(self.level, row, self.score, &line);
                    scales[i] = 1.0;
                }
                if line.seen != (0..width) {
                    row[..line.seen.start].fill(f32::NEG_INFINITY);
                    row[line.seen.end..].fill(f32::NEG_INFINITY);
                }
                let mut found = Whole::<V>::splat(f32::NEG_INFINITY);
                for j in 0..width / LANES {
                    // SAFETY: vector j of the row.
                    let s = unsafe { Whole::<V>::load(row.as_ptr().add(j * LANES)) };
                    found = found.join(s, V::max);
                }
                largest[i] = found.fold(V::max);
            }
            let largest = V::across(&largest, V::max);
            // What is taken from each score, and from the largest so far.
            let (mut shifts, mut steps) = ([0.0; ROWS], [0.0; LANES]);
            for (i, so_far) in gathered.iter_mut().enumerate() {
                let found = largest[i] * scales[i];
                let old = so_far.max;
                so_far.max = if found > old { found } else { old };
                shifts[i] = if so_far.max == f32::NEG_INFINITY { 0.0 } else { so_far.max };
                steps[i] = old - shifts[i];
            }
            let mut factors = [0.0; LANES];
            // SAFETY: as many values as there are lanes.
            unsafe {
                let powers = Whole::<V>::load(steps.as_ptr()).map(V::exp2);
                powers.store(factors.as_mut_ptr());
            }
            for (i, so_far) in gathered.iter_mut().enumerate() {
                so_far.sum *= factors[i];
                // Many blocks have no larger score, and before the first there are no values.
                if steps[i] == 0.0 || steps[i] == f32::NEG_INFINITY {
                    continue;
                }
                let factor = V::splat(factors[i]);
                let row = &mut values[(first + i) * values_stride..][..values_stride];
                for x in row.chunks_exact_mut(V::WIDTH) {
                    // SAFETY: a vector of the row.
                    unsafe { V::load(x.as_ptr()).mul(factor).store(x.as_mut_ptr()) };
                }
            }
            let mut sums = [V::splat(0.0); ROWS];
            for i in 0..gathered.len() {
                let row = &mut products[(first + i) * stride..][..width];
                let (shift, scale) = (V::splat(-shifts[i]), V::splat(scales[i]));
                let mut sum = Whole::<V>::splat(0.0);
                for j in 0..width / LANES {
                    // SAFETY: vector j of the row.
                    unsafe {
                        let s = Whole::<V>::load(row.as_ptr().add(j * LANES));
                        let e = s.map(|s| shift.add_product(s, scale).exp2());
                        e.store(row.as_mut_ptr().add(j * LANES));
                        sum = sum.join(e, V::add);
                    }
                }
                sums[i] = sum.fold(V::add);
            }
            let sums = V::across(&sums, V::add);
            for (so_far, sum) in gathered.iter_mut().zip(sums) {
                so_far.sum += sum;
            }
        }
    }
}
