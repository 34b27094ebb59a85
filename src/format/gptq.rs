//! Error feedback: the values of a row quantised one after the other, each making good, as far as
//! it can, what those before it lost.
//!
//! Let `x` be what a linear layer multiplies its weights with, and `H = Σ x·xᵀ` over some text. A
//! row `w` that becomes `q` then changes the layer's output by `Σ ((w − q)·x)² = (w−q)ᵀ·H·(w−q)`
//! in all. With `H = R·Rᵀ`, R upper triangular, that is a sum with one term a value:
//!
//! ```text
//! (w−q)ᵀ·H·(w−q) = Σ_j (R_jj·(t_j − q_j))²,    t_j = w_j + Σ_{i<j} R_ij·(w_i − q_i) / R_jj
//! ```
//!
//! so each `q_j` is best, given those before it, as the code nearest to its target `t_j`; and a
//! block's scale is best, given the blocks before it, where the block's own terms are least. That
//! is GPTQ (Frantar et al., arXiv 2210.17323), whose factor is the inverse of this one, or Babai's
//! nearest plane (Chen et al., arXiv 2507.18553), with the scales of the blocks found on the way.

use super::Quantizer;
use super::codec::Codec;
use super::scale::{Scale, Scaling};
use crate::error::{Error, Result};

const OP: &str = "hessian factor";

/// Columns that are eliminated together: their rows stay in the cache meanwhile.
const PANEL: usize = 32;

/// `R` of `H + λ·I = R·Rᵀ`, upper triangular: how much errors of a row's values weigh, and how far
/// later values can make good for earlier ones.
///
/// `H = Σ x·xᵀ` over inputs `x` of a layer, `[k, k]`: a scale common to all makes no difference.
/// `λ = damping · mean(diag H)` (1 where that is 0) makes up for inputs that the text at hand does
/// not have; 0.01 is usual. A diagonal `H` weighs the errors of each input, and feeds none back.
/// Takes `8·k·(k+1)/2` bytes and `k³/6` multiply-adds in f64.
///
/// ```
/// use ferrocerium::format::HessianFactor;
///
/// // Two inputs that are always equal: errors of opposite sign cancel.
/// let factor = HessianFactor::new(2, &[1.0, 1.0, 1.0, 1.0], 0.01)?;
/// assert!(factor.error(&[0.5, -0.5])? < 0.02 * factor.error(&[0.5, 0.5])?);
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct HessianFactor {
    k: usize,
    /// Columns of R one after the other, down to the diagonal: `R_0j, …, R_jj`.
    columns: Vec<f64>,
}

impl HessianFactor {
    /// Factors `hessian`, `[k, k]` and symmetric, of which the lower half is read.
    ///
    /// # Errors
    /// [`Error::Shape`] for a slice that is not `k·k` long; [`Error::Value`] for a damping that is
    /// not finite and at least 0, and for a matrix that is not finite or, with the damping, not
    /// positive definite.
    pub fn new(k: usize, hessian: &[f32], damping: f32) -> Result<Self> {
        if k.checked_mul(k) != Some(hessian.len()) {
            let problem = format!("[{k}, {k}] was asked for; {} values given", hessian.len());
            return Err(Error::shape(OP, "hessian", problem));
        }
        if !(damping.is_finite() && damping >= 0.0) {
            let problem = format!("is {damping}; a finite number from 0 on is expected, 0.01 say");
            return Err(Error::value(OP, "damping", problem));
        }
        let mut columns = Vec::with_capacity(k * (k + 1) / 2);
        for row in 0..k {
            columns.extend(hessian[row * k..][..=row].iter().map(|&h| f64::from(h)));
        }
        if let Some(at) = columns.iter().position(|h| !h.is_finite()) {
            let problem = format!("holds {}; activations overflowed?", columns[at]);
            return Err(Error::value(OP, "hessian", problem));
        }
        let mut factor = Self { k, columns };
        let trace: f64 = (0..k).map(|j| factor.column(j)[j]).sum();
        let lambda = if trace == 0.0 { 1.0 } else { f64::from(damping) * trace / k as f64 };
        for j in 0..k {
            factor.columns[start(j) + j] += lambda;
        }
        factor.eliminate()?;
        Ok(factor)
    }

