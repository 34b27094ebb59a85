//! Functions of one f32 without branches, for loops that are compiled per level.
//!
//! `e^x`, `2^x`, `tanh x` and `erf x` are off by at most 2 units in the last place of the result,
//! the logistic function, which is built of the first, by 3; the tests check that over the whole
//! range. NaN gives NaN.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::lanes::Lanes;

/// `a · b + c`, rounded once where that is one instruction.
#[inline(always)]
pub(super) fn mul_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// A polynomial, highest power first.
#[inline(always)]
fn polynomial<const FUSED: bool, const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for c in &coefficients[1..] {
        sum = mul_add::<FUSED>(sum, x, *c);
    }
    sum
}

/// `2^n` for −126 ≤ n ≤ 127.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// Adding it leaves the nearest integer in the low bits.
pub(super) const ROUND: f32 = 12_582_912.0;

/// Where `e^x` is 0.
const EXP_IS_ZERO: f32 = -104.0;

/// ln 2 in two parts; a multiple of the first by an integer below 2¹⁵ is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `(e^r − 1 − r) / r²` for |r| ≤ ln 2 / 2, highest power first (Cephes' coefficients).
const EXP_TAIL: [f32; 6] =
    [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// `e^x`; subnormal and infinite where the result is.
///
/// `x = n·ln 2 + r` with |r| ≤ ln 2 / 2, and a polynomial for `e^r`.
#[inline(always)]
pub(super) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Beyond these the result is infinite, or 0. Comparisons leave NaN as it is.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < EXP_IS_ZERO { EXP_IS_ZERO } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = mul_add::<FUSED>(n, -LN_2_HIGH, x);
    let r = mul_add::<FUSED>(n, -LN_2_LOW, r);
    let tail = polynomial::<FUSED, 6>(r, EXP_TAIL);
    let power = mul_add::<FUSED>(tail, r * r, r) + 1.0;
    // In two steps: the first is exact, so that a subnormal result is rounded once.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    power * pow2(half) * pow2(n.wrapping_sub(half))
}

/// Where `2^x` is 0.
pub(super) const EXP2_IS_ZERO: f32 = -150.0;

/// `(2^r − 1) / r` for |r| ≤ 1/2, highest power first (Cephes' coefficients).
pub(super) const EXP2_TAIL: [f32; 6] =
    [1.535_336_2e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1];

/// `2^x` of what is not above 127; subnormal where the result is.
///
/// `x = n + r` with |r| ≤ 1/2, and a polynomial for `2^r`.
#[inline(always)]
pub(super) fn exp2<const FUSED: bool>(x: f32) -> f32 {
    let x = if x < EXP2_IS_ZERO { EXP2_IS_ZERO } else { x };
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    let power = mul_add::<FUSED>(polynomial::<FUSED, 6>(r, EXP2_TAIL), r, 1.0);
    // In two steps, as in `exp`.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    power * pow2(half) * pow2(n.wrapping_sub(half))
}

/// `2^r` of some vectors by the same steps, each of all of them before the next: a step takes
/// longer than a processor looks ahead.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[allow(clippy::needless_range_loop, reason = "iterators over registers go through memory")]
#[inline(always)]
pub(super) fn exp2_power<V: Lanes, const N: usize>(r: [V; N]) -> [V; N] {
    let mut power = [V::splat(EXP2_TAIL[0]); N];
    for c in EXP2_TAIL[1..].iter().chain(&[1.0]) {
        for i in 0..N {
            power[i] = V::splat(*c).add_product(power[i], r[i]);
        }
    }
    power
}

