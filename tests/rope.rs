//! Rotary embedding: the formula by hand, its properties, and frequencies for long contexts.

#[path = "common/tensors.rs"]
mod support;

use ferrocerium::format::Mxfp8;
use ferrocerium::op::{Op, Positions, Rope, RopeFrequencies, RopeScaling, RopeStyle};
use ferrocerium::{Error, ScaledTensor, Tensor};
use proptest::prelude::*;
use support::{DEVICE, Random, assert_close, ints, tensor};

const STYLES: [RopeStyle; 2] = [RopeStyle::HalfSplit, RopeStyle::Interleaved];

fn plain(theta: f64, rotary_dim: usize) -> RopeFrequencies {
    RopeFrequencies::new(theta, rotary_dim, &RopeScaling::None).unwrap()
}

#[test]
fn half_split_pairs_lie_half_the_rotated_elements_apart() {
    // Frequencies 1 and 1/2 at position 2: angles 2 and 1. The last element is not rotated.
    let x = tensor([1, 1, 5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
    let y = x.rope(&plain(4.0, 4), RopeStyle::HalfSplit, 2).unwrap();
    let (s2, c2) = 2f64.sin_cos();
    let (s1, c1) = 1f64.sin_cos();
    let expected = [c2 - 3.0 * s2, 2.0 * c1 - 4.0 * s1, 3.0 * c2 + s2, 4.0 * c1 + 2.0 * s1, 5.0];
    assert_close(&y.to_vec().unwrap(), &expected);
}

#[test]
fn interleaved_pairs_are_neighbours() {
    let x = tensor([1, 1, 5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
    let y = x.rope(&plain(4.0, 4), RopeStyle::Interleaved, 2).unwrap();
    let (s2, c2) = 2f64.sin_cos();
    let (s1, c1) = 1f64.sin_cos();
    let expected = [c2 - 2.0 * s2, 2.0 * c2 + s2, 3.0 * c1 - 4.0 * s1, 4.0 * c1 + 3.0 * s1, 5.0];
    assert_close(&y.to_vec().unwrap(), &expected);
}

#[test]
fn amplitude_scales_rotated_elements_only() {
    let frequencies = RopeFrequencies::from_parts(vec![1.0], 3.0).unwrap();
    let x = tensor([1, 1, 3], &[1.0, 2.0, 7.0]);
    let y = x.rope(&frequencies, RopeStyle::HalfSplit, 0).unwrap();
    assert_eq!(y.to_vec().unwrap(), [3.0, 6.0, 7.0]);
}

#[test]
fn heads_share_a_position_and_batches_may() {
    let mut random = Random(7);
    let x = random.tensor([2, 3, 2, 4]);
    let frequencies = plain(100.0, 4);
    let run = |positions: &Tensor<i32, 2>| {
        x.rope_at(&frequencies, RopeStyle::HalfSplit, positions).unwrap()
    };
    let each = Tensor::from_host(&DEVICE, [2, 3], &[5, 6, 7, -1, 40, 3]).unwrap();
    let y = run(&each);
    for (b, s, position) in [(0, 0, 5), (0, 2, 7), (1, 0, -1), (1, 1, 40)] {
        for head in 0..2 {
            let one = x.slice(0, b..b + 1).unwrap().slice(1, s..s + 1).unwrap();
            let one = one.slice(2, head..head + 1).unwrap();
            let alone = one.rope_at(&frequencies, RopeStyle::HalfSplit, &ints([position])).unwrap();
            let host = y.host().unwrap();
            let found: Vec<f64> = (0..4).map(|i| host[[b, s, head, i]]).collect();
            assert_eq!(found, alone.to_vec().unwrap());
        }
    }
    // Positions [seq] and [1, seq] hold for each batch.
    let shared = Tensor::from_host(&DEVICE, [1, 3], &[5, 6, 7]).unwrap();
    let from = x.rope(&frequencies, RopeStyle::HalfSplit, 5).unwrap();
    assert_eq!(run(&shared).to_vec().unwrap(), from.to_vec().unwrap());
    let flat = x.rope_at(&frequencies, RopeStyle::HalfSplit, &ints([5, 6, 7])).unwrap();
    assert_eq!(flat.to_vec().unwrap(), from.to_vec().unwrap());
}

#[test]
fn sizes_of_zero_give_empty_results() {
    for shape in [[0, 2, 4], [3, 0, 4], [3, 2, 0]] {
        let x: Tensor<f64, 3> = Tensor::zeros(&DEVICE, shape).unwrap();
        let frequencies = plain(100.0, shape[2]);
        assert_eq!(x.rope(&frequencies, RopeStyle::HalfSplit, 0).unwrap().shape(), shape);
        let positions: Tensor<i32, 1> = Tensor::zeros(&DEVICE, [shape[0]]).unwrap();
        assert!(x.rope_at(&frequencies, RopeStyle::Interleaved, &positions).unwrap().is_empty());
    }
    // No frequencies: nothing is rotated.
    let x = tensor([1, 1, 2], &[1.0, 2.0]);
    assert_eq!(
        x.rope(&plain(100.0, 0), RopeStyle::HalfSplit, 9).unwrap().to_vec().unwrap(),
        [1.0, 2.0]
    );
}

#[test]
fn nan_stays_within_its_pair() {
    let x = tensor([1, 1, 4], &[f64::NAN, 1.0, 2.0, 3.0]);
    let nan = |style| {
        let y = x.rope(&plain(10.0, 4), style, 3).unwrap();
        y.to_vec().unwrap().iter().map(|v| v.is_nan()).collect::<Vec<_>>()
    };
    assert_eq!(nan(RopeStyle::HalfSplit), [true, false, true, false]);
    assert_eq!(nan(RopeStyle::Interleaved), [true, true, false, false]);
}

#[test]
fn block_formats_rotate_as_their_values_do() {
    let mut random = Random(3);
    let x = random.tensor([2, 3, 32]);
    let scaled: ScaledTensor<Mxfp8, 3> = x.quantize().unwrap();
    let out: Tensor<f64, 3> = Tensor::zeros(&DEVICE, [2, 3, 32]).unwrap();
    let op = Rope {
        x: scaled.operand(),
        positions: Positions::From(4),
        style: RopeStyle::HalfSplit,
        frequencies: plain(100.0, 16),
        out: out.operand(),
    };
    DEVICE.run(&Op::from(op)).unwrap();
    let values: Tensor<f64, 3> = scaled.dequantize().unwrap();
    let expected = values.rope(&plain(100.0, 16), RopeStyle::HalfSplit, 4).unwrap();
    assert_eq!(out.to_vec().unwrap(), expected.to_vec().unwrap());
}

/// What each scaling makes of the plain frequencies, by the formula in its documentation.
fn scaled(theta: f64, rotary_dim: usize, scaling: &RopeScaling) -> Vec<f64> {
    RopeFrequencies::new(theta, rotary_dim, scaling).unwrap().per_pair().to_vec()
}

#[test]
fn linear_scaling_divides_every_frequency() {
    assert_close(&scaled(16.0, 4, &RopeScaling::Linear { factor: 8.0 }), &[0.125, 0.03125]);
}

#[test]
fn ntk_scaling_slows_the_slowest_pair_by_the_factor_and_the_fastest_not_at_all() {
    // r = 8: frequencies theta'^(−i/4); theta' = 16 · 4^(8/6), theta'^(−3/4) = 1/8 / 4.
    let found = scaled(16.0, 8, &RopeScaling::Ntk { factor: 4.0 });
    assert_close(&[found[0], found[3]], &[1.0, 1.0 / 32.0]);
    assert_close(&found[1..2], &[0.5 * 4f64.powf(-1.0 / 3.0)]);
}

#[test]
fn dynamic_ntk_scaling_begins_beyond_the_original_context() {
    assert_eq!(RopeScaling::dynamic_ntk(2.0, 100, 50), RopeScaling::Ntk { factor: 1.0 });
    assert_eq!(RopeScaling::dynamic_ntk(2.0, 100, 200), RopeScaling::Ntk { factor: 3.0 });
}

#[test]
fn llama3_scaling_keeps_fast_pairs_and_slows_slow_ones() {
    // Frequencies 1, 1/8, 1/64, 1/512 make that many times `turns` in the original context. The
    // ramp runs from 1/128 to 1/32 of `turns`: a third of it lies below 1/64.
    let turns = 1608.0 / std::f64::consts::TAU;
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: turns / 128.0,
        high_freq_factor: turns / 32.0,
        original_context: 1608,
    };
    let third = 1.0 / 3.0;
    let between = ((1.0 - third) / 8.0 + third) / 64.0;
    assert_close(&scaled(4096.0, 8, &scaling), &[1.0, 0.125, between, 1.0 / 4096.0]);
}

#[test]
fn yarn_scaling_ramps_from_fast_to_slow_pairs() {
    // r = 8, theta = e⁴: frequencies e^−i. Pair `4·ln(context / (2π·β)) / 4` makes β turns: with
    // β = context / (2π·e) and context / (2π·e³) the ramp runs from pair 1 to pair 3.
    let turns = 1000.0 / std::f64::consts::TAU;
    let (fast, slow) = (turns / 1f64.exp(), turns / 3f64.exp());
    let yarn = |beta_fast, beta_slow, truncate| RopeScaling::Yarn {
        factor: 4.0,
        original_context: 1000,
        beta_fast,
        beta_slow,
        truncate,
        attention_factor: None,
    };
    let expected = [1.0, (-1f64).exp(), (-2f64).exp() * (0.5 / 4.0 + 0.5), (-3f64).exp() / 4.0];
    assert_close(&scaled(4f64.exp(), 8, &yarn(fast, slow, false)), &expected);
    // A hundredth of a pair inside: whole pairs around them are the same ones.
    let nudge = 0.01f64.exp();
    let inside = yarn(fast / nudge, slow * nudge, true);
    assert_close(&scaled(4f64.exp(), 8, &inside), &expected);
    // Without room for a ramp it is a step: pairs after the first are slow.
    let step = yarn(turns, turns, true);
    assert_close(
        &scaled(4f64.exp(), 8, &step),
        &[1.0, (-1f64).exp() / 4.0, (-2f64).exp() / 4.0, (-3f64).exp() / 4.0],
    );
    let amplitude = |scaling| RopeFrequencies::new(10.0, 2, &scaling).unwrap().amplitude();
    assert_close(&[amplitude(step)], &[0.1 * 4f64.ln() + 1.0]);
    let given = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 1000,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        attention_factor: Some(1.5),
    };
    assert_eq!(amplitude(given), 1.5);
}

#[test]
fn long_rope_divides_each_frequency_by_its_own_factor() {
    let attention_factor = RopeScaling::long_rope_attention_factor(32.0, 1024);
    assert_close(&[attention_factor], &[1.5f64.sqrt()]);
    assert_eq!(RopeScaling::long_rope_attention_factor(1.0, 1024), 1.0);
    let scaling = RopeScaling::LongRope { factors: vec![1.0, 5.0], attention_factor };
    assert_close(&scaled(16.0, 4, &scaling), &[1.0, 0.05]);
    assert_eq!(RopeFrequencies::new(16.0, 4, &scaling).unwrap().amplitude(), attention_factor);
}

proptest! {
    #[test]
    fn rotation_keeps_the_length_of_each_head(
        seed: u64, d in 0usize..9, pairs in 0usize..5, position in -1000..100_000i32,
    ) {
        let pairs = pairs.min(d / 2);
        let x = Random(seed).tensor([1, 2, d]);
        let frequencies = plain(10_000.0, 2 * pairs);
        for style in STYLES {
            let y = x.rope_at(&frequencies, style, &ints([position])).unwrap();
            let squares = |t: &Tensor<f64, 3>| -> Vec<f64> {
                let values = t.to_vec().unwrap();
                values.chunks(d.max(1)).map(|h| h.iter().map(|v| v * v).sum()).collect()
            };
            assert_close(&squares(&x), &squares(&y));
        }
    }

    #[test]
    fn product_of_rotated_query_and_key_depends_on_their_distance_only(
        seed: u64, pairs in 1usize..5, i in 0..5000i32, j in 0..5000i32, shift in -5000..5000i32,
    ) {
        let mut random = Random(seed);
        let (q, k) = (random.tensor([1, 1, 2 * pairs]), random.tensor([1, 1, 2 * pairs]));
        let frequencies = plain(500.0, 2 * pairs);
        for style in STYLES {
            let product = |i: i32, j: i32| -> f64 {
                let at = |x: &Tensor<f64, 3>, p| {
                    x.rope_at(&frequencies, style, &ints([p])).unwrap().to_vec().unwrap()
                };
                at(&q, i).iter().zip(at(&k, j)).map(|(a, b)| a * b).sum()
            };
            // An angle of up to 10⁴ has an absolute error of 10⁴·2⁻⁵³, as has its sine.
            let (a, b) = (product(i, j), product(i + shift, j + shift));
            let bound = 2.0 * pairs as f64 * 4.0 * 8.0 * 1e4 * f64::EPSILON;
            prop_assert!((a - b).abs() <= bound, "{a} and {b} differ");
        }
    }

    #[test]
    fn interleaved_is_half_split_with_the_elements_in_another_order(
        seed: u64, pairs in 0usize..5, rest in 0usize..3, start in 0usize..1000,
    ) {
        let d = 2 * pairs + rest;
        let x = Random(seed).tensor([3, 2, d]);
        // Where element `e` of the interleaved head is in the half-split one.
        let place = |e: usize| match e {
            e if e >= 2 * pairs => e,
            e => e / 2 + (e % 2) * pairs,
        };
        let frequencies = plain(10_000.0, 2 * pairs);
        let interleaved = x.rope(&frequencies, RopeStyle::Interleaved, start).unwrap();
        let moved: Tensor<f64, 3> = {
            let host = x.host().unwrap();
            let source = |e: usize| (0..d).find(|&s| place(s) == e).unwrap();
            Tensor::from_fn(&DEVICE, [3, 2, d], |[s, h, e]| host[[s, h, source(e)]]).unwrap()
        };
        let half = moved.rope(&frequencies, RopeStyle::HalfSplit, start).unwrap();
        let (interleaved, half) = (interleaved.host().unwrap(), half.host().unwrap());
        for (s, h, e) in (0..3).flat_map(|s| (0..2).flat_map(move |h| (0..d).map(move |e| (s, h, e)))) {
            prop_assert_eq!(interleaved[[s, h, e]], half[[s, h, place(e)]]);
        }
    }
}

/// The message of the error.
#[track_caller]
fn refused<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn tensor_of_two_dimensions_is_refused() {
    let x = tensor([2, 4], &[0.0; 8]);
    let message = refused(x.rope(&plain(10.0, 4), RopeStyle::HalfSplit, 0));
    assert_eq!(message, "rope: x: x is [2, 4] f64: sizes [.., seq, heads, d] are expected");
}

#[test]
fn more_rotated_elements_than_a_head_has_are_refused() {
    let x = tensor([1, 1, 4], &[0.0; 4]);
    let message = refused(x.rope(&plain(10.0, 6), RopeStyle::HalfSplit, 0));
    assert!(message.contains("6 elements") && message.contains("[1, 1, 4] f64"), "{message}");
}

#[test]
fn positions_of_other_sizes_or_types_are_refused() {
    let x = tensor([3, 1, 4], &[0.0; 12]);
    let message = refused(x.rope_at(&plain(10.0, 4), RopeStyle::HalfSplit, &ints([0, 1])));
    assert!(message.contains("positions is [2] i32") && message.contains("[3]"), "{message}");
    let op = Rope {
        x: x.operand(),
        positions: Positions::Given(tensor([3], &[0.0; 3]).operand()),
        style: RopeStyle::HalfSplit,
        frequencies: plain(10.0, 4),
        out: x.copy().unwrap().operand(),
    };
    let message = refused(DEVICE.run(&op.into()));
    assert!(message.contains("positions is [3] f64: u32 or i32 or i64"), "{message}");
}

#[test]
fn output_of_other_sizes_or_types_is_refused() {
    let x = tensor([3, 1, 4], &[0.0; 12]);
    let run = |out| {
        let style = RopeStyle::HalfSplit;
        let (positions, frequencies) = (Positions::From(0), plain(10.0, 4));
        DEVICE.run(&Rope { x: x.operand(), positions, style, frequencies, out }.into())
    };
    let message = refused(run(tensor([3, 1, 2], &[0.0; 6]).operand()));
    assert!(message.contains("out is [3, 1, 2] f64: sizes [3, 1, 4]"), "{message}");
    let integers: Tensor<i32, 3> = Tensor::zeros(&DEVICE, [3, 1, 4]).unwrap();
    let message = refused(run(integers.operand()));
    assert!(message.contains("out is [3, 1, 4] i32: a float is expected"), "{message}");
    let scaled: ScaledTensor<Mxfp8, 3> = ScaledTensor::zeros(&DEVICE, [3, 1, 4]).unwrap();
    let message = refused(run(scaled.operand()));
    assert!(message.contains("out is [3, 1, 4] mxfp8"), "{message}");
}

#[test]
fn parameters_out_of_range_are_refused() {
    let llama3 = |factor, low, high, original_context| RopeScaling::Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_context,
    };
    let yarn = |factor, beta_fast, beta_slow| RopeScaling::Yarn {
        factor,
        original_context: 100,
        beta_fast,
        beta_slow,
        truncate: true,
        attention_factor: None,
    };
    let long = |factors, attention_factor| RopeScaling::LongRope { factors, attention_factor };
    let cases = [
        (10.0, 3, RopeScaling::None, "rotary_dim: 3 "),
        (0.0, 4, RopeScaling::None, "theta: 0"),
        (f64::NAN, 4, RopeScaling::None, "theta: NaN"),
        (10.0, 4, RopeScaling::Linear { factor: 0.0 }, "factor: 0"),
        (10.0, 4, RopeScaling::Ntk { factor: -1.0 }, "factor: -1"),
        (10.0, 4, llama3(8.0, 4.0, 1.0, 8192), "low_freq_factor: 4 is not below"),
        (10.0, 4, llama3(8.0, 1.0, 4.0, 0), "original_context: 0"),
        (1.0, 4, yarn(2.0, 32.0, 1.0), "theta: 1"),
        (10.0, 4, yarn(f64::INFINITY, 32.0, 1.0), "factor: inf"),
        (10.0, 4, yarn(2.0, 32.0, 0.0), "beta_slow: 0"),
        (10.0, 4, long(vec![1.0], 1.0), "factors: 1 factors for 2 pairs"),
        (10.0, 4, long(vec![1.0, 0.0], 1.0), "factors: 0"),
        (10.0, 4, long(vec![1.0, 2.0], f64::NAN), "amplitude: NaN"),
    ];
    for (theta, rotary_dim, scaling, expected) in cases {
        let message = refused(RopeFrequencies::new(theta, rotary_dim, &scaling));
        assert!(message.contains(expected), "{scaling:?}: {message}");
    }
    let message = refused(RopeFrequencies::from_parts(vec![1.0, f64::INFINITY], 1.0));
    assert!(message.contains("pair 1 is inf"), "{message}");
}
