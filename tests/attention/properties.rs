//! What holds for random sizes and values.

use ferrocerium::format::{BlockFormat, Fp8PerTensor, Mxfp8, Nvfp4};
use ferrocerium::{F8E4M3, Tensor, bf16};
use proptest::prelude::*;

use crate::options::{Options, Sizes};
use crate::support::{DEVICE, Random, assert_close};

/// Random sizes, options, queries, keys and values.
fn case(seed: u64) -> (Random, Sizes, Options, [Tensor<f64, 4>; 3]) {
    let mut random = Random(seed);
    let sizes = Sizes::random(&mut random);
    let options = Options::random(&mut random, sizes.heads);
    let tensors = [sizes.q(), sizes.k(), sizes.v()].map(|shape| random.tensor(shape));
    (random, sizes, options, tensors)
}

fn run(options: &Options, q: &Tensor<f64, 4>, k: &Tensor<f64, 4>, v: &Tensor<f64, 4>) -> Vec<f64> {
    let out: Tensor<f64, 4> = options.on(q.attention(k, v)).run().unwrap();
    out.to_vec().unwrap()
}

/// Each key head (the third of four dimensions) `times` times in a row.
fn repeat_heads(x: &Tensor<f64, 4>, times: usize) -> Tensor<f64, 4> {
    let [batch, len, heads, d] = x.shape();
    let host = x.host().unwrap();
    let source = |[b, i, h, e]: [usize; 4]| host[[b, i, h / times, e]];
    Tensor::from_fn(&DEVICE, [batch, len, heads * times, d], source).unwrap()
}

/// Values in a block format, attended to, against the same values as plain elements.
fn same_as_its_values<F: BlockFormat>(seed: u64) {
    let mut random = Random(seed);
    let q = random.tensor([2, 3, 4, 20]);
    let k = random.tensor([2, 5, 2, 20]).quantize::<F>().unwrap();
    let v = random.tensor([2, 5, 2, 33]).quantize::<F>().unwrap();
    let out: Tensor<f64, 4> = q.attention(&k, &v).causal().run().unwrap();
    let (k, v) = (k.dequantize::<f64>().unwrap(), v.dequantize::<f64>().unwrap());
    let plain: Tensor<f64, 4> = q.attention(&k, &v).causal().run().unwrap();
    assert_eq!(out.to_vec().unwrap(), plain.to_vec().unwrap());
}

