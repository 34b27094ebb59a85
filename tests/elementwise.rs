//! Functions of one or two operands, element by element.
#![cfg(feature = "cpu")]

#[path = "common/ops.rs"]
mod ops;

use ferrocerium::format::{Format, Mxfp8, Quantizer};
use ferrocerium::op::{Activation as Act, Elementwise, Function, Op};
use ferrocerium::{DType, Device, F8E4M3, ScaledTensor, Tensor, bf16};
use ops::{close, devices, error, refused, says, scaled_spec, spec, tensor, values};
use proptest::prelude::*;

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

/// One function of single numbers on a device.
fn unary(device: &Device, function: Function, x: f32) -> f32 {
    let x = Tensor::from_host(device, [], &[x]).unwrap();
    x.map::<f32>(function).unwrap().host().unwrap()[[]]
}

fn binary(device: &Device, function: Function, x: f32, y: f32) -> f32 {
    let at = |v| Tensor::from_host(device, [], &[v]).unwrap();
    at(x).zip::<f32, f32, 0>(function, &at(y)).unwrap().host().unwrap()[[]]
}

/// Equal bits, or both NaN.
#[track_caller]
fn same(found: f32, expected: f32, what: impl std::fmt::Display) {
    let equal = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
    assert!(equal, "{what}: {found} is not {expected}");
}

#[test]
fn functions_of_one_operand_at_numbers_known_by_hand() {
    use Function::*;
    let relu = Activation(Act::Relu);
    let affine = Affine { scale: -2.0, shift: 0.5 };
    let cases = [
        (Neg, 1.5, -1.5),
        (Neg, 0.0, -0.0),
        (Neg, -INF, INF),
        (Abs, -3.0, 3.0),
        (Abs, -0.0, 0.0),
        (Abs, -INF, INF),
        (Exp, 0.0, 1.0),
        (Exp, -INF, 0.0),
        (Exp, 1000.0, INF),
        (Ln, 1.0, 0.0),
        (Ln, 0.0, -INF),
        (Ln, -1.0, NAN),
        (Ln, INF, INF),
        (Sqrt, 9.0, 3.0),
        (Sqrt, -0.0, -0.0),
        (Sqrt, -1.0, NAN),
        (Rsqrt, 4.0, 0.5),
        (Rsqrt, 0.0, INF),
        (Rsqrt, INF, 0.0),
        (Rsqrt, -1.0, NAN),
        (Recip, 4.0, 0.25),
        (Recip, -0.0, -INF),
        (Recip, INF, 0.0),
        (Tanh, 0.0, 0.0),
        (Tanh, INF, 1.0),
        (Tanh, -100.0, -1.0),
        (Sigmoid, 0.0, 0.5),
        (Sigmoid, -INF, 0.0),
        (Sigmoid, INF, 1.0),
        (relu, -1.0, 0.0),
        (relu, 2.5, 2.5),
        (relu, -INF, 0.0),
        (Activation(Act::Identity), -0.0, -0.0),
        (Activation(Act::Silu), 0.0, 0.0),
        (Activation(Act::Silu), INF, INF),
        (Activation(Act::Gelu), 0.0, 0.0),
        (Activation(Act::Gelu), INF, INF),
        (Activation(Act::GeluTanh), 100.0, 100.0),
        (affine, 3.0, -5.5),
        (affine, INF, -INF),
    ];
    for (device, _) in devices() {
        for (function, x, expected) in cases {
            let found = unary(&device, function, x);
            same(found, expected, format_args!("{} of {x} on {}", function, device.name()));
        }
    }
}

