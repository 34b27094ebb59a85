//! Cases small enough to work out on paper.
//!
//! With scale 1, one head of size 1 and a query of 1, scores are the keys themselves; keys that
//! are logarithms give weights that are fractions.

use ferrocerium::{Tensor, bf16};

use crate::support::{DEVICE, assert_close, ints, tensor};

/// One sequence, one head, head size 1.
fn column(values: &[f64]) -> Tensor<f64, 4> {
    tensor([1, values.len(), 1, 1], values)
}

fn ln(weights: &[f64]) -> Tensor<f64, 4> {
    column(&weights.iter().map(|w| w.ln()).collect::<Vec<_>>())
}

#[test]
fn weights_are_exponentials_of_scores_over_their_sum() {
    let (out, lse) = column(&[1.0])
        .attention(&ln(&[1.0, 2.0, 5.0]), &column(&[8.0, 16.0, 24.0]))
        .scale(1.0)
        .run_with_lse::<f64>()
        .unwrap();
    // (1·8 + 2·16 + 5·24) / 8
    assert_close(&out.to_vec().unwrap(), &[20.0]);
    assert_eq!(lse.to_vec().unwrap(), [8f32.ln()]);
}

#[test]
fn default_scale_is_one_over_the_root_of_the_head_size() {
    // Scores are 4 · ln 3 / 2 / √4 = ln 3 and 0.
    let half = 3f64.ln() / 2.0;
    let q = tensor([1, 1, 1, 4], &[1.0; 4]);
    let k = tensor([1, 2, 1, 4], &[half, half, half, half, 0.0, 0.0, 0.0, 0.0]);
    let out: Tensor<f64, 4> = q.attention(&k, &column(&[4.0, 8.0])).run().unwrap();
    assert_close(&out.to_vec().unwrap(), &[5.0]);
}

#[test]
fn causal_query_sees_keys_up_to_its_own() {
    let out: Tensor<f64, 4> = column(&[0.0; 3])
        .attention(&column(&[7.0; 3]), &column(&[3.0, 5.0, 10.0]))
        .causal()
        .run()
        .unwrap();
    assert_close(&out.to_vec().unwrap(), &[3.0, 4.0, 6.0]);
}

#[test]
fn causal_queries_are_aligned_with_the_last_keys() {
    // Two queries on four keys stand at positions 2 and 3.
    let k = column(&[0.0; 4]);
    let v = column(&[3.0, 6.0, 9.0, 14.0]);
    let fewer: Tensor<f64, 4> = column(&[0.0; 2]).attention(&k, &v).causal().run().unwrap();
    assert_close(&fewer.to_vec().unwrap(), &[6.0, 8.0]);
    // Six queries on four keys: the first two stand before every key.
    let (more, lse) = column(&[0.0; 6]).attention(&k, &v).causal().run_with_lse::<f64>().unwrap();
    assert_close(&more.to_vec().unwrap(), &[0.0, 0.0, 3.0, 4.5, 6.0, 8.0]);
    let lse = lse.to_vec().unwrap();
    assert_eq!(lse[..3], [f32::NEG_INFINITY, f32::NEG_INFINITY, 0.0]);
    assert_eq!(lse[5], 4f32.ln());
}

#[test]
fn window_counts_keys_up_to_its_own() {
    let q = column(&[0.0; 4]);
    let v = column(&[1.0, 2.0, 4.0, 8.0]);
    let run = |window, ahead| {
        let out: Tensor<f64, 4> = q.attention(&q, &v).window(window).ahead(ahead).run().unwrap();
        out.to_vec().unwrap()
    };
    assert_close(&run(1, 0), &[1.0, 2.0, 4.0, 8.0]);
    assert_close(&run(2, 0), &[1.0, 1.5, 3.0, 6.0]);
    assert_close(&run(1, 1), &[1.5, 3.0, 6.0, 8.0]);
    assert_close(&run(2, 1), &[1.5, 7.0 / 3.0, 14.0 / 3.0, 6.0]);
}

#[test]
fn softcap_bounds_scores_by_a_hyperbolic_tangent() {
    // tanh(ln 2) = 3/5: with cap 5 the score 5·ln 2 becomes 3.
    let run = |k: f64| {
        let (out, _) = column(&[1.0])
            .attention(&column(&[k, 0.0]), &column(&[1.0, 0.0]))
            .scale(1.0)
            .softcap(5.0)
            .run_with_lse::<f64>()
            .unwrap();
        out.to_vec().unwrap()[0]
    };
    let sigmoid = |s: f64| 1.0 / (1.0 + (-s).exp());
    assert_close(&[run(5.0 * 2f64.ln()), run(1e30)], &[sigmoid(3.0), sigmoid(5.0)]);
}

