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

    /// Whether there is no score above −inf.
    pub fn is_empty(&self) -> bool {
        self.max == f32::NEG_INFINITY && self.sum == 0.0
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

    /// `out[i] = x[i] / divisor`, 0 where that is −0.
    pub fn divide(x: &[f32], divisor: f32, out: &mut [f32]) {
        out.iter_mut().zip(x).for_each(|(out, x)| *out = *x / divisor + 0.0);
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

/// Rows that go through a step together, so that none waits for another's result.
const ROWS: usize = 3 * SUMS;

/// The same, in whole vectors.
const PLACES: usize = ROWS.next_multiple_of(LANES);

impl<F: Fn(usize) -> Line> Work for Online<'_, F> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let (products, stride, width) = self.products;
        let (values, values_stride) = self.values;
        let scale = self.score.scale * LOG2_E;
        for (chunk, gathered) in self.gathered.chunks_mut(ROWS).enumerate() {
            let first = chunk * ROWS;
            // What products are multiplied by to be scores; what is taken from each score, and from
            // the largest so far.
            let (mut scales, mut shifts, mut steps) = ([scale; ROWS], [0.0; ROWS], [0.0; PLACES]);
            for (group, gathered) in gathered.chunks_mut(SUMS).enumerate() {
                let group = group * SUMS;
                let mut largest = [V::splat(f32::NEG_INFINITY); SUMS];
                for i in 0..gathered.len() {
                    let row = &mut products[(first + group + i) * stride..][..width];
                    let line = (self.line)(first + group + i);
                    // The largest product is not the largest score where the scale is negative.
                    if self.score.softcap.is_some() || line.slope != 0.0 || scale <= 0.0 {
                        scores(self.level, row, self.score, &line);
                        scales[group + i] = 1.0;
                    }
                    if line.seen != (0..width) {
                        row[..line.seen.start].fill(f32::NEG_INFINITY);
                        row[line.seen.end..].fill(f32::NEG_INFINITY);
                    }
                    let mut found = Whole::<V>::splat(f32::NEG_INFINITY);
                    for j in (0..width).step_by(LANES) {
                        // SAFETY: whole vectors of the row.
                        let s = unsafe { Whole::<V>::load(row.as_ptr().add(j)) };
                        found = found.join(s, V::max);
                    }
                    largest[i] = found.fold(V::max);
                }
                let largest = V::across(&largest, V::max);
                for (i, so_far) in gathered.iter_mut().enumerate() {
                    let at = group + i;
                    let found = largest[i] * scales[at];
                    let old = so_far.max;
                    so_far.max = if found > old { found } else { old };
                    shifts[at] = if so_far.max == f32::NEG_INFINITY { 0.0 } else { so_far.max };
                    steps[at] = old - shifts[at];
                }
            }
            let mut factors = [0.0; PLACES];
            for at in (0..PLACES).step_by(V::WIDTH) {
                // SAFETY: a vector of the steps, and its place.
                unsafe {
                    let [power] = V::exp2([V::load(steps.as_ptr().add(at))]);
                    power.store(factors.as_mut_ptr().add(at));
                }
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
            for (group, gathered) in gathered.chunks_mut(SUMS).enumerate() {
                let group = group * SUMS;
                let mut sums = [V::splat(0.0); SUMS];
                for i in 0..gathered.len() {
                    let row = &mut products[(first + group + i) * stride..][..width];
                    sums[i] = row_powers(row, scales[group + i], shifts[group + i]);
                }
                let sums = V::across(&sums, V::add);
                for (so_far, sum) in gathered.iter_mut().zip(sums) {
                    so_far.sum += sum;
                }
            }
        }
    }
}

/// Turns a row's products to powers; gives their sums by lane.
#[inline(always)]
fn row_powers<V: Lanes>(row: &mut [f32], scale: f32, shift: f32) -> V {
    let (scale, shift) = (V::splat(scale), V::splat(-shift));
    let mut sum = Whole::<V>::splat(0.0);
    let (vectors, row) = (row.len() / V::WIDTH, row.as_mut_ptr());
    let mut at = 0;
    // SAFETY: vectors of the row.
    unsafe {
        // Of 32 registers eight vectors side by side take 24, and constants the rest.
        while V::WIDTH == LANES && at + 8 <= vectors {
            powers::<V, 8>(row, at, (scale, shift), &mut sum);
            at += 8;
        }
        while at + 4 <= vectors {
            powers::<V, 4>(row, at, (scale, shift), &mut sum);
            at += 4;
        }
        while at < vectors {
            powers::<V, 1>(row, at, (scale, shift), &mut sum);
            at += 1;
        }
    }
    sum.fold(V::add)
}

/// Of `N` vectors of a row, from vector `first` on.
///
/// # Safety
/// The row has the vectors.
#[allow(clippy::needless_range_loop, reason = "iterators over registers go through memory")]
#[inline(always)]
unsafe fn powers<V: Lanes, const N: usize>(
    row: *mut f32,
    first: usize,
    (scale, shift): (V, V),
    sum: &mut Whole<V>,
) {
    let mut x = [shift; N];
    for i in 0..N {
        // SAFETY: a vector of the row.
        x[i] = x[i].add_product(unsafe { V::load(row.add((first + i) * V::WIDTH)) }, scale);
    }
    let x = V::exp2(x);
    for i in 0..N {
        // SAFETY: as above.
        unsafe { x[i].store(row.add((first + i) * V::WIDTH)) };
        sum.add(first + i, x[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::levels;

    /// Powers of whatever is in a row, at the level it is run at.
    struct Powers<'a>(&'a mut [f32]);

    impl Work for Powers<'_> {
        #[inline(always)]
        unsafe fn run<V: Lanes>(self) {
            row_powers::<V>(self.0, 1.0, 0.0);
        }
    }

    #[test]
    fn powers_have_the_bits_of_the_function_at_every_level() {
        let special = [0.0, -0.0, -0.5, -1.5, f32::NEG_INFINITY, f32::MIN, f32::NAN, -1e-40];
        let spread = (0..2000).map(|i| -(i as f32) * 0.0771 - 1e-3);
        let mut values: Vec<f32> = special.into_iter().chain(spread).collect();
        values.truncate(values.len() / LANES * LANES);
        for level in levels().into_iter().filter(|&level| level != Level::Portable) {
            let mut out = values.clone();
            // SAFETY: the work asks for nothing.
            unsafe { lanes::at(level, Powers(&mut out)) };
            for (x, y) in values.iter().zip(out) {
                let wanted = exp2::<true>(*x);
                let same = wanted.to_bits() == y.to_bits() || wanted.is_nan() && y.is_nan();
                assert!(same, "{level:?}: 2^{x} is {wanted}, not {y}");
            }
        }
    }
}
