//! Rotations of pairs.

use super::math::mul_add;
use super::per_level::per_level;
use crate::op::RopeStyle;

/// Angles up to this are reduced in f64 here; others by the platform's functions.
const FAR: f64 = 1e6;

per_level! {
    /// `amplitude · cos φ` and `amplitude · sin φ` of `φ = position · frequency`, each rounded
    /// once to f32 after an f64 computation that is within 2⁻³⁰ of it.
    pub fn sin_cos(
        position: f64,
        frequencies: &[f64],
        amplitude: f64,
        sin: &mut [f32],
        cos: &mut [f32],
    ) {
        let far = frequencies.iter().fold(0.0f64, |far, f| far.max((position * f).abs()));
        for ((f, sin), cos) in frequencies.iter().zip(sin).zip(cos) {
            let angle = position * f;
            let (s, c) = if far > FAR { angle.sin_cos() } else { near_sin_cos(angle) };
            (*sin, *cos) = ((amplitude * s) as f32, (amplitude * c) as f32);
        }
    }

    /// `(a, b) → (a·cos − b·sin, b·cos + a·sin)` of the pairs at the front of a head.
    pub fn rotate(style: RopeStyle, head: &mut [f32], sin: &[f32], cos: &[f32]) {
        let turn = |a: f32, b: f32, sin: f32, cos: f32| {
            (mul_add::<FUSED>(a, cos, -(b * sin)), mul_add::<FUSED>(b, cos, a * sin))
        };
        let pairs = sin.len();
        match style {
            RopeStyle::HalfSplit => {
                let (a, b) = head[..2 * pairs].split_at_mut(pairs);
                for (((a, b), sin), cos) in a.iter_mut().zip(b).zip(sin).zip(cos) {
                    (*a, *b) = turn(*a, *b, *sin, *cos);
                }
            }
            RopeStyle::Interleaved => {
                let pairs = head[..2 * pairs].as_chunks_mut::<2>().0;
                for ((pair, sin), cos) in pairs.iter_mut().zip(sin).zip(cos) {
                    let (a, b) = turn(pair[0], pair[1], *sin, *cos);
                    *pair = [a, b];
                }
            }
        }
    }
}

/// Sine and cosine of an angle of at most [`FAR`]: the angle less a multiple of π/2, and Taylor's
/// series to r¹¹ and r¹².
#[inline(always)]
fn near_sin_cos(angle: f64) -> (f64, f64) {
    // π/2 in two parts; a multiple of the first by an integer below 2²¹ is exact.
    const QUARTER_HIGH: f64 = 1.570_796_326_734_125_6;
    const QUARTER_LOW: f64 = 6.077_100_506_506_192e-11;
    // Adding it leaves the nearest integer in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let shifted = angle * std::f64::consts::FRAC_2_PI + ROUND;
    let n = shifted - ROUND;
    let r = (angle - n * QUARTER_HIGH) - n * QUARTER_LOW;
    let z = r * r;
    let s = 1.0 / 362_880.0 - z / 39_916_800.0;
    let s = -1.0 / 5_040.0 + z * s;
    let s = 1.0 / 120.0 + z * s;
    let s = r + r * z * (-1.0 / 6.0 + z * s);
    let c = -1.0 / 3_628_800.0 + z / 479_001_600.0;
    let c = 1.0 / 40_320.0 + z * c;
    let c = -1.0 / 720.0 + z * c;
    let c = 1.0 + z * (-0.5 + z * (1.0 / 24.0 + z * c));
    let quarter = shifted.to_bits();
    let (s, c) = if quarter & 1 == 1 { (c, s) } else { (s, c) };
    let s = if quarter & 2 == 2 { -s } else { s };
    let c = if quarter.wrapping_add(1) & 2 == 2 { -c } else { c };
    (s, c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::levels;

    #[test]
    fn sines_and_cosines_are_those_of_the_platform() {
        let frequencies: Vec<f64> = (0..32).map(|i| 10_000f64.powf(-f64::from(i) / 32.0)).collect();
        for level in levels() {
            for position in (-2000i32..2000).chain([999_999, 131_071, 1 << 30]) {
                let position = f64::from(position) * 1.37;
                let (mut sin, mut cos) = ([0.0; 32], [0.0; 32]);
                sin_cos(level, position, &frequencies, 1.25, &mut sin, &mut cos);
                for ((f, sin), cos) in frequencies.iter().zip(sin).zip(cos) {
                    let (s, c) = (position * f).sin_cos();
                    for (found, exact) in [(sin, 1.25 * s), (cos, 1.25 * c)] {
                        // Half a step of an f32 below 2, and what the series leaves out.
                        let error = (f64::from(found) - exact).abs();
                        let bound = exact.abs() * 2f64.powi(-24) + 2f64.powi(-29);
                        assert!(error <= bound, "{level:?} {position} · {f}: {found} {exact}");
                    }
                }
            }
        }
    }
}