#[test]
fn sink_joins_the_denominator_only() {
    let q = tensor([1, 1, 2, 1], &[0.0; 2]);
    let (k, v) = (column(&[0.0; 2]), column(&[3.0, 5.0]));
    // Denominators 2 + 2 and 2 + 6.
    let sinks = tensor([2], &[2f64.ln(), 6f64.ln()]);
    let (out, lse) = q.attention(&k, &v).sinks(&sinks).run_with_lse::<f64>().unwrap();
    assert_close(&out.to_vec().unwrap(), &[2.0, 1.0]);
    assert_eq!(lse.to_vec().unwrap(), [4f32.ln(), 8f32.ln()]);
}

#[test]
fn sink_of_a_row_without_keys_is_its_log_sum() {
    let none = tensor([1, 0, 1, 1], &[]);
    let sinks = tensor([1], &[0.75]);
    let (out, lse) =
        column(&[1.0]).attention(&none, &none).sinks(&sinks).run_with_lse::<f64>().unwrap();
    assert_eq!((out.to_vec().unwrap(), lse.to_vec().unwrap()), (vec![0.0], vec![0.75]));
}

#[test]
fn scores_and_sinks_beyond_the_range_of_exponentials_are_weighed() {
    let run = |score: f64, sink: f64| {
        let (out, lse) = column(&[score])
            .attention(&column(&[1.0; 2]), &column(&[3.0, 9.0]))
            .scale(1.0)
            .sinks(&tensor([1], &[sink]))
            .run_with_lse::<f64>()
            .unwrap();
        (out.to_vec().unwrap()[0], lse.to_vec().unwrap()[0])
    };
    assert_eq!(run(2000.0, 2000.0), (4.0, (2000.0 + 3f64.ln()) as f32));
    assert_eq!(run(-2000.0, -2000.0), (4.0, (-2000.0 + 3f64.ln()) as f32));
    assert_eq!(run(0.0, 2000.0), (0.0, 2000.0));
    assert_eq!(run(2000.0, 0.0), (6.0, (2000.0 + 2f64.ln()) as f32));
}

#[test]
fn alibi_adds_slope_times_distance() {
    // Positions 1 and 2 of three keys; distances −1, 0, 1 and −2, −1, 0; e^slope = 2.
    let slopes = tensor([1], &[2f64.ln()]);
    let (k, v) = (column(&[0.0; 3]), column(&[7.0, 14.0, 21.0]));
    let out: Tensor<f64, 4> = column(&[0.0; 2]).attention(&k, &v).alibi(&slopes).run().unwrap();
    let expected = (7.0 + 2.0 * 14.0 + 4.0 * 21.0) / 7.0;
    assert_close(&out.to_vec().unwrap(), &[expected, expected]);
    let causal: Tensor<f64, 4> =
        column(&[0.0; 2]).attention(&k, &v).alibi(&slopes).causal().run().unwrap();
    assert_close(&causal.to_vec().unwrap(), &[35.0 / 3.0, expected]);
}

