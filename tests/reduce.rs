//! Reductions, arg-reductions and top-k.
#![cfg(feature = "cpu")]

#[path = "common/ops.rs"]
mod ops;

use std::cmp::Ordering;

use ferrocerium::format::Nvfp4;
use ferrocerium::op::{ArgReduce, Op, Reduce, Reduction, TopK};
use ferrocerium::{DType, Device, F8E4M3, Tensor, bf16};
use ops::{close, devices, error, refused, says, spec, tensor, values};
use proptest::prelude::*;

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

#[test]
fn reductions_computed_by_hand() {
    for (device, _) in devices() {
        let x = Tensor::from_host(&device, [2, 3], &[1.0f32, -2.0, 4.0, 3.0, 5.0, -7.0]).unwrap();
        let rows = |f| x.reduce::<f32, 1>(f, &[1]).unwrap().to_vec().unwrap();
        assert_eq!(rows(Reduction::Sum), [3.0, 1.0]);
        assert_eq!(rows(Reduction::Mean), [1.0, 1.0f32 / 3.0]);
        assert_eq!(rows(Reduction::Prod), [-8.0, -105.0]);
        assert_eq!(rows(Reduction::Max), [4.0, 5.0]);
        assert_eq!(rows(Reduction::Min), [-2.0, -7.0]);
        assert_eq!(rows(Reduction::AbsMax), [4.0, 7.0]);
        let columns: Tensor<f32, 1> = x.sum(&[0]).unwrap();
        assert_eq!(columns.to_vec().unwrap(), [4.0, 3.0, -3.0]);
        let all: Tensor<f32, 0> = x.max(&[1, 0]).unwrap();
        assert_eq!(all.to_vec().unwrap(), [5.0]);
        let same: Tensor<f32, 2> = x.abs_max(&[]).unwrap();
        assert_eq!(same.to_vec().unwrap(), [1.0, 2.0, 4.0, 3.0, 5.0, 7.0]);
    }
}

#[test]
fn the_rank_of_the_result_says_whether_reduced_dimensions_stay() {
    for (device, _) in devices() {
        let x: Tensor<f32, 3> = tensor(&device, [2, 3, 4], 1);
        let gone: Tensor<f32, 1> = x.mean(&[2, 0]).unwrap();
        let kept: Tensor<f32, 3> = x.mean(&[2, 0]).unwrap();
        assert_eq!(gone.shape(), [3]);
        assert_eq!(kept.shape(), [1, 3, 1]);
        assert_eq!(gone.to_vec().unwrap(), kept.to_vec().unwrap());
        let message = error(x.mean::<2>(&[2, 0]));
        says(&message, &["reduce", "2 dimensions", "[2, 3, 4] f32", "1 are expected", "or 3"]);
    }
}

#[test]
fn reductions_of_nothing_are_defined() {
    for (device, _) in devices() {
        let x = Tensor::<f32, 2>::zeros(&device, [2, 0]).unwrap();
        let rows = |f| x.reduce::<f32, 1>(f, &[1]).unwrap().to_vec().unwrap();
        assert_eq!(rows(Reduction::Sum), [0.0, 0.0]);
        assert!(rows(Reduction::Mean).iter().all(|m| m.is_nan()));
        assert_eq!(rows(Reduction::Prod), [1.0, 1.0]);
        assert_eq!(rows(Reduction::Max), [-INF, -INF]);
        assert_eq!(rows(Reduction::Min), [INF, INF]);
        assert_eq!(rows(Reduction::AbsMax), [0.0, 0.0]);
        for function in Reduction::ALL {
            assert_eq!(x.reduce::<f32, 1>(function, &[0]).unwrap().shape(), [0]);
        }
    }
}