proptest! {
    #[test]
    fn result_is_the_formula_written_out(seed: u64) {
        let (_, sizes, options, [q, k, v]) = case(seed);
        let (out, lse) = options.on(q.attention(&k, &v)).run_with_lse::<f64>().unwrap();
        let (expected, expected_lse) = options.written_out(&sizes, &q, &k, &v);
        assert_close(&out.to_vec().unwrap(), &expected);
        let rounded: Vec<f32> = expected_lse.iter().map(|&x| x as f32).collect();
        for (found, expected) in lse.to_vec().unwrap().into_iter().zip(rounded) {
            // Equal but for the rounding of f64 sums that lie at a midpoint of f32.
            let apart = (found - expected).abs();
            prop_assert!(found == expected || apart <= f32::EPSILON * expected.abs().max(1e-5));
        }
    }

    #[test]
    fn window_of_all_keys_is_no_window(seed: u64) {
        let (_, sizes, options, [q, k, v]) = case(seed);
        // The last query has kv_len keys up to its own; with more queries than keys the same.
        let window = Some(sizes.kv_len.max(1));
        let full = Options { window: None, ..options.clone() };
        prop_assert_eq!(run(&Options { window, ..options }, &q, &k, &v), run(&full, &q, &k, &v));
    }

    #[test]
    fn looking_ahead_to_the_end_is_no_limit(seed: u64) {
        let (_, sizes, options, [q, k, v]) = case(seed);
        let ahead = Some(sizes.q_len.max(1) - 1);
        let full = Options { ahead: None, ..options.clone() };
        prop_assert_eq!(run(&Options { ahead, ..options }, &q, &k, &v), run(&full, &q, &k, &v));
    }

    #[test]
    fn shared_key_heads_are_repeated_key_heads(seed: u64) {
        let (_, sizes, options, [q, k, v]) = case(seed);
        let group = sizes.heads / sizes.kv_heads;
        let repeated = run(&options, &q, &repeat_heads(&k, group), &repeat_heads(&v, group));
        prop_assert_eq!(run(&options, &q, &k, &v), repeated);
    }

    #[test]
    fn large_softcap_is_none(seed: u64) {
        let (_, _, options, [q, k, v]) = case(seed);
        let plain = run(&Options { softcap: None, ..options.clone() }, &q, &k, &v);
        // tanh(x) = x − x³/3 + …: with |s| < 2⁶ and a cap of 2³⁰ less than 2⁻⁴² is missing.
        let capped = run(&Options { softcap: Some(2f32.powi(30)), ..options }, &q, &k, &v);
        for (a, b) in capped.iter().zip(&plain) {
            prop_assert!((a - b).abs() <= 1e-11, "{a} and {b} differ");
        }
    }

    #[test]
    fn sink_of_minus_infinity_is_none(seed: u64) {
        let (_, sizes, options, [q, k, v]) = case(seed);
        let none = Tensor::full(&DEVICE, [sizes.heads], f64::NEG_INFINITY).unwrap();
        let plain = run(&Options { sinks: None, ..options.clone() }, &q, &k, &v);
        prop_assert_eq!(run(&Options { sinks: Some(none), ..options }, &q, &k, &v), plain);
    }

    #[test]
    fn halves_of_the_keys_combine_by_their_log_sums(seed: u64, cut in 0usize..9) {
        let (_, sizes, options, [q, k, v]) = case(seed);
        // Keys of either half keep their place only without masks and biases by position.
        let options = Options { window: None, ahead: None, alibi: None, sinks: None, ..options };
        let cut = cut.min(sizes.kv_len);
        let half = |range: std::ops::Range<usize>| {
            let (k, v) = (k.slice(1, range.clone()).unwrap(), v.slice(1, range).unwrap());
            let (out, lse) = options.on(q.attention(&k, &v)).run_with_lse::<f64>().unwrap();
            (out.to_vec().unwrap(), lse.to_vec().unwrap())
        };
        let ((a, a_lse), (b, b_lse)) = (half(0..cut), half(cut..sizes.kv_len));
        let whole = run(&options, &q, &k, &v);
        for (i, whole) in whole.into_iter().enumerate() {
            let row = i / sizes.d_v;
            let (x, y) = (f64::from(a_lse[row]).exp(), f64::from(b_lse[row]).exp());
            let combined = if x + y == 0.0 { 0.0 } else { (x * a[i] + y * b[i]) / (x + y) };
            // The log-sums, below 2⁶, are rounded to f32: each weight is off by 2⁶·2⁻²⁴, the
            // values are below 2.
            let bound = 4.0 * 2f64.powi(6 - 24);
            prop_assert!((combined - whole).abs() <= bound, "{combined} and {whole} differ");
        }
    }

    #[test]
    fn keys_that_no_query_sees_have_no_influence(seed: u64, junk in prop::sample::select(
        &[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300][..])) {
        let (_, sizes, options, [q, k, v]) = case(seed);
        let before = run(&options, &q, &k, &v);
        for i in 0..sizes.kv_len {
            let seen = (0..sizes.q_len).any(|query| {
                let distance = i as i64 + sizes.q_len as i64 - query as i64 - sizes.kv_len as i64;
                options.window.is_none_or(|w| distance > -(w as i64))
                    && options.ahead.is_none_or(|n| distance <= n as i64)
            });
            if seen {
                continue;
            }
            for x in [&k, &v] {
                let row = x.slice(1, i..i + 1).unwrap();
                row.host_mut().unwrap().for_each_mut(|_, e| *e = junk);
            }
        }
        prop_assert_eq!(run(&options, &q, &k, &v), before);
    }

    #[test]
    fn sequences_do_not_depend_on_each_other(seed: u64) {
        let (_, sizes, options, [q, k, v]) = case(seed);
        let whole = run(&options, &q, &k, &v);
        let alone = (0..sizes.batch).flat_map(|b| {
            let [q, k, v] = [&q, &k, &v].map(|x| x.slice(0, b..b + 1).unwrap());
            run(&options, &q, &k, &v)
        });
        prop_assert_eq!(whole, alone.collect::<Vec<_>>());
    }

    #[test]
    fn strides_make_no_difference(seed: u64) {
        let (_, _, options, [q, k, v]) = case(seed);
        // [batch, heads, len, d] in memory, seen as [batch, len, heads, d].
        let strided = |x: &Tensor<f64, 4>| {
            x.transpose(1, 2).unwrap().copy().unwrap().transpose(1, 2).unwrap()
        };
        let found = run(&options, &strided(&q), &strided(&k), &strided(&v));
        prop_assert_eq!(found, run(&options, &q, &k, &v));
    }

    #[test]
    fn block_formats_are_attended_to_as_their_values(seed: u64) {
        same_as_its_values::<Nvfp4>(seed);
        same_as_its_values::<Mxfp8>(seed);
        same_as_its_values::<Fp8PerTensor>(seed);
    }

    #[test]
    fn narrow_floats_are_attended_to_as_their_values(seed: u64) {
        let (_, _, options, [q, k, v]) = case(seed);
        let (k, v) = (k.cast::<bf16>().unwrap(), v.cast::<F8E4M3>().unwrap());
        let out: Tensor<f64, 4> = options.on(q.attention(&k, &v)).run().unwrap();
        let wide = run(&options, &q, &k.cast().unwrap(), &v.cast().unwrap());
        prop_assert_eq!(out.to_vec().unwrap(), wide);
    }
}
