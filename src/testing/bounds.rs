//! Error bounds that follow from the arithmetic.
//!
//! Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., chapter 3: a value that has
//! gone through `n` roundings, each `(1 + δ)` with `|δ| ≤ u`, is off by at most `γ_n` relative to
//! the sum of magnitudes, `γ_n = n·u / (1 − n·u)`.

use crate::num::DType;

/// Unit roundoff of f32, 2⁻²⁴.
pub const U_F32: f64 = f32::EPSILON as f64 / 2.0;

/// The smallest f32 above 0: what an underflowing operation can lose beside its rounding.
pub const TINY_F32: f64 = 1.401298464324817e-45;

/// `γ_n = n·u / (1 − n·u)` for f32; infinite where it says nothing any more.
pub fn gamma(n: usize) -> f64 {
    let nu = n as f64 * U_F32;
    if nu < 1.0 { nu / (1.0 - nu) } else { f64::INFINITY }
}

/// How far rounding `x` to a type moves it at most: half a step.
pub fn rounding(dtype: DType, x: f64) -> f64 {
    let relative = x.abs() * dtype.unit_roundoff().unwrap_or(0.0);
    relative.max(dtype.min_positive() / 2.0)
}

/// How an output compares with its exact value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// The error as a share of what is allowed.
    Within(f64),
    /// Not the value.
    Wrong,
}

/// Compares an element of type `dtype` with the exact value, which it may miss by `error` before
/// it is rounded to the type.
///
/// NaN answers NaN. Beyond the largest value of FP8 types stands that value, of others an
/// infinity; where `error` reaches across that border either side of it is right. An `error` of NaN
/// says that an infinity may have met a zero: then any non-finite value is right.
pub fn compare(dtype: DType, found: f64, exact: f64, error: f64) -> Verdict {
    if error.is_nan() && !found.is_finite() {
        return Verdict::Within(0.0);
    }
    if exact.is_nan() || found.is_nan() {
        let both = exact.is_nan() && found.is_nan();
        return if both { Verdict::Within(0.0) } else { Verdict::Wrong };
    }
    let largest = dtype.max_finite();
    let saturates = matches!(dtype, DType::F8E4M3 | DType::F8E5M2);
    let beyond = if saturates { largest } else { f64::INFINITY };
    if exact.is_infinite() {
        return if found == beyond.copysign(exact) { Verdict::Within(0.0) } else { Verdict::Wrong };
    }
    let bound = error + rounding(dtype, exact.abs() + error);
    if exact.abs() + bound >= largest && found.abs() >= largest {
        let right = found == beyond.copysign(exact) || found == largest.copysign(exact);
        return if right { Verdict::Within(0.0) } else { Verdict::Wrong };
    }
    let exact = exact.clamp(-largest, largest);
    let ratio = if found == exact { 0.0 } else { (found - exact).abs() / bound };
    if ratio <= 1.0 { Verdict::Within(ratio) } else { Verdict::Wrong }
}