#[test]
fn nan_and_infinity_propagate() {
    for (device, _) in devices() {
        let rows = [[1.0, NAN, INF], [INF, 2.0, -INF], [-0.0, 0.0, -0.0]];
        let x = Tensor::from_host(&device, [3, 3], rows.as_flattened()).unwrap();
        for function in Reduction::ALL {
            let y: Tensor<f32, 1> = x.reduce(function, &[1]).unwrap();
            let y = y.to_vec().unwrap();
            assert!(y[0].is_nan(), "{function} of a NaN: {}", y[0]);
            let expected = match function {
                Reduction::Sum | Reduction::Mean => NAN,
                Reduction::Prod | Reduction::Min => -INF,
                _ => INF,
            };
            assert!(y[1] == expected || (y[1].is_nan() && expected.is_nan()), "{function}");
        }
        let zero = |f| x.reduce::<f32, 1>(f, &[1]).unwrap().to_vec().unwrap()[2].to_bits();
        assert_eq!(zero(Reduction::Max), 0.0f32.to_bits());
        assert_eq!(zero(Reduction::Min), (-0.0f32).to_bits());
    }
}

#[test]
fn results_are_rounded_once_to_their_type() {
    let device = Device::reference();
    // 256 + 1 + 1 in bf16 is 258; rounded after each step it would stay 256.
    let x = Tensor::from_host(&device, [3], &[256.0, 1.0, 1.0].map(bf16::from_f32)).unwrap();
    let sum: Tensor<bf16, 0> = x.sum(&[0]).unwrap();
    assert_eq!(values(&sum), [258.0]);
    let wide = Tensor::from_host(&device, [2], &[F8E4M3::from_f32(448.0); 2]).unwrap();
    let sum: Tensor<F8E4M3, 0> = wide.sum(&[0]).unwrap();
    assert_eq!(values(&sum), [448.0]);
    let sum: Tensor<f32, 0> = wide.reduce(Reduction::Sum, &[0]).unwrap();
    assert_eq!(values(&sum), [896.0]);
}

proptest! {
    #[test]
    fn reductions_equal_a_loop(
        shape in prop::array::uniform3(0usize..6),
        chosen in prop::array::uniform3(any::<bool>()),
        seed: u64,
    ) {
        for (device, u) in devices() {
            let x: Tensor<f32, 3> = tensor(&device, shape, seed);
            let axes: Vec<usize> = (0..3).rev().filter(|&axis| chosen[axis]).collect();
            for function in Reduction::ALL {
                let y: Tensor<f32, 3> = x.reduce(function, &axes).unwrap();
                let out = [0, 1, 2].map(|i| if chosen[i] { 1 } else { shape[i] });
                prop_assert_eq!(y.shape(), out);
                let (x, y) = (x.host().unwrap(), y.host().unwrap());
                for position in 0..out.iter().product() {
                    let at = [position / (out[1] * out[2]), position / out[2] % out[1], position % out[2]];
                    let mut gathered = Vec::new();
                    for i in 0..shape[0] {
                        for j in 0..shape[1] {
                            for k in 0..shape[2] {
                                let index = [i, j, k];
                                if (0..3).all(|a| chosen[a] || index[a] == at[a]) {
                                    gathered.push(f64::from(x[index]));
                                }
                            }
                        }
                    }
                    let n = gathered.len() as f64;
                    let (sum, size): (f64, f64) = (gathered.iter().sum(), gathered.iter().map(|x| x.abs()).sum());
                    let fold = |start: f64, f: fn(f64, f64) -> f64| gathered.iter().copied().fold(start, f);
                    // n roundings of partial sums no larger than the sum of magnitudes, or of
                    // partial products, and the division.
                    let (expected, bound) = match function {
                        Reduction::Sum => (sum, n * u * size),
                        Reduction::Mean => (sum / n, (n + 1.0) * u * size / n),
                        Reduction::Prod => {
                            let product = fold(1.0, |a, b| a * b);
                            (product, 1.01 * n * u * product.abs())
                        }
                        Reduction::Max => (fold(-f64::INFINITY, f64::max), 0.0),
                        Reduction::Min => (fold(f64::INFINITY, f64::min), 0.0),
                        _ => (fold(0.0, |a, b| a.max(b.abs())), 0.0),
                    };
                    let bound = bound + f64::from(f32::EPSILON) * expected.abs();
                    close(f64::from(y[at]), expected, bound, format_args!("{function} {axes:?} on {}", device.name()));
                }
            }
        }
    }

    #[test]
    fn arg_reductions_find_the_first_of_equals(
        (rows, n) in (1usize..4, 1usize..30),
        picks in prop::collection::vec(0usize..6, 90),
    ) {
        let numbers = [-INF, -0.0, 0.0, 1.0, INF, NAN];
        // NaN above all, zeros equal.
        let rank = |x: f32| if x.is_nan() { f32::MAX } else { x.clamp(-2.0, 2.0) };
        for (device, _) in devices() {
            let x = Tensor::from_fn(&device, [n, rows], |[i, j]| numbers[picks[i * rows + j]]).unwrap();
            let (max, min): (Tensor<u32, 1>, Tensor<i64, 1>) = (x.argmax(0).unwrap(), x.argmin(0).unwrap());
            let rowwise: Tensor<i32, 1> = x.t().argmax(1).unwrap();
            for j in 0..rows {
                let column: Vec<f32> = (0..n).map(|i| rank(numbers[picks[i * rows + j]])).collect();
                let largest = column.iter().fold(f32::MIN, |m, x| m.max(*x));
                let smallest = column.iter().fold(f32::MAX, |m, x| m.min(*x));
                let first = |of: f32| column.iter().position(|x| *x == of).unwrap();
                prop_assert_eq!(max.host().unwrap()[[j]] as usize, first(largest));
                prop_assert_eq!(rowwise.host().unwrap()[[j]] as usize, first(largest));
                prop_assert_eq!(min.host().unwrap()[[j]] as usize, first(smallest));
            }
        }
    }

    #[test]
    fn top_k_is_the_head_of_a_stable_descending_sort(
        (rows, n, part) in (0usize..4, 0usize..40, 0.0..=1.0f64),
        picks in prop::collection::vec(0usize..8, 160),
    ) {
        let numbers = [-INF, -1.5, -0.0, 0.0, 1.0, 2.0, INF, NAN];
        for (device, _) in devices() {
            let x = Tensor::from_fn(&device, [rows, n], |[i, j]| numbers[picks[i * n + j]]).unwrap();
            let k = (n as f64 * part) as usize;
            let (found, indices) = x.top_k(k).unwrap();
            prop_assert_eq!(found.shape(), [rows, k]);
            let (found, indices) = (found.host().unwrap(), indices.host().unwrap());
            for row in 0..rows {
                let mut order: Vec<(usize, f32)> = (0..n).map(|j| (j, numbers[picks[row * n + j]])).collect();
                order.sort_by(|a, b| match (a.1.is_nan(), b.1.is_nan()) {
                    (false, false) => b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal),
                    (a, b) => b.cmp(&a),
                }.then(a.0.cmp(&b.0)));
                for (at, (index, value)) in order.into_iter().take(k).enumerate() {
                    prop_assert_eq!(indices[[row, at]] as usize, index);
                    prop_assert_eq!(found[[row, at]].to_bits(), value.to_bits());
                }
            }
        }
    }
}

