//! Error bounds that follow from the arithmetic.
//!
//! Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., chapter 3: a value that has
//! gone through `n` roundings, each `(1 + δ)` with `|δ| ≤ u`, is off by at most `γ_n` relative to
//! the sum of magnitudes, `γ_n = n·u / (1 − n·u)`.
//!
//! Results are exact up to such an error, then rounded *once* to the output's type. So what may
//! come out is an interval of representable values, from the rounded lower end to the rounded
//! upper end ([`compare`]): a second rounding on the way shows wherever it lands elsewhere.

use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};

/// Unit roundoff of f32, 2⁻²⁴.
pub const U_F32: f64 = f32::EPSILON as f64 / 2.0;

/// The smallest f32 above 0: what an underflowing operation can lose beside its rounding.
pub const TINY_F32: f64 = 1.401298464324817e-45;

/// `γ_n = n·u / (1 − n·u)` for f32; infinite where it says nothing any more.
pub fn gamma(n: usize) -> f64 {
    let nu = n as f64 * U_F32;
    if nu < 1.0 { nu / (1.0 - nu) } else { f64::INFINITY }
}

/// Half the distance from `x` to the next value of the type in the same binade: how far rounding
/// to the type moves it at most.
pub fn half_step(dtype: DType, x: f64) -> f64 {
    /// The exponent of an f64 without its mantissa: `2^floor(log2 |x|)`.
    const EXPONENT: u64 = 0x7FF << 52;
    let binade = f64::from_bits(x.to_bits() & EXPONENT);
    (binade * dtype.unit_roundoff().unwrap_or(0.0)).max(dtype.min_positive() / 2.0)
}

/// `x` in a float type, rounded once to nearest even, saturated where the type is 8 bits wide; as
/// it is for other types.
pub fn round(dtype: DType, x: f64) -> f64 {
    fn to<E: Scalar>(x: f64) -> f64 {
        E::from_f64(x).to_f64()
    }
    match dtype {
        DType::F32 => to::<f32>(x),
        DType::BF16 => to::<bf16>(x),
        DType::F16 => to::<f16>(x),
        DType::F8E4M3 => to::<F8E4M3>(x),
        DType::F8E5M2 => to::<F8E5M2>(x),
        _ => x,
    }
}

/// How an output compares with its exact value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// What of the error, beside the rounding to the output's type, was used: 0 to 1.
    Within(f64),
    /// Not the value.
    Wrong,
}

/// Compares an element of type `dtype` with the exact value, which it may miss by `error` before
/// it is rounded to the type.
///
/// NaN answers NaN. With an error of 0 the value is due as it is, the sign of a zero included.
/// Two errors are no numbers: NaN says that an infinity may have met a zero, so that any
/// non-finite value is right; infinity says that nothing is known.
pub fn compare(dtype: DType, found: f64, exact: f64, error: f64) -> Verdict {
    if error == f64::INFINITY || error.is_nan() && !found.is_finite() {
        return Verdict::Within(0.0);
    }
    if exact.is_nan() && found.is_nan() {
        return Verdict::Within(0.0);
    }
    if error == 0.0 || exact.is_infinite() {
        let due = round(dtype, exact);
        let same_sign = found.is_sign_negative() == due.is_sign_negative();
        let right = found == due && (found != 0.0 || same_sign);
        return if right { Verdict::Within(0.0) } else { Verdict::Wrong };
    }
    // The exact value itself comes from a computation in f64.
    let error = error + 8.0 * f64::EPSILON * exact.abs();
    let (low, high) = (round(dtype, exact - error), round(dtype, exact + error));
    if !(low <= found && found <= high) {
        return Verdict::Wrong;
    }
    let largest = dtype.max_finite();
    let distance = (found - exact.clamp(-largest, largest)).abs();
    let ratio = (distance - half_step(dtype, exact).max(half_step(dtype, found))) / error;
    Verdict::Within(if ratio > 0.0 { ratio.min(1.0) } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_result_is_due_to_the_bit() {
        let exactly = |found, exact| compare(DType::BF16, found, exact, 0.0);
        assert_eq!(exactly(1.0, 1.0 + 1e-4), Verdict::Within(0.0));
        assert_eq!(exactly(1.0078125, 1.0 + 1e-4), Verdict::Wrong);
        assert_eq!(exactly(0.0, -0.0), Verdict::Wrong);
        assert_eq!(exactly(f64::INFINITY, 1e39), Verdict::Within(0.0));
        assert_eq!(exactly(f64::NAN, f64::NAN), Verdict::Within(0.0));
        assert_eq!(exactly(f64::NAN, 1.0), Verdict::Wrong);
    }

    #[test]
    fn a_second_rounding_shows() {
        // Just above the tie between 1 and 1.125 of E4M3: in bf16 it becomes the tie, which goes to
        // even, 1.
        let exact = 1.0625 + 1e-4;
        assert_eq!(compare(DType::F8E4M3, 1.125, exact, 1e-6), Verdict::Within(0.0));
        assert_eq!(compare(DType::F8E4M3, 1.0, exact, 1e-6), Verdict::Wrong);
    }

    #[test]
    fn either_side_of_a_border_is_right_where_the_error_reaches_across() {
        for found in [1.0, 1.125] {
            let verdict = compare(DType::F8E4M3, found, 1.0625 + 1e-4, 2e-4);
            assert!(matches!(verdict, Verdict::Within(_)), "{found}: {verdict:?}");
        }
        let largest = f64::from(f32::MAX);
        for found in [largest, f64::INFINITY] {
            let verdict = compare(DType::F32, found, largest, 1e32);
            assert!(matches!(verdict, Verdict::Within(_)), "{found}: {verdict:?}");
        }
    }

    #[test]
    fn fp8_saturates() {
        assert_eq!(compare(DType::F8E4M3, 448.0, f64::INFINITY, 0.0), Verdict::Within(0.0));
        assert_eq!(compare(DType::F8E4M3, 448.0, 1000.0, 1.0), Verdict::Within(0.0));
        assert_eq!(compare(DType::F8E4M3, 416.0, 1000.0, 1.0), Verdict::Wrong);
    }
}
