//! RMS norm and layer norm.
#![cfg(feature = "cpu")]

#[path = "common/ops.rs"]
mod ops;

use ferrocerium::format::{Format, Mxfp8, Nvfp4, Quantizer};
use ferrocerium::op::{Norm, NormKind, Op};
use ferrocerium::{DType, Device, F8E4M3, Tensor, bf16};
use ops::{close, devices, error, refused, says, scaled_spec, spec, tensor, values};
use proptest::prelude::*;

const RMS: NormKind = NormKind::Rms;
const LAYER: NormKind = NormKind::Layer;

/// The unit roundoff of an f32 result.
const U: f64 = f32::EPSILON as f64 / 2.0;

#[test]
fn rms_norm_of_a_row_computed_by_hand() {
    for (device, _) in devices() {
        // mean of squares: (1 + 4 + 4 + 16 + 25) / 5 = 10, and 6 more under the root: 4.
        let x = Tensor::from_host(&device, [1, 5], &[1.0f32, -2.0, 2.0, 4.0, 5.0]).unwrap();
        let w = Tensor::from_host(&device, [5], &[1.0f32, 1.0, 2.0, 0.0, -1.0]).unwrap();
        let y = x.rms_norm(&w, 6.0).unwrap();
        assert_eq!(y.to_vec().unwrap(), [0.25, -0.5, 1.0, 0.0, -1.25], "{}", device.name());
    }
}

