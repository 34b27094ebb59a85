//! The softmax of a row whose scores come block by block, and what it has gathered so far.

use super::fold::{lanes, largest};
use super::math::{exp, mul_add, tanh};
use super::per_level::per_level;

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
    /// Added for each key further on.
    pub slope: f32,
    /// The first key's distance.
    pub distance: f32,
}

per_level! {
    /// Turns a block's products into `e^(s − max)` with the largest score of this and all earlier
    /// blocks, 0 outside `seen`, and gives the factor of what was gathered under the old one.
    pub fn online(
        scores: &mut [f32],
        seen: std::ops::Range<usize>,
        score: Score,
        so_far: &mut Gathered,
    ) -> f32 {
        if let Some(cap) = score.softcap {
            scores.iter_mut().for_each(|s| *s = cap * tanh::<FUSED>(*s * score.scale / cap));
        } else {
            scores.iter_mut().for_each(|s| *s *= score.scale);
        }
        if score.slope != 0.0 {
            for (j, s) in scores.iter_mut().enumerate() {
                *s = mul_add::<FUSED>(score.slope, score.distance + j as i32 as f32, *s);
            }
        }
        scores[..seen.start].fill(f32::NEG_INFINITY);
        scores[seen.end..].fill(f32::NEG_INFINITY);
        let found = largest(scores);
        let max = if found > so_far.max { found } else { so_far.max };
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        scores.iter_mut().for_each(|s| *s = exp::<FUSED>(*s - shift));
        let sum = lanes(scores, 0.0, |a, b| a + b, |s| *s);
        // Most blocks have no larger score, and e^0 takes as long as any other power.
        let factor = if so_far.max == shift { 1.0 } else { exp::<FUSED>(so_far.max - shift) };
        *so_far = Gathered { max, sum: so_far.sum * factor + sum };
        factor
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

    /// `x[i] = x[i] · factor`
    pub fn scale(x: &mut [f32], factor: f32) {
        x.iter_mut().for_each(|x| *x *= factor);
    }

    /// `x[i] = x[i] / divisor`
    pub fn divide(x: &mut [f32], divisor: f32) {
        x.iter_mut().for_each(|x| *x /= divisor);
    }
}
