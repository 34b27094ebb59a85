//! Softmax of rows.
#![cfg(feature = "cpu")]

#[path = "common/ops.rs"]
mod ops;

use ferrocerium::format::Mxfp8;
use ferrocerium::op::{Op, Softmax};
use ferrocerium::{DType, Device, F8E4M3, Tensor, bf16};
use ops::{close, devices, error, refused, says, spec, tensor, values};
use proptest::prelude::*;

const INF: f32 = f32::INFINITY;

#[test]
fn a_row_computed_by_hand() {
    for (device, _) in devices() {
        // e^ln 2 = 2: weights 1, 2, 1 of 4.
        let ln2 = std::f32::consts::LN_2;
        let x = Tensor::from_host(&device, [1, 3], &[5.0f32, 5.0 + ln2, 5.0]).unwrap();
        for (found, expected) in values(&x.softmax().unwrap()).into_iter().zip([0.25, 0.5, 0.25]) {
            // 5 + ln 2 is rounded to f32: half of 2^-21 off at most.
            close(found, expected, 5e-7, device.name());
        }
        let log = values(&x.log_softmax().unwrap());
        close(log[1], 0.5f64.ln(), 5e-7, device.name());
    }
}

proptest! {
    #[test]
    fn softmax_follows_its_formula(
        (rows, n) in (0usize..4, 0usize..50),
        scale in prop::sample::select(vec![1.0f32, 0.125, -3.0, 20.0]),
        log: bool,
        seed: u64,
    ) {
        for (device, u) in devices() {
            let x: Tensor<bf16, 2> = tensor(&device, [rows, n], seed);
            let y: Tensor<f32, 2> = x.softmax_as(scale, log).unwrap();
            let (x, y) = (values(&x), values(&y));
            for row in 0..rows {
                let z: Vec<f64> = x[row * n..][..n].iter().map(|x| x * f64::from(scale)).collect();
                let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let top = z.iter().fold(0.0f64, |m, z| m.max(z.abs()));
                let sum: f64 = z.iter().map(|z| (z - max).exp()).sum();
                for (col, z) in z.iter().enumerate() {
                    // A product and a difference of numbers up to |z|, each rounded, and with them
                    // the largest: 4 u·|z| in the exponent, of this term and of every other. Then
                    // exp (2), the sum of n terms, a division or logarithm and a difference.
                    let relative = (8.0 * top + n as f64 + 8.0) * u;
                    let (value, bound) = if log {
                        let value = z - max - sum.ln();
                        (value, relative + value.abs() * 4.0 * u)
                    } else {
                        let value = (z - max).exp() / sum;
                        (value, value * relative * 1.01)
                    };
                    let bound = bound + value.abs() * f64::from(f32::EPSILON) + f64::from(f32::MIN_POSITIVE);
                    close(y[row * n + col], value, bound, format_args!("{} [{row}, {col}]", device.name()));
                }
            }
        }
    }

    #[test]
    fn a_row_sums_to_one_and_does_not_depend_on_a_shift(seed: u64, n in 1usize..60) {
        for (device, _) in devices() {
            let x: Tensor<f32, 1> = tensor(&device, [n], seed);
            // Whole numbers, so that the shift is exact.
            let x = x.scale(16.0).unwrap().cast::<i32>().unwrap().cast::<f32>().unwrap();
            let y = x.softmax().unwrap();
            let total: f64 = values(&y).iter().sum();
            close(total, 1.0, (n as f64 + 80.0) * f64::from(f32::EPSILON), device.name());
            let shifted = x.add_scalar(1000.0).unwrap().softmax().unwrap();
            prop_assert_eq!(y.to_vec().unwrap(), shifted.to_vec().unwrap());
        }
    }
}

#[test]
fn rows_without_any_finite_logit_have_defined_results() {
    for (device, _) in devices() {
        let rows = [[-INF, -INF], [f32::NAN, -INF], [INF, 0.0], [-INF, 0.0]];
        let x = Tensor::from_host(&device, [4, 2], rows.as_flattened()).unwrap();
        let y = x.softmax().unwrap().to_vec().unwrap();
        assert_eq!(y[..2], [0.0, 0.0]);
        assert!(y[2..6].iter().all(|y| y.is_nan()), "{y:?}");
        assert_eq!(y[6..], [0.0, 1.0]);
        let y = x.log_softmax().unwrap().to_vec().unwrap();
        assert_eq!(y[..2], [-INF, -INF]);
        assert!(y[2..6].iter().all(|y| y.is_nan()), "{y:?}");
        assert_eq!(y[6..], [-INF, 0.0]);
    }
}

#[test]
fn huge_logits_do_not_overflow() {
    for (device, _) in devices() {
        let x = Tensor::from_host(&device, [2], &[3e38f32, -3e38]).unwrap();
        assert_eq!(x.softmax().unwrap().to_vec().unwrap(), [1.0, 0.0]);
    }
}

#[test]
fn block_formats_enter_with_their_values() {
    let device = Device::reference();
    let q = tensor::<f32, 2>(&device, [2, 40], 3).quantize::<Mxfp8<F8E4M3>>().unwrap();
    let out = Tensor::<f32, 2>::zeros(&device, [2, 40]).unwrap();
    device.run(&Op::Softmax(Softmax::new(q.operand(), out.operand()))).unwrap();
    let expected = q.dequantize::<f32>().unwrap().softmax().unwrap();
    assert_eq!(out.to_vec().unwrap(), expected.to_vec().unwrap());
}

#[test]
fn each_argument_is_checked_by_name() {
    let x = || spec(DType::F32, &[2, 3]);
    assert!(Op::from(Softmax::new(x(), x())).validate().is_ok());
    let scalar = || spec(DType::F32, &[]);
    refused(Softmax::new(scalar(), scalar()), &["softmax", "x is [] f32", "1 dimension"]);
    refused(Softmax::new(spec(DType::I32, &[2, 3]), x()), &["x is [2, 3] i32", "float"]);
    refused(Softmax::new(x(), spec(DType::I32, &[2, 3])), &["out is [2, 3] i32", "float"]);
    refused(Softmax::new(x(), spec(DType::F32, &[3, 2])), &["out is [3, 2] f32", "[2, 3]"]);
    let op = Softmax { scale: f32::NAN, ..Softmax::new(x(), x()) };
    refused(op, &["scale", "NaN", "finite"]);
    let x: Tensor<f32, 0> = tensor(&Device::reference(), [], 0);
    says(&error(x.softmax()), &["softmax", "1 dimension"]);
}
