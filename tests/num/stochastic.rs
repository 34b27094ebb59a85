//! Stochastic rounding.

use ferrocerium::num::{E2M1, F8E4M3, F8E5M2};

use crate::Random;

struct Format {
    round: fn(f32, u32) -> f32,
    /// Consecutive magnitudes.
    values: Vec<f32>,
}

fn formats() -> [Format; 3] {
    [
        Format {
            round: |x, r| F8E4M3::from_f32_stochastic(x, r).to_f32(),
            values: (0..=0x7e).map(|c| F8E4M3::from_bits(c).to_f32()).collect(),
        },
        Format {
            round: |x, r| F8E5M2::from_f32_stochastic(x, r).to_f32(),
            values: (0..=0x7b).map(|c| F8E5M2::from_bits(c).to_f32()).collect(),
        },
        Format {
            round: |x, r| E2M1::from_f32_stochastic(x, r).to_f32(),
            values: (0..=7).map(|c| E2M1::from_bits(c).to_f32()).collect(),
        },
    ]
}

#[test]
fn values_of_the_type_stay_whatever_the_random_bits() {
    for format in formats() {
        for &x in &format.values {
            for random in [0, 1, 1 << 31, u32::MAX] {
                assert_eq!((format.round)(x, random), x);
                assert_eq!((format.round)(-x, random), -x);
            }
        }
    }
}

#[test]
fn the_share_of_random_words_that_round_up_is_the_position_between_neighbours() {
    let mut random = Random::fresh();
    for format in formats() {
        for pair in format.values.windows(2) {
            let [low, high] = [pair[0], pair[1]];
            // Sixteen bits of position: exact in f32 and in 2^-32 of a step.
            let position = (random.bits() & 0xffff).max(1) as u32;
            let x = low + (high - low) * (position as f32 / 65536.0);
            let words_up = position << 16;
            for sign in [1.0, -1.0] {
                assert_eq!((format.round)(sign * x, words_up - 1), sign * high, "{x}");
                assert_eq!((format.round)(sign * x, words_up), sign * low, "{x}");
            }
        }
    }
}

#[test]
fn the_mean_is_unbiased() {
    const SAMPLES: u32 = 100_000;
    const FALSE_ALARM: f64 = 1e-10;
    let mut random = Random::fresh();
    for format in formats() {
        for step in (0..format.values.len() - 1).step_by(3) {
            let [low, high] = [format.values[step], format.values[step + 1]].map(f64::from);
            let x = (low + (high - low) * (random.bits() >> 11) as f64 * 2f64.powi(-53)) as f32;
            let p = (f64::from(x) - low) / (high - low);
            let ups = (0..SAMPLES)
                .filter(|_| f64::from((format.round)(x, random.bits() as u32)) == high)
                .count();
            // Bernstein: P(|ups − np| ≥ t) ≤ 2·exp(−t² / (2·(np(1−p) + t/3))); `cases` of them.
            let (n, cases) = (f64::from(SAMPLES), 100.0);
            let l = (2.0 * cases / FALSE_ALARM).ln();
            let t = l / 3.0 + (l * l / 9.0 + 2.0 * l * n * p * (1.0 - p)).sqrt();
            assert!((ups as f64 - n * p).abs() <= t, "{x:e}: {ups} of {n}, expected {}", n * p);
        }
    }
}

#[test]
fn beyond_the_range_it_saturates() {
    for format in formats() {
        let max = *format.values.last().unwrap();
        for x in [max * 1.01, max * 1.2, f32::MAX, f32::INFINITY] {
            for random in [0, u32::MAX] {
                assert_eq!((format.round)(x, random), max);
                assert_eq!((format.round)(-x, random), -max);
            }
        }
    }
}

#[test]
fn far_below_the_smallest_value_it_still_may_round_up() {
    // 2^-20 is 2^-11 of E4M3's smallest step.
    assert_eq!(F8E4M3::from_f32_stochastic(2f32.powi(-20), (1 << 21) - 1).to_bits(), 1);
    assert_eq!(F8E4M3::from_f32_stochastic(2f32.powi(-20), 1 << 21).to_bits(), 0);
    assert_eq!(F8E4M3::from_f32_stochastic(2f32.powi(-41), 0).to_bits(), 1);
    assert_eq!(F8E4M3::from_f32_stochastic(2f32.powi(-42), 0).to_bits(), 0);
    assert_eq!(F8E4M3::from_f32_stochastic(f32::from_bits(1), 0).to_bits(), 0);
    assert_eq!(F8E4M3::from_f32_stochastic(0.0, 0).to_bits(), 0);
    assert_eq!(F8E4M3::from_f32_stochastic(-0.0, 0).to_bits(), 0x80);
}