#[test]
fn layer_norm_of_a_row_computed_by_hand() {
    for (device, _) in devices() {
        // mean 3, variance (4 + 1 + 0 + 1 + 4) / 5 = 2, and 2 more under the root: 2.
        let x = Tensor::from_host(&device, [1, 5], &[1.0f32, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let w = Tensor::from_host(&device, [5], &[1.0f32, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let b = Tensor::from_host(&device, [5], &[0.0f32, 0.0, 1.0, 0.0, 10.0]).unwrap();
        let y = x.layer_norm(&w, &b, 2.0).unwrap();
        assert_eq!(y.to_vec().unwrap(), [-1.0, -1.0, 1.0, 2.0, 15.0], "{}", device.name());
    }
}

#[test]
fn weight_offset_is_added_to_the_weight() {
    for (device, _) in devices() {
        let x = Tensor::from_host(&device, [1, 2], &[2.0f32, 2.0]).unwrap();
        let w = Tensor::from_host(&device, [2], &[bf16::from_f32(0.5), bf16::from_f32(-1.0)]);
        let y: Tensor<f32, 2> =
            x.norm(RMS, 0.0).weight(&w.unwrap()).weight_offset(1.0).run().unwrap();
        assert_eq!(y.to_vec().unwrap(), [1.5, 0.0]);
        // Without a weight there is nothing to add to: the factor is 1.
        let y: Tensor<f32, 2> = x.norm(RMS, 0.0).weight_offset(1.0).run().unwrap();
        assert_eq!(y.to_vec().unwrap(), [1.0, 1.0]);
    }
}

/// The formula in f64, and the error that sums in `u` can make, without the output's rounding.
fn formula(kind: NormKind, h: &[f64], w: &[f64], b: &[f64], eps: f64, u: f64) -> Vec<(f64, f64)> {
    let n = h.len() as f64;
    let mean = if kind == LAYER { h.iter().sum::<f64>() / n } else { 0.0 };
    let mean_error = if kind == LAYER {
        (n + 1.0) * u * h.iter().map(|h| h.abs()).sum::<f64>() / n
    } else {
        0.0
    };
    let variance = h.iter().map(|h| (h - mean).powi(2)).sum::<f64>() / n;
    let root = (variance + eps).sqrt();
    let column = |((h, w), b): ((&f64, &f64), &f64)| {
        let y = (h - mean) / root * w + b;
        // The root: n + 1 roundings of the sum of squares and two more, halved by the root, one
        // of the root itself, and the square of the mean's error, which the mean of squares is
        // off by. Then a subtraction, a division, the weight with its offset, a product, an
        // addition: each one rounding.
        let relative = ((n + 3.0) / 2.0 + 8.0) * u + (mean_error / root).powi(2);
        let error = ((h - mean) / root * w).abs() * relative
            + mean_error / root * w.abs()
            + (h.abs() + mean.abs()) * u / root * w.abs()
            + (y.abs() + b.abs()) * u;
        (y, error * 1.01)
    };
    h.iter().zip(w).zip(b).map(column).collect()
}

proptest! {
    #[test]
    fn norms_follow_their_formula(
        (rows, n) in (0usize..5, 0usize..70),
        seed: u64,
        layer: bool,
        eps in prop::sample::select(vec![1e-6f32, 1e-5, 0.1]),
    ) {
        let kind = if layer { LAYER } else { RMS };
        for (device, u) in devices() {
            let x: Tensor<bf16, 2> = tensor(&device, [rows, n], seed);
            let w: Tensor<f32, 1> = tensor(&device, [n], seed ^ 1);
            let b: Tensor<bf16, 1> = tensor(&device, [n], seed ^ 2);
            let y: Tensor<f32, 2> = x.norm(kind, eps).weight(&w).bias(&b).run().unwrap();
            let (x, w, b, y) = (values(&x), values(&w), values(&b), values(&y));
            for row in 0..rows {
                let h = &x[row * n..][..n];
                let expected = formula(kind, h, &w, &b, f64::from(eps), u);
                for (col, (value, bound)) in expected.into_iter().enumerate() {
                    let bound = bound + value.abs() * U + f64::from(f32::MIN_POSITIVE);
                    close(y[row * n + col], value, bound, format_args!("{} [{row}, {col}]", device.name()));
                }
            }
        }
    }

    #[test]
    fn a_fused_residual_equals_addition_then_norm(seed: u64, n in 1usize..40) {
        let device = Device::reference();
        let x: Tensor<bf16, 2> = tensor(&device, [3, n], seed);
        let r: Tensor<bf16, 2> = tensor(&device, [3, n], !seed);
        let w: Tensor<f32, 1> = tensor(&device, [n], seed ^ 1);
        let norm = x.norm(RMS, 1e-5).weight(&w).residual(&r);
        let (y, sum): (Tensor<bf16, 2>, Tensor<bf16, 2>) = norm.run_with_sum().unwrap();
        let added = x.add(&r).unwrap();
        prop_assert_eq!(sum.to_vec().unwrap(), added.to_vec().unwrap());
        prop_assert_eq!(y.to_vec().unwrap(), added.rms_norm(&w, 1e-5).unwrap().to_vec().unwrap());
    }

    #[test]
    fn a_norm_does_not_depend_on_strides(seed: u64, rows in 1usize..5, n in 1usize..20) {
        let device = Device::reference();
        let x: Tensor<f32, 2> = tensor(&device, [n, rows], seed);
        let w: Tensor<f32, 1> = tensor(&device, [2 * n], seed ^ 1);
        let w = w.reshape([n, 2]).unwrap().select(1, 1).unwrap();
        let strided = x.t().rms_norm(&w, 1e-5).unwrap();
        let plain = x.t().copy().unwrap().rms_norm(&w.copy().unwrap(), 1e-5).unwrap();
        prop_assert_eq!(strided.to_vec().unwrap(), plain.to_vec().unwrap());
    }
}

#[test]
fn without_a_sum_the_residual_is_added_unrounded() {
    let device = Device::reference();
    // 256 + 0.5 is not a bf16, so a rounded sum would lose the 0.5.
    let x = Tensor::from_host(&device, [1, 1], &[bf16::from_f32(256.0)]).unwrap();
    let r = Tensor::from_host(&device, [1, 1], &[bf16::from_f32(0.5)]).unwrap();
    let eps = 256.5f32 * 256.5;
    let y: Tensor<f32, 2> = x.norm(RMS, eps).residual(&r).run().unwrap();
    close(values(&y)[0], 0.5f64.sqrt(), U, "unrounded");
    let (y, sum): (Tensor<f32, 2>, Tensor<bf16, 2>) =
        x.norm(RMS, 256.0 * 256.0).residual(&r).run_with_sum().unwrap();
    assert_eq!(values(&sum), [256.0]);
    close(values(&y)[0], 0.5f64.sqrt(), U, "rounded");
}

#[test]
fn nan_and_infinity_stay_in_their_row() {
    for (device, _) in devices() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let rows = [[1.0, nan], [inf, 1.0], [3.0, 3.0]];
        let x = Tensor::from_host(&device, [3, 2], rows.as_flattened()).unwrap();
        let y: Tensor<f32, 2> = x.norm(RMS, 0.0).run().unwrap();
        let y = y.to_vec().unwrap();
        assert!(y[0].is_nan() && y[1].is_nan() && y[2].is_nan());
        assert_eq!(y[3..], [0.0, 1.0, 1.0]);
        let y: Tensor<f32, 2> = x.norm(LAYER, 1.0).run().unwrap();
        let y = y.to_vec().unwrap();
        assert!(y[..4].iter().all(|y| y.is_nan()));
        assert_eq!(y[4..], [0.0, 0.0]);
    }
}

#[test]
fn a_row_of_zeros_is_zero_with_eps_and_nan_without() {
    for (device, _) in devices() {
        let x = Tensor::zeros(&device, [1, 4]).unwrap();
        let y: Tensor<f32, 2> = Tensor::<f32, 2>::norm(&x, RMS, 1e-6).run().unwrap();
        assert_eq!(y.to_vec().unwrap(), [0.0; 4]);
        let y: Tensor<f32, 2> = x.norm(RMS, 0.0).run().unwrap();
        assert!(y.to_vec().unwrap().iter().all(|y| y.is_nan()));
    }
}

#[test]
fn the_result_is_quantised_like_the_unquantised_result() {
    let device = Device::reference();
    let x: Tensor<f32, 2> = tensor(&device, [3, 40], 7);
    let y: Tensor<f32, 2> = x.norm(RMS, 1e-5).run().unwrap();
    let expected = y.quantize_with::<Nvfp4>(Quantizer::Mse).unwrap();
    let found = x.norm(RMS, 1e-5).run_quantized::<Nvfp4>(Quantizer::Mse).unwrap();
    let values =
        |q: &ferrocerium::ScaledTensor<Nvfp4, 2>| q.dequantize::<f32>().unwrap().to_vec().unwrap();
    assert_eq!(values(&found), values(&expected));
}

#[test]
fn block_scaled_rows_are_normalised_by_their_values() {
    let device = Device::reference();
    let q = tensor::<f32, 2>(&device, [2, 32], 3).quantize::<Mxfp8<F8E4M3>>().unwrap();
    let expected: Tensor<bf16, 2> = q.dequantize::<f32>().unwrap().norm(LAYER, 1e-5).run().unwrap();
    let found = Tensor::<bf16, 2>::zeros(&device, [2, 32]).unwrap();
    let op = Norm::new(LAYER, q.operand(), found.operand(), 1e-5);
    device.run(&Op::Norm(op)).unwrap();
    assert_eq!(found.to_vec().unwrap(), expected.to_vec().unwrap());
}

#[test]
fn each_argument_is_checked_by_name() {
    let x = || spec(DType::BF16, &[2, 8]);
    let base = || Norm::new(RMS, x(), x(), 1e-5);
    assert!(Op::from(base()).validate().is_ok());
    let float = |dims: &[usize]| Some(spec(DType::F32, dims));
    let int = |dims: &[usize]| Some(spec(DType::I32, dims));

    let scalar = || spec(DType::F32, &[]);
    refused(Norm::new(RMS, scalar(), scalar(), 0.0), &["norm", "x is [] f32", "1 dimension"]);
    refused(Norm { x: spec(DType::I8, &[2, 8]), ..base() }, &["x is [2, 8] i8", "float"]);
    refused(Norm { residual: float(&[2, 7]), ..base() }, &["residual is [2, 7] f32", "[2, 8]"]);
    refused(Norm { residual: int(&[2, 8]), ..base() }, &["residual is [2, 8] i32", "float"]);
    refused(Norm { sum: float(&[1, 8]), ..base() }, &["sum is [1, 8] f32", "[2, 8]"]);
    refused(Norm { sum: int(&[2, 8]), ..base() }, &["sum is [2, 8] i32", "float"]);
    refused(Norm { weight: float(&[2]), ..base() }, &["weight is [2] f32", "[8]"]);
    refused(Norm { weight: int(&[8]), ..base() }, &["weight is [8] i32", "float"]);
    refused(Norm { bias: float(&[9]), ..base() }, &["bias is [9] f32", "[8]"]);
    refused(Norm { bias: int(&[8]), ..base() }, &["bias is [8] i32", "float"]);
    refused(Norm { out: spec(DType::F32, &[8, 2]), ..base() }, &["out is [8, 2] f32", "[2, 8]"]);
    refused(Norm { out: spec(DType::I32, &[2, 8]), ..base() }, &["out is [2, 8] i32", "float"]);
    for eps in [-1e-5, f32::NAN, f32::INFINITY] {
        refused(Norm { eps, ..base() }, &["eps", &eps.to_string(), "at least 0"]);
    }
    refused(Norm { weight_offset: f32::NAN, ..base() }, &["weight_offset", "NaN", "finite"]);

    let quantizer = Some(Quantizer::FourOverSix);
    refused(Norm { quantizer, ..base() }, &["four_over_six", "[2, 8] bf16", "block formats"]);
    let out = || scaled_spec(Format::Mxfp4, &[2, 8]);
    refused(Norm { out: out().into(), quantizer, ..base() }, &["four_over_six", "mxfp4", "ocp"]);
    let transposed = scaled_spec(Format::Mxfp4, &[8, 2]).transposed();
    refused(Norm { out: transposed.into(), ..base() }, &["out is [2, 8] mxfp4 transposed"]);
}

#[test]
fn operands_of_two_devices_are_refused() {
    let x: Tensor<f32, 2> = tensor(&Device::reference(), [1, 2], 0);
    let w: Tensor<f32, 1> = tensor(&Device::cpu(), [2], 0);
    says(&error(x.rms_norm(&w, 0.0)), &["reference", "cpu", "copy"]);
}