#[test]
fn neighbouring_query_heads_share_a_key_head() {
    let q = tensor([1, 1, 4, 1], &[0.0; 4]);
    let k = tensor([1, 1, 2, 1], &[0.0; 2]);
    let v = tensor([1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let out: Tensor<f64, 4> = q.attention(&k, &v).run().unwrap();
    assert_eq!(out.to_vec().unwrap(), [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
}

#[test]
fn keys_that_are_not_seen_have_no_influence_even_nan() {
    let q = column(&[1.0; 2]);
    let k = column(&[0.0, f64::NAN]);
    let v = column(&[2.0, f64::INFINITY]);
    let out: Tensor<f64, 4> = q.attention(&k, &v).causal().run().unwrap();
    let out = out.to_vec().unwrap();
    assert_eq!(out[0], 2.0);
    assert!(out[1].is_nan());
    let shorter: Tensor<f64, 4> = q.attention(&k, &v).kv_lens(&ints([1])).run().unwrap();
    assert_eq!(shorter.to_vec().unwrap(), [2.0, 2.0]);
}

#[test]
fn nan_that_is_seen_reaches_what_the_formula_says() {
    let v = tensor([1, 2, 1, 2], &[1.0, f64::NAN, 3.0, 4.0]);
    let run = |q: &[f64], k: &[f64]| {
        let out: Tensor<f64, 4> = column(q).attention(&column(k), &v).run().unwrap();
        out.to_vec().unwrap().iter().map(|x| x.is_nan()).collect::<Vec<_>>()
    };
    // A NaN value makes its column NaN.
    assert_eq!(run(&[0.0], &[0.0, 0.0]), [false, true]);
    // A NaN query makes its row NaN, a NaN key every row; a score of +inf too.
    assert_eq!(run(&[f64::NAN, 0.0], &[0.0, 0.0]), [true, true, false, true]);
    assert_eq!(run(&[0.0, 1.0], &[0.0, f64::NAN]), [true; 4]);
    assert_eq!(run(&[f64::NAN], &[f64::NAN, f64::NAN]), [true; 2]);
    assert_eq!(run(&[1.0], &[f64::INFINITY, 0.0]), [true; 2]);
}

#[test]
fn score_of_minus_infinity_weighs_nothing() {
    let k = column(&[f64::NEG_INFINITY, 0.0]);
    let out: Tensor<f64, 4> = column(&[1.0]).attention(&k, &column(&[5.0, 7.0])).run().unwrap();
    assert_eq!(out.to_vec().unwrap(), [7.0]);
    let k = column(&[f64::NEG_INFINITY; 2]);
    let (out, lse) =
        column(&[1.0]).attention(&k, &column(&[5.0, 7.0])).run_with_lse::<f64>().unwrap();
    assert_eq!((out.to_vec().unwrap(), lse.to_vec().unwrap()), (vec![0.0], vec![-f32::INFINITY]));
}

#[test]
fn result_is_rounded_once_to_its_type() {
    // The mean of 1 and 1 + 2⁻⁸·1.5 in bf16, whose step above 1 is 2⁻⁷.
    let v = column(&[1.0, 1.0 + 1.5 / 128.0]);
    let out: Tensor<bf16, 4> = column(&[0.0]).attention(&column(&[0.0; 2]), &v).run().unwrap();
    assert_eq!(out.to_vec().unwrap(), [bf16::from_f32(1.0 + 0.75 / 128.0)]);
}

#[test]
fn sizes_of_zero_give_empty_or_zero_results() {
    let shapes: [([usize; 4], [usize; 4]); 6] = [
        ([0, 2, 2, 4], [0, 3, 1, 4]),
        ([2, 0, 2, 4], [2, 3, 1, 4]),
        ([2, 2, 0, 4], [2, 3, 1, 4]),
        ([2, 2, 0, 4], [2, 3, 0, 4]),
        ([2, 2, 2, 4], [2, 0, 1, 4]),
        ([2, 2, 2, 0], [2, 3, 1, 0]),
    ];
    for (q, kv) in shapes {
        let x: Tensor<f64, 4> = Tensor::full(&DEVICE, q, 1.0).unwrap();
        let k: Tensor<f64, 4> = Tensor::full(&DEVICE, kv, 1.0).unwrap();
        let (out, lse) = x.attention(&k, &k).causal().run_with_lse::<f64>().unwrap();
        assert_eq!(out.shape(), q);
        assert_eq!(lse.shape(), [q[0], q[1], q[2]]);
        assert!(kv[1] > 0 || out.to_vec().unwrap().iter().all(|&x| x == 0.0));
    }
    // Values without columns: only the log of the sum is left.
    let q = tensor([1, 1, 1, 1], &[0.0]);
    let (k, v) = (tensor([1, 2, 1, 1], &[0.0; 2]), tensor([1, 2, 1, 0], &[]));
    let (out, lse) = q.attention(&k, &v).run_with_lse::<f64>().unwrap();
    assert_eq!((out.shape(), lse.to_vec().unwrap()), ([1, 1, 1, 0], vec![2f32.ln()]));
}

#[test]
fn batch_of_nothing_is_done_at_once() {
    let q: Tensor<f32, 4> = Tensor::zeros(&DEVICE, [1 << 60, 0, 1, 1]).unwrap();
    let out: Tensor<f32, 4> = q.attention(&q, &q).run().unwrap();
    assert!(out.is_empty());
}