#[test]
fn functions_of_two_operands_at_numbers_known_by_hand() {
    use Function::*;
    let cases = [
        (Add, 1.0, 2.5, 3.5),
        (Add, INF, -INF, NAN),
        (Sub, 1.0, 2.5, -1.5),
        (Sub, INF, INF, NAN),
        (Mul, 3.0, -0.5, -1.5),
        (Mul, 0.0, INF, NAN),
        (Div, 1.0, -4.0, -0.25),
        (Div, -1.0, 0.0, -INF),
        (Div, 0.0, 0.0, NAN),
        (Max, 1.0, 2.0, 2.0),
        (Max, -0.0, 0.0, 0.0),
        (Max, 0.0, -0.0, 0.0),
        (Max, INF, NAN, NAN),
        (Max, NAN, 1.0, NAN),
        (Min, 1.0, 2.0, 1.0),
        (Min, -0.0, 0.0, -0.0),
        (Min, 0.0, -0.0, -0.0),
        (Min, -INF, NAN, NAN),
        (Gate(Act::SwiGlu), 0.0, 5.0, 0.0),
        (Gate(Act::SwiGlu), 100.0, 0.5, 50.0),
        (Gate(Act::GeGlu), 100.0, 0.5, 50.0),
        (Gate(Act::Relu), -1.0, 7.0, 0.0),
        (Gate(Act::Relu), 2.0, 7.0, 14.0),
    ];
    for (device, _) in devices() {
        for (function, x, y, expected) in cases {
            let found = binary(&device, function, x, y);
            let name = device.name();
            same(found, expected, format_args!("{function} of {x} and {y} on {name}"));
        }
    }
}

type Formula = fn(f64) -> f64;