    /// Cholesky's elimination from the last column up: column `j` over `√A_jj`, then
    /// `A_im −= R_ij·R_mj` for all `m ≤ i < j`.
    fn eliminate(&mut self) -> Result<()> {
        for high in (0..self.k).rev().step_by(PANEL) {
            let low = (high + 1).saturating_sub(PANEL);
            let (before, panel) = self.columns.split_at_mut(start(low));
            for j in (low..=high).rev() {
                let (earlier, column) = panel.split_at_mut(start(j) - start(low));
                let column = &mut column[..=j];
                let pivot = column[j];
                if pivot.is_nan() || pivot <= 0.0 {
                    return Err(Error::value(
                        OP,
                        "hessian",
                        format!(
                            "is not positive definite (pivot {j} is {pivot}); raise the damping"
                        ),
                    ));
                }
                let root = pivot.sqrt();
                column.iter_mut().for_each(|r| *r /= root);
                for i in low..j {
                    subtract(&mut earlier[start(i) - start(low)..][..=i], column, i);
                }
            }
            for i in 0..low {
                for j in (low..=high).rev() {
                    let column = &panel[start(j) - start(low)..][..=j];
                    subtract(&mut before[start(i)..][..=i], column, i);
                }
            }
        }
        Ok(())
    }

    /// The size of the inputs.
    pub const fn k(&self) -> usize {
        self.k
    }

    /// `dᵀ·(H + λ·I)·d`: what a change `d` of a row's values weighs.
    ///
    /// # Errors
    /// [`Error::Shape`] when `d` is not `k` long.
    pub fn error(&self, d: &[f64]) -> Result<f64> {
        if d.len() != self.k {
            let problem = format!("has {} values; the factor is of {}", d.len(), self.k);
            return Err(Error::shape(OP, "d", problem));
        }
        Ok((0..self.k).map(|j| dot(self.column(j), &d[..=j]).powi(2)).sum())
    }

    /// `R_0j, …, R_jj`.
    fn column(&self, j: usize) -> &[f64] {
        &self.columns[start(j)..][..=j]
    }
}

/// Where column `j` starts.
const fn start(j: usize) -> usize {
    j * (j + 1) / 2
}

/// `a −= column[i] · column`, as far as `a` goes.
fn subtract(a: &mut [f64], column: &[f64], i: usize) {
    let factor = column[i];
    for (a, r) in a.iter_mut().zip(column) {
        *a -= factor * r;
    }
}

/// `Σ a_i·b_i` in eight sums, whatever the machine.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

/// A row on its way: what is quantised so far, and what it has lost.
pub(super) struct Feedback<'a> {
    factor: &'a HessianFactor,
    codec: Codec,
    src: &'a [f32],
    /// `w_i − q_i` of the values so far.
    lost: Vec<f64>,
    /// Of the block at hand: targets as the blocks before leave them, and as its own values do.
    inherited: Vec<f64>,
    targets: Vec<f32>,
    /// Sum of the terms so far.
    error: f64,
}

impl<'a> Feedback<'a> {
    pub(super) fn new(factor: &'a HessianFactor, codec: Codec, src: &'a [f32]) -> Self {
        let lost = vec![0.0; src.len()];
        Self { factor, codec, src, lost, inherited: Vec::new(), targets: Vec::new(), error: 0.0 }
    }

    /// The scale of the next block, `cols` wide, and the values to encode under it.
    pub(super) fn block(
        &mut self,
        scaling: Scaling,
        quantizer: Quantizer,
        start: usize,
        cols: usize,
    ) -> (Scale, &[f32]) {
        self.inherited.clear();
        for j in start..start + cols {
            let column = self.factor.column(j);
            let made_good = dot(&column[..start], &self.lost[..start]) / column[j];
            self.inherited.push(f64::from(self.src[j]) + made_good);
        }
        self.targets.resize(cols, 0.0);
        let amax = self.inherited.iter().fold(0.0f32, |amax, &t| amax.max(to_f32(t).abs()));
        let scale = scaling.choose(self.codec, quantizer, amax, |unit| self.sweep(start, unit));
        self.error += self.sweep(start, scale.unit);
        (scale, &self.targets)
    }

    /// Quantises the block under a unit, and says how much that adds to the error.
    fn sweep(&mut self, start: usize, unit: f64) -> f64 {
        let rounder = self.codec.rounder(unit);
        let mut error = 0.0;
        for (n, (target, &inherited)) in self.targets.iter_mut().zip(&self.inherited).enumerate() {
            let j = start + n;
            let column = self.factor.column(j);
            *target = to_f32(inherited + dot(&column[start..j], &self.lost[start..j]) / column[j]);
            let q = rounder.round(*target);
            self.lost[j] = f64::from(self.src[j]) - q;
            error += (column[j] * (f64::from(*target) - q)).powi(2);
        }
        error
    }

    /// The row's error, once all its blocks are done.
    pub(super) fn error(&self) -> f64 {
        self.error
    }
}

/// Rounded to f32, saturated: a target can lie beyond what its row holds.
fn to_f32(x: f64) -> f32 {
    x.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}