/// `1 / (1 + e^−x)`
#[inline(always)]
pub(super) fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    // Of the power that does not overflow, for either sign.
    let e = exp::<FUSED>(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// `tanh x`
#[inline(always)]
pub(super) fn tanh<const FUSED: bool>(x: f32) -> f32 {
    // Near 0 the quotient cancels (Cephes' coefficients).
    let square = x * x;
    let tail = polynomial::<FUSED, 5>(
        square,
        [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1],
    );
    let near = mul_add::<FUSED>(tail * square, x, x);
    let e = exp::<FUSED>(2.0 * x.abs());
    let far = (1.0 - 2.0 / (e + 1.0)).copysign(x);
    if x.abs() < 0.625 { near } else { far }
}

/// `erf x = 2/√π ∫₀ˣ e^(−t²) dt`: a polynomial near 0, `1 − e^p(|x|)` further out (the
/// coefficients are N. Juffa's).
#[inline(always)]
pub(super) fn erf<const FUSED: bool>(x: f32) -> f32 {
    let (size, square) = (x.abs(), x * x);
    let tail = polynomial::<FUSED, 6>(
        square,
        [
            -5.967_617e-4,
            4.991_194e-3,
            -2.676_813_5e-2,
            1.128_199_2e-1,
            -3.761_253_4e-1,
            1.283_791_7e-1,
        ],
    );
    let near = mul_add::<FUSED>(tail, x, x);
    let exponent = polynomial::<FUSED, 7>(
        size,
        [
            -1.728_534_7e-5,
            3.831_971_3e-4,
            -3.883_964_4e-3,
            2.425_462_2e-2,
            -1.067_778_8e-1,
            -6.348_467e-1,
            -1.287_175_1e-1,
        ],
    );
    // Beyond 4 it is 1 in f32, and the polynomial turns.
    let far = 1.0 - exp::<FUSED>(mul_add::<FUSED>(exponent, size, -size));
    let far = if size > 4.0 { 1.0 } else { far }.copysign(x);
    // Written so that NaN goes the way that keeps it.
    if size > 0.927_734_4 { far } else { near }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An emulated processor takes minutes for what others do in seconds.
    const STEP: usize = if cfg!(target_arch = "x86_64") { 257 } else { 257 * 64 + 1 };

    /// Every `STEP`th f32, both signs, and both ways of multiplying and adding.
    fn check(
        name: &str,
        fused: fn(f32) -> f32,
        plain: fn(f32) -> f32,
        exact: fn(f64) -> f64,
        ulps: f64,
    ) {
        let mut worst = (0.0f64, 0.0f32);
        for bits in (0..=u32::MAX).step_by(STEP) {
            let x = f32::from_bits(bits);
            for f in [fused, plain] {
                let (y, exact) = (f(x), exact(f64::from(x)));
                if exact.is_nan() {
                    assert!(y.is_nan(), "{name}({x}) is {y}, not NaN");
                    continue;
                }
                if y.is_infinite() {
                    // What rounds to infinity: half a step past the largest.
                    assert!(exact > 3.402_823_5e38, "{name}({x}) is {y}, not {exact}");
                    continue;
                }
                let step = exact.abs().max(f64::from(f32::MIN_POSITIVE));
                let step = 2f64.powi(step.log2().floor() as i32 - 23);
                let error = (f64::from(y) - exact).abs() / step;
                if error > worst.0 {
                    worst = (error, x);
                }
            }
        }
        println!("{name}: {:.3} units in the last place at {}", worst.0, worst.1);
        assert!(worst.0 <= ulps, "{name}: {worst:?}");
    }

    fn not_above_127<const FUSED: bool>(x: f32) -> f32 {
        if x > 127.0 { 0.0 } else { exp2::<FUSED>(x) }
    }

    fn exact_exp2(x: f64) -> f64 {
        if x > 127.0 { 0.0 } else { x.exp2() }
    }

    #[test]
    fn functions_are_within_their_bounds_over_all_f32() {
        check("exp", exp::<true>, exp::<false>, f64::exp, 2.0);
        check("exp2", not_above_127::<true>, not_above_127::<false>, exact_exp2, 2.0);
        check("tanh", tanh::<true>, tanh::<false>, f64::tanh, 2.0);
        check("erf", erf::<true>, erf::<false>, libm::erf, 2.0);
        let exact = |x: f64| 1.0 / (1.0 + (-x).exp());
        check("sigmoid", sigmoid::<true>, sigmoid::<false>, exact, 3.0);
    }

    #[test]
    fn exp_of_zero_is_one() {
        assert_eq!(exp::<true>(0.0), 1.0);
        assert_eq!(exp::<false>(-0.0), 1.0);
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
    }
}
