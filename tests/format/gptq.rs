//! Error feedback: what it costs is what it says, and it is no other format than without.

use ferrocerium::Error;
use ferrocerium::format::{
    BlockLayout, Format, HessianFactor, Quantizer, RowQuantizer, amax, dequantize_f64,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{Case, Packed, row_major, rules, values};

/// Formats with blocks of one row.
fn formats() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| format.spec().block_rows == 1)
}

/// A tensor of one matrix, quantised row by row, and the cost of each row.
fn pack(case: &Case, rule: Quantizer, factor: &HessianFactor) -> (Packed, Vec<f64>) {
    let l = case.layout;
    let rows = RowQuantizer::new(&l, rule, amax(&case.values).unwrap()).unwrap();
    // Rubbish first: whatever is not written shows.
    let (mut codes, mut scales) = (vec![0xA5; l.codes_len()], vec![0xA5; l.scales_bytes()]);
    let width = l.scale_cols() * l.spec().scale.size();
    let quantize = |row: usize| {
        let src = &case.values[row * l.k()..][..l.k()];
        let codes = &mut codes[row * l.row_bytes()..][..l.row_bytes()];
        let scales = &mut scales[row * width..][..width];
        rows.quantize_row_gptq(row, factor, src, codes, scales).unwrap()
    };
    let costs = (0..l.rows()).map(quantize).collect();
    (Packed { layout: l, codes, scales, tensor_scale: rows.tensor_scale() }, costs)
}

/// `Σ x·xᵀ` of inputs `[n, k]`.
fn hessian(k: usize, inputs: &[f32]) -> Vec<f32> {
    let product = |i: usize, j: usize| {
        inputs.chunks_exact(k).map(|x| f64::from(x[i]) * f64::from(x[j])).sum::<f64>() as f32
    };
    (0..k * k).map(|at| product(at / k, at % k)).collect()
}

/// `dᵀ·(H + λ·I)·d` by the formula.
fn quadratic(k: usize, hessian: &[f32], lambda: f64, d: &[f64]) -> f64 {
    let h = |i: usize, j: usize| f64::from(hessian[i.max(j) * k + i.min(j)]);
    let sum = |i: usize| (0..k).map(|j| h(i, j) * d[j]).sum::<f64>() + lambda * d[i];
    (0..k).map(|i| d[i] * sum(i)).sum()
}

fn lambda(k: usize, hessian: &[f32], damping: f32) -> f64 {
    let trace: f64 = (0..k).map(|j| f64::from(hessian[j * k + j])).sum();
    if trace == 0.0 { 1.0 } else { f64::from(damping) * trace / k as f64 }
}

/// Rows with inputs that are more or less alike, from fewer of them than there are values on.
fn layers() -> impl Strategy<Value = (Case, Vec<f32>)> {
    let format = proptest::sample::select(formats().collect::<Vec<_>>());
    (format, 0..4usize, 1..70usize, 1..40usize, 0.0..1.0f32).prop_flat_map(
        |(format, rows, k, n, alike)| {
            let layout = row_major(format, 1, rows, k);
            let weights = vec(-1.0..1.0f32, rows * k);
            let inputs =
                (vec(-1.0..1.0f32, n), vec(-1.0..1.0f32, n * k)).prop_map(move |(common, own)| {
                    let mix = |(at, x): (usize, f32)| alike * common[at / k] + (1.0 - alike) * x;
                    own.into_iter().enumerate().map(mix).collect::<Vec<_>>()
                });
            (weights, inputs).prop_map(move |(values, x)| (Case { layout, values }, hessian(k, &x)))
        },
    )
}