#[test]
fn arg_reductions_and_top_k_computed_by_hand() {
    for (device, _) in devices() {
        let x = Tensor::from_host(&device, [2, 3], &[1.0f32, 3.0, 3.0, NAN, 5.0, NAN]).unwrap();
        let max: Tensor<u32, 1> = x.argmax(1).unwrap();
        assert_eq!(max.to_vec().unwrap(), [1, 0]);
        let min: Tensor<u32, 1> = x.argmin(1).unwrap();
        assert_eq!(min.to_vec().unwrap(), [0, 1]);
        let (values, indices) = x.top_k(2).unwrap();
        assert_eq!(indices.to_vec().unwrap(), [1, 2, 0, 2]);
        assert_eq!(values.to_vec().unwrap()[..2], [3.0, 3.0]);
        assert!(values.to_vec().unwrap()[2..].iter().all(|v| v.is_nan()));
    }
}

#[test]
fn block_formats_enter_with_their_values() {
    let device = Device::reference();
    let q = tensor::<f32, 2>(&device, [3, 20], 5).quantize::<Nvfp4>().unwrap();
    let plain: Tensor<f64, 2> = q.dequantize().unwrap();
    let out = Tensor::<f32, 1>::zeros(&device, [20]).unwrap();
    device.run(&Reduce::new(Reduction::Sum, q.operand(), [0], out.operand()).into()).unwrap();
    let expected: Tensor<f32, 1> = plain.reduce(Reduction::Sum, &[0]).unwrap();
    assert_eq!(out.to_vec().unwrap(), expected.to_vec().unwrap());
    let found = Tensor::<u32, 1>::zeros(&device, [3]).unwrap();
    device.run(&ArgReduce::max(q.operand(), 1, found.operand()).into()).unwrap();
    assert_eq!(found.to_vec().unwrap(), plain.argmax::<u32, 1>(1).unwrap().to_vec().unwrap());
}