/// Every function of one operand, with its formula.
fn formulas() -> Vec<(Function, Formula)> {
    use Function::*;
    vec![
        (Neg, |x| -x),
        (Abs, f64::abs),
        (Exp, f64::exp),
        (Ln, f64::ln),
        (Sqrt, f64::sqrt),
        (Rsqrt, |x| x.sqrt().recip()),
        (Recip, |x| 1.0 / x),
        (Tanh, f64::tanh),
        (Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        (Activation(Act::Relu), |x| x.max(0.0)),
        (Activation(Act::Silu), |x| x / (1.0 + (-x).exp())),
        (Activation(Act::Gelu), |x| x * 0.5 * libm::erfc(-x / 2f64.sqrt())),
        (Activation(Act::GeluTanh), |x| {
            // The same function, written with the logistic function in place of tanh.
            let z = 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / (1.0 + (-z).exp())
        }),
        (Affine { scale: 1.5, shift: -0.25 }, |x| 1.5 * x - 0.25),
    ]
}

proptest! {
    #[test]
    fn functions_follow_their_formula(seed: u64, n in 0usize..50) {
        for (device, u) in devices() {
            let x: Tensor<f32, 1> = tensor(&device, [n], seed);
            for (function, f) in formulas() {
                let y: Tensor<f32, 1> = x.map(function).unwrap();
                for (x, y) in values(&x).into_iter().zip(values(&y)) {
                    // |x| ≤ 2: no function here has a condition number, or an inner argument,
                    // above 8, and none takes more than 8 roundings (exp and the like count for 2):
                    // 64 units, absolute below 1 for sums that cancel; then the result's rounding.
                    let expected = f(x);
                    let bound = 64.0 * u * (expected.abs() + 1.0) + f64::from(f32::EPSILON) * expected.abs();
                    close(y, expected, bound, format_args!("{function} of {x} on {}", device.name()));
                }
            }
        }
    }

    #[test]
    fn arithmetic_rounds_once(seed: u64, n in 1usize..50) {
        for (device, _) in devices() {
            let a: Tensor<bf16, 1> = tensor(&device, [n], seed);
            let b: Tensor<bf16, 1> = tensor(&device, [n], !seed);
            let results = [a.add(&b), a.sub(&b), a.mul(&b), a.div(&b)].map(|r| values(&r.unwrap()));
            for (i, (x, y)) in values(&a).into_iter().zip(values(&b)).enumerate() {
                // In f32 a sum or product of two bf16 of like size is exact, and a quotient of two
                // 8-bit numbers is never so near a tie that rounding twice matters (2·8 + 2 ≤ 24).
                for (found, exact) in results.iter().zip([x + y, x - y, x * y, x / y]) {
                    prop_assert_eq!(found[i], f64::from(bf16::from_f32(exact as f32)));
                }
            }
        }
    }

    #[test]
    fn broadcasting_repeats_what_has_size_one(
        shape in prop::array::uniform3(0usize..4),
        ones in prop::array::uniform6(any::<bool>()),
        seed: u64,
    ) {
        for (device, _) in devices() {
            let keep = |i: usize, offset: usize| if ones[i + offset] { 1 } else { shape[i] };
            let (sa, sb) = ([0, 1, 2].map(|i| keep(i, 0)), [0, 1, 2].map(|i| keep(i, 3)));
            let full = [0, 1, 2].map(|i| if sa[i] == 1 { sb[i] } else { sa[i] });
            let a: Tensor<f32, 3> = tensor(&device, sa, seed);
            let b: Tensor<f32, 3> = tensor(&device, sb, !seed);
            let found = a.sub(&b).unwrap();
            prop_assert_eq!(found.shape(), full);
            let (wide_a, wide_b) = (a.broadcast_to(full).unwrap(), b.broadcast_to(full).unwrap());
            prop_assert_eq!(found.to_vec().unwrap(), wide_a.sub(&wide_b).unwrap().to_vec().unwrap());
            let (ha, hb) = (wide_a.host().unwrap(), wide_b.host().unwrap());
            let each: Vec<f32> = ha.iter().zip(hb.iter()).map(|(x, y)| x - y).collect();
            prop_assert_eq!(found.to_vec().unwrap(), each);
        }
    }
}

#[test]
fn a_tensor_of_lower_rank_broadcasts_on_the_right() {
    for (device, _) in devices() {
        let x = Tensor::from_host(&device, [2, 2], &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let row = Tensor::from_host(&device, [2], &[10.0f32, 20.0]).unwrap();
        assert_eq!(x.mul(&row).unwrap().to_vec().unwrap(), [10.0, 40.0, 30.0, 80.0]);
        let message = error(row.mul(&x));
        says(&message, &["[2] f32 with [2, 2] f32", "more dimensions", "swap"]);
    }
}

#[test]
fn a_gate_of_two_tensors_equals_silu_then_product() {
    let device = Device::reference();
    let gate: Tensor<f32, 2> = tensor(&device, [3, 5], 1);
    let up: Tensor<f32, 2> = tensor(&device, [3, 5], 2);
    let fused = values(&gate.silu_mul(&up).unwrap());
    let apart = values(&gate.silu().unwrap().mul(&up).unwrap());
    for (x, y) in fused.into_iter().zip(apart) {
        // The silu and each product are rounded once to f32.
        close(x, y, 1.5 * f64::from(f32::EPSILON) * y.abs(), "gate");
    }
}

#[test]
fn scale_and_add_scalar_take_any_number() {
    for (device, _) in devices() {
        let x = Tensor::from_host(&device, [3], &[1.0f32, -2.0, 0.5]).unwrap();
        assert_eq!(x.scale(0.5).unwrap().to_vec().unwrap(), [0.5, -1.0, 0.25]);
        assert_eq!(x.add_scalar(1.0).unwrap().to_vec().unwrap(), [2.0, -1.0, 1.5]);
        says(&error(x.scale(f64::NAN)), &["scale NaN", "numbers"]);
    }
}

#[test]
fn results_without_room_saturate_in_fp8_and_overflow_in_f16() {
    let device = Device::reference();
    let x = Tensor::from_host(&device, [2], &[F8E4M3::from_f32(416.0), F8E4M3::from_f32(-416.0)]);
    let x = x.unwrap();
    assert_eq!(values(&x.add(&x).unwrap()), [448.0, -448.0]);
    let wide: Tensor<f32, 1> = x.zip(Function::Add, &x).unwrap();
    assert_eq!(values(&wide), [832.0, -832.0]);
    let h = Tensor::from_host(&device, [1], &[ferrocerium::f16::MAX]).unwrap();
    assert_eq!(values(&h.add(&h).unwrap()), [f64::INFINITY]);
}

#[test]
fn f64_is_computed_in_f64() {
    for (device, _) in devices() {
        let x = Tensor::from_host(&device, [1], &[1.0f64 + f64::EPSILON]).unwrap();
        assert_eq!(x.mul(&x).unwrap().to_vec().unwrap(), [1.0 + 2.0 * f64::EPSILON]);
        assert_eq!(x.add_scalar(1e-9).unwrap().to_vec().unwrap(), [1.0 + f64::EPSILON + 1e-9]);
    }
}

#[test]
fn block_formats_enter_with_their_values_and_results_are_quantised() {
    let device = Device::reference();
    let a: ScaledTensor<Mxfp8<F8E4M3>, 2> =
        tensor::<f32, 2>(&device, [2, 40], 1).quantize().unwrap();
    let b: Tensor<f32, 1> = tensor(&device, [40], 2);
    let out = ScaledTensor::<Mxfp8<F8E4M3>, 2>::zeros(&device, [2, 40]).unwrap();
    let op = Elementwise::binary(Function::Mul, a.operand(), b.operand(), out.operand());
    let op = Elementwise { quantizer: Some(Quantizer::OcpCeil), ..op };
    device.run(&Op::Elementwise(op)).unwrap();
    let expected = a.dequantize::<f32>().unwrap().mul(&b).unwrap();
    let expected = expected.quantize_with::<Mxfp8<F8E4M3>>(Quantizer::OcpCeil).unwrap();
    let plain = |q: &ScaledTensor<_, 2>| values(&q.dequantize::<f32>().unwrap());
    assert_eq!(plain(&out), plain(&expected));
}

#[test]
fn each_argument_is_checked_by_name() {
    let x = || spec(DType::F32, &[2, 3]);
    let add = |a, b, out| Elementwise::binary(Function::Add, a, b, out);
    assert!(Op::from(add(x(), x(), x())).validate().is_ok());

    let op = Elementwise::unary(Function::Add, x(), x());
    refused(op, &["elementwise", "add takes two", "not one"]);
    let op = Elementwise::binary(Function::Exp, x(), x(), x());
    refused(op, &["exp takes one", "not two"]);
    let op = Elementwise::unary(Function::Activation(Act::SwiGlu), x(), x());
    refused(op, &["swiglu takes two", "Function::Gate(SwiGlu)"]);
    let op = Elementwise::unary(Function::Affine { scale: 1.0, shift: f64::NAN }, x(), x());
    refused(op, &["shift NaN"]);
    let int = || spec(DType::I32, &[2, 3]);
    refused(add(int(), x(), x()), &["a is [2, 3] i32", "float"]);
    refused(add(x(), int(), x()), &["b is [2, 3] i32", "float"]);
    refused(add(x(), x(), int()), &["out is [2, 3] i32", "float"]);
    let other = || spec(DType::BF16, &[2, 2]);
    refused(add(x(), other(), x()), &["a is [2, 3] f32", "b is [2, 2] bf16", "1 where shared"]);
    refused(add(x(), x(), other()), &["out is [2, 2] bf16", "[2, 3]"]);
    let nvfp4 = scaled_spec(Format::Nvfp4, &[2, 3]);
    let op = Elementwise { quantizer: Some(Quantizer::Ocp), ..add(x(), x(), nvfp4.into()) };
    refused(op, &["ocp does not make nvfp4", "amax"]);
    let op = Elementwise { quantizer: Some(Quantizer::Ocp), ..add(x(), x(), x()) };
    refused(op, &["ocp for out", "block formats"]);

    let (a, b) = (tensor::<f32, 1>(&Device::cpu(), [1], 0), Device::reference());
    says(&error(a.add(&tensor::<f32, 1>(&b, [1], 0))), &["cpu and reference"]);
}