proptest! {
    #[test]
    fn inputs_that_have_nothing_in_common_change_nothing(
        format in proptest::sample::select(formats().collect::<Vec<_>>()),
        rows in 0..4usize, k in 0..70usize, seed in values(4 * 70),
    ) {
        let layout = row_major(format, 1, rows, k);
        let case = Case { layout, values: seed[..rows * k].to_vec() };
        let identity: Vec<f32> = (0..k * k).map(|at| f32::from(at / k == at % k)).collect();
        let factor = HessianFactor::new(k, &identity, 0.0).unwrap();
        for rule in rules(format) {
            let (fed_back, costs) = pack(&case, rule, &factor);
            let plain = Packed::new(layout, rule, &case.values).unwrap();
            // Compared as numbers: −0 with nothing made good is 0.
            prop_assert_eq!(fed_back.values(), plain.values(), "{}", rule);
            prop_assert_eq!(&fed_back.scales, &plain.scales, "{}", rule);
            for (row, cost) in costs.iter().enumerate() {
                let exact = plain.exact();
                let square = |i: usize| (f64::from(case.values[i]) - exact[i]).powi(2);
                let error: f64 = (row * k..(row + 1) * k).map(square).sum();
                prop_assert!((cost - error).abs() <= 1e-12 * error, "{}: {} {}", rule, cost, error);
            }
        }
    }

    /// The factor solves for `(R·Rᵀ)_ij` with at most `k + 2` roundings of products whose sizes sum
    /// to at most `√(A_ii·A_jj)` (Higham, Accuracy and Stability, theorem 10.3).
    #[test]
    fn the_factor_weighs_changes_as_the_hessian_does((case, h) in layers(), d in vec(-1.0..1.0f64, 70)) {
        let k = case.layout.k();
        let d = &d[..k];
        let factor = HessianFactor::new(k, &h, 0.01).unwrap();
        let lambda = lambda(k, &h, 0.01);
        let exact = quadratic(k, &h, lambda, d);
        let root: f64 = (0..k).map(|j| (f64::from(h[j * k + j]) + lambda).sqrt() * d[j].abs()).sum();
        let bound = 4.0 * (k + 2) as f64 * f64::EPSILON * root * root;
        let got = factor.error(d).unwrap();
        prop_assert!((got - exact).abs() <= bound, "{} {} {}", got, exact, bound);
    }

    /// Targets are rounded to f32, hence the error of a value is known to 2^-24 of its target.
    #[test]
    fn a_row_costs_what_it_says_it_costs((case, h) in layers()) {
        let l = case.layout;
        let k = l.k();
        let factor = HessianFactor::new(k, &h, 0.01).unwrap();
        for rule in rules(l.format()) {
            let (packed, costs) = pack(&case, rule, &factor);
            let exact = packed.exact();
            for (row, cost) in costs.iter().enumerate() {
                let of_row = row * k..(row + 1) * k;
                let d: Vec<f64> = of_row.map(|i| f64::from(case.values[i]) - exact[i]).collect();
                let error = factor.error(&d).unwrap();
                // (a + δ)² with |δ| ≤ u·R_jj·|t_j|, and R_jj·|t_j| ≤ R_jj·max|q| + |a|.
                let trace: f64 = (0..k).map(|j| f64::from(h[j * k + j])).sum();
                let size = trace * (1.0 + 0.01) + 1.0;
                let u = 2f64.powi(-24);
                let largest = 2.0 * exact.iter().fold(1.0f64, |a, q| a.max(q.abs()));
                let delta = u * (size.sqrt() * largest + error.sqrt());
                let bound = 2.0 * delta * error.sqrt() * (k as f64).sqrt()
                    + k as f64 * delta * delta + 1e-10 * error;
                prop_assert!((cost - error).abs() <= bound, "{}: {} {} {}", rule, cost, error, bound);
            }
        }
    }

    /// The last value has nothing after it to make good for its error: no other code is better.
    #[test]
    fn no_other_code_of_the_last_value_costs_less((case, h) in layers()) {
        let l = case.layout;
        let k = l.k();
        let factor = HessianFactor::new(k, &h, 0.01).unwrap();
        let (packed, _) = pack(&case, Quantizer::default_for(l.format()), &factor);
        let (last, wide) = (k - 1, l.spec().codes_per_byte == 1);
        let cost = |packed: &Packed, row: usize| {
            let mut exact = vec![0.0; l.values_len()];
            let Packed { codes, scales, tensor_scale, .. } = packed;
            dequantize_f64(&l, codes, scales, *tensor_scale, &mut exact).unwrap();
            let of_row = row * k..(row + 1) * k;
            let d: Vec<f64> = of_row.map(|i| f64::from(case.values[i]) - exact[i]).collect();
            factor.error(&d).unwrap()
        };
        for row in 0..l.rows() {
            let at = row * l.row_bytes() + last / l.spec().codes_per_byte;
            let found = cost(&packed, row);
            for code in 0..=u8::from(wide) * 0xF0 + 0xF {
                let mut other = packed.clone();
                other.codes[at] = match (wide, last % 2) {
                    (true, _) => code,
                    (false, 0) => other.codes[at] & 0xF0 | code,
                    (false, _) => other.codes[at] & 0x0F | code << 4,
                };
                let cost = cost(&other, row);
                // NaN and infinite codes are no choice; ties are within rounding.
                prop_assert!(
                    !cost.is_finite() || found <= cost + 1e-6 * (1.0 + found),
                    "{}: {} {}", code, found, cost
                );
            }
        }
    }
}