#[test]
fn each_argument_of_a_reduction_is_checked_by_name() {
    let f = |dims: &[usize]| spec(DType::F32, dims);
    let int = |dims: &[usize]| spec(DType::I32, dims);
    let sum = |x, axes: &[usize], out| Reduce::new(Reduction::Sum, x, axes, out);
    assert!(Op::from(sum(f(&[2, 3]), &[1], f(&[2]))).validate().is_ok());
    refused(sum(int(&[2, 3]), &[1], f(&[2])), &["reduce", "x is [2, 3] i32", "float"]);
    refused(sum(f(&[2, 3]), &[1], int(&[2])), &["out is [2] i32", "float"]);
    refused(sum(f(&[2, 3]), &[2], f(&[2])), &["axes", "2 is not one of the 2", "[2, 3] f32"]);
    refused(sum(f(&[2, 3]), &[1, 1], f(&[2])), &["axes", "[1, 1] names 1 twice"]);
    refused(sum(f(&[2, 3]), &[1], f(&[3])), &["out is [3] f32", "[2]"]);
    refused(sum(f(&[2, 3]), &[1], f(&[2, 3])), &["out is [2, 3] f32", "[2, 1]"]);
    refused(sum(f(&[2, 3]), &[1], f(&[])), &["0 dimensions", "1 are expected"]);
}

#[test]
fn each_argument_of_an_arg_reduction_is_checked_by_name() {
    let f = |dims: &[usize]| spec(DType::F32, dims);
    let ids = |dims: &[usize]| spec(DType::U32, dims);
    assert!(Op::from(ArgReduce::max(f(&[2, 3]), 1, ids(&[2]))).validate().is_ok());
    refused(ArgReduce::max(ids(&[2, 3]), 1, ids(&[2])), &["arg_reduce", "x is [2, 3] u32"]);
    refused(ArgReduce::max(f(&[2, 3]), 2, ids(&[2])), &["axis", "2 is not one of the 2"]);
    refused(ArgReduce::max(f(&[2, 3]), 1, ids(&[3])), &["out is [3] u32", "[2]"]);
    refused(ArgReduce::min(f(&[2, 3]), 1, f(&[2])), &["out is [2] f32", "u32 or i32 or i64"]);
    refused(ArgReduce::min(f(&[2, 0]), 1, ids(&[2])), &["x is [2, 0] f32", "no elements"]);
    assert!(Op::from(ArgReduce::max(f(&[0, 0]), 1, ids(&[0]))).validate().is_ok());
}

#[test]
fn each_argument_of_top_k_is_checked_by_name() {
    let f = |dims: &[usize]| spec(DType::F32, dims);
    let ids = |dims: &[usize]| spec(DType::U32, dims);
    assert!(Op::from(TopK::new(f(&[2, 3]), f(&[2, 3]), ids(&[2, 3]))).validate().is_ok());
    refused(TopK::new(f(&[]), f(&[]), ids(&[])), &["top_k", "x is [] f32", "1 dimension"]);
    refused(TopK::new(ids(&[3]), f(&[1]), ids(&[1])), &["x is [3] u32", "float"]);
    refused(TopK::new(f(&[3]), ids(&[1]), ids(&[1])), &["values is [1] u32", "float"]);
    refused(TopK::new(f(&[3]), f(&[4]), ids(&[4])), &["values is [4] f32", "x is [3]", "4 of 3"]);
    refused(TopK::new(f(&[2, 3]), f(&[3, 1]), ids(&[3, 1])), &["values is [3, 1] f32", "[2, 1]"]);
    refused(TopK::new(f(&[3]), f(&[2]), ids(&[1])), &["indices is [1] u32", "[2]"]);
    refused(TopK::new(f(&[3]), f(&[2]), f(&[2])), &["indices is [2] f32", "u32 or i32 or i64"]);
    let x: Tensor<f32, 1> = tensor(&Device::reference(), [3], 0);
    says(&error(x.top_k(4)), &["top_k", "4", "[3]"]);
}