#[test]
fn feedback_costs_less_where_inputs_are_alike() {
    let k = 96;
    let wave = |i: usize| (i as f32 * 0.37).sin() + (i as f32 * 1.7).cos();
    let inputs: Vec<f32> =
        (0..128 * k).map(|at| 1.0 + 0.3 * wave(at / k * 31 + at % k * 7)).collect();
    let h = hessian(k, &inputs);
    let factor = HessianFactor::new(k, &h, 0.01).unwrap();
    for format in formats().filter(|format| format.spec().codes_per_byte == 2) {
        let layout = row_major(format, 1, 8, k);
        let case = Case { layout, values: (0..8 * k).map(wave).collect() };
        let cost = |packed: &Packed| {
            let pairs = case.values.iter().zip(packed.exact());
            let d: Vec<f64> = pairs.map(|(&w, q)| f64::from(w) - q).collect();
            d.chunks(k).map(|d| factor.error(d).unwrap()).sum::<f64>()
        };
        for rule in rules(format) {
            let with = cost(&pack(&case, rule, &factor).0);
            let without = cost(&Packed::new(layout, rule, &case.values).unwrap());
            assert!(with < without / 2.0, "{format} {rule}: {with} {without}");
        }
    }
}

#[test]
fn inputs_of_a_text_that_never_shows_some_of_them_are_fine() {
    let mut h = vec![0.0; 9];
    h[0] = 4.0;
    let factor = HessianFactor::new(3, &h, 0.01).unwrap();
    assert!(factor.error(&[0.0, 1.0, 0.0]).unwrap() > 0.0);
    let none = HessianFactor::new(3, &[0.0; 9], 0.01).unwrap();
    assert_eq!(none.error(&[1.0, 2.0, 3.0]).unwrap(), 14.0);
    assert_eq!(HessianFactor::new(0, &[], 0.01).unwrap().error(&[]).unwrap(), 0.0);
}

#[test]
fn hessians_that_are_none_are_refused() {
    let new = |k, h: &[f32], damping| HessianFactor::new(k, h, damping).unwrap_err();
    assert!(matches!(new(2, &[1.0; 3], 0.01), Error::Shape { .. }));
    assert!(matches!(new(usize::MAX, &[], 0.01), Error::Shape { .. }));
    for damping in [-1.0, f32::NAN, f32::INFINITY] {
        assert!(new(1, &[1.0], damping).to_string().contains("damping"));
    }
    assert!(new(1, &[f32::NAN], 0.01).to_string().contains("NaN"));
    let indefinite = new(2, &[1.0, 2.0, 2.0, 1.0], 0.01).to_string();
    assert!(indefinite.contains("raise the damping"), "{indefinite}");
    assert!(new(1, &[-1.0], 0.01).to_string().contains("positive definite"));
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let factor = HessianFactor::new(2, &[1.0, 0.0, 0.0, 1.0], 0.0).unwrap();
    let run = |layout: &BlockLayout, src: &[f32]| {
        let rows = RowQuantizer::new(layout, Quantizer::Amax, 1.0).unwrap();
        let (mut codes, mut scales) = (vec![0; layout.codes_len()], vec![0; layout.scales_bytes()]);
        rows.quantize_row_gptq(0, &factor, src, &mut codes, &mut scales).unwrap_err()
    };
    let shared = run(&row_major(Format::Fp8Block128, 1, 1, 2), &[0.0; 2]).to_string();
    assert!(shared.contains("rows share scales"), "{shared}");
    let nvfp4 = row_major(Format::Nvfp4, 1, 1, 2);
    assert!(matches!(run(&row_major(Format::Nvfp4, 1, 1, 3), &[0.0; 3]), Error::Shape { .. }));
    assert!(matches!(run(&nvfp4, &[0.0; 3]), Error::Shape { .. }));
    let nan = run(&nvfp4, &[0.0, f32::NAN]).to_string();
    assert!(nan.contains("[0, 0, 1]"), "{nan}");
    assert!(factor.error(&[0.0]).is_err());
}
