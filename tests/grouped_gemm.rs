//! Grouped matrix products: by hand, against a product for each group, and what is refused.

#[path = "common/tensors.rs"]
mod support;

use ferrocerium::format::{Mxfp8, Nvfp4, Quantizer};
use ferrocerium::op::{Activation, GroupedGemm, Op};
use ferrocerium::{Device, Error, ScaledTensor, Tensor};
use proptest::prelude::*;
use support::{DEVICE, Random, ints, tensor};

#[test]
fn each_group_of_rows_meets_its_own_matrix() {
    let a = tensor([3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let b = tensor([2, 2, 2], &[1.0, 0.0, 0.0, 1.0, 10.0, 1.0, 100.0, 0.0]);
    let d: Tensor<f64, 2> = a.grouped_gemm(&b, &ints([0, 1, 3])).run().unwrap();
    assert_eq!(d.to_vec().unwrap(), [1.0, 2.0, 430.0, 3.0, 650.0, 5.0]);
}

#[test]
fn bias_is_that_of_the_group_and_residual_that_of_the_row() {
    let a = tensor([2, 1], &[1.0, -2.0]);
    let b = tensor([2, 1, 1], &[3.0, 5.0]);
    let d: Tensor<f64, 2> = a
        .grouped_gemm(&b, &ints([0, 1, 2]))
        .alpha(2.0)
        .bias(&tensor([2, 1], &[0.5, 7.0]))
        .activation(Activation::Relu)
        .residual(&tensor([2, 1], &[100.0, 200.0]))
        .run()
        .unwrap();
    // relu(2·3 + 0.5) + 100 and relu(2·(−10) + 7) + 200
    assert_eq!(d.to_vec().unwrap(), [106.5, 200.0]);
}

#[test]
fn matrix_of_an_empty_group_has_no_influence_even_nan() {
    let a = tensor([2, 1], &[1.0, 2.0]);
    let b = tensor([4, 1, 1], &[f64::NAN, 3.0, f64::INFINITY, 5.0]);
    let d: Tensor<f64, 2> = a.grouped_gemm(&b, &ints([0, 0, 1, 1, 2])).run().unwrap();
    assert_eq!(d.to_vec().unwrap(), [3.0, 10.0]);
}

#[test]
fn nan_stays_in_its_row() {
    let a = tensor([3, 1], &[1.0, f64::NAN, 2.0]);
    let b = tensor([2, 1, 1], &[3.0, 5.0]);
    let d: Tensor<f64, 2> = a.grouped_gemm(&b, &ints([0, 2, 3])).run().unwrap();
    let d = d.to_vec().unwrap();
    assert!(d[0] == 3.0 && d[1].is_nan() && d[2] == 10.0);
}

#[test]
fn sizes_of_zero_give_empty_or_zero_results() {
    let run = |m, k, n, groups, offsets: &[u32]| {
        let a: Tensor<f64, 2> = Tensor::zeros(&DEVICE, [m, k]).unwrap();
        let b: Tensor<f64, 3> = Tensor::zeros(&DEVICE, [groups, k, n]).unwrap();
        let offsets = Tensor::from_host(&DEVICE, [offsets.len()], offsets).unwrap();
        let d: Tensor<f64, 2> = a.grouped_gemm(&b, &offsets).run().unwrap();
        (d.shape(), d.to_vec().unwrap())
    };
    assert_eq!(run(0, 2, 3, 0, &[0]), ([0, 3], vec![]));
    assert_eq!(run(0, 2, 3, 2, &[0, 0, 0]), ([0, 3], vec![]));
    assert_eq!(run(2, 3, 0, 1, &[0, 2]), ([2, 0], vec![]));
    assert_eq!(run(2, 0, 1, 1, &[0, 2]), ([2, 1], vec![0.0, 0.0]));
}

/// Offsets of groups of random sizes, with empty ones among them.
fn random_offsets(random: &mut Random, groups: usize) -> Vec<i32> {
    let mut offsets = vec![0];
    for _ in 0..groups {
        let size = if random.below(3) == 0 { 0 } else { random.below(5) };
        offsets.push(offsets[offsets.len() - 1] + size as i32);
    }
    offsets
}

proptest! {
    #[test]
    fn every_group_is_the_matrix_product_of_its_rows(
        seed: u64, groups in 0usize..5, k in 0usize..6, half in 0usize..4,
        activation in prop::sample::select(&Activation::ALL[..]),
    ) {
        let mut random = Random(seed);
        let offsets = random_offsets(&mut random, groups);
        let total = offsets[groups] as usize;
        let (wide, n) = (2 * half, if activation.is_gated() { half } else { 2 * half });
        let (a, b) = (random.tensor([total, k]), random.tensor([groups, k, wide]));
        let (bias, residual) = (random.tensor([groups, wide]), random.tensor([total, n]));
        let starts = Tensor::from_host(&DEVICE, [groups + 1], &offsets).unwrap();
        let d: Tensor<f64, 2> = a
            .grouped_gemm(&b, &starts)
            .alpha(0.5)
            .bias(&bias)
            .activation(activation)
            .residual(&residual)
            .run()
            .unwrap();
        prop_assert_eq!(d.shape(), [total, n]);
        for e in 0..groups {
            let rows = offsets[e] as usize..offsets[e + 1] as usize;
            let alone: Tensor<f64, 2> = a
                .slice(0, rows.clone())
                .unwrap()
                .gemm(&b.select::<2>(0, e).unwrap())
                .alpha(0.5)
                .bias(&bias.select::<1>(0, e).unwrap())
                .activation(activation)
                .residual(&residual.slice(0, rows.clone()).unwrap())
                .run()
                .unwrap();
            prop_assert_eq!(d.slice(0, rows).unwrap().to_vec().unwrap(), alone.to_vec().unwrap());
        }
    }

    #[test]
    fn block_formats_multiply_as_their_values_do(seed: u64, groups in 1usize..4) {
        let mut random = Random(seed);
        let offsets = random_offsets(&mut random, groups);
        let total = offsets[groups] as usize;
        let starts = Tensor::from_host(&DEVICE, [groups + 1], &offsets).unwrap();
        let a: ScaledTensor<Mxfp8, 2> = random.tensor([total, 40]).quantize().unwrap();
        // Stored [groups, n, k], as its blocks run along k.
        let b: ScaledTensor<Nvfp4, 3> = random.tensor([groups, 6, 40]).quantize().unwrap();
        let d: Tensor<f64, 2> = a.grouped_gemm(&b.t(), &starts).run().unwrap();
        let plain_a: Tensor<f64, 2> = a.dequantize().unwrap();
        let plain_b: Tensor<f64, 3> = b.dequantize().unwrap();
        let plain_b = plain_b.transpose(1, 2).unwrap();
        let plain: Tensor<f64, 2> = plain_a.grouped_gemm(&plain_b, &starts).run().unwrap();
        prop_assert_eq!(d.to_vec().unwrap(), plain.to_vec().unwrap());
        // And the result quantised is the quantised result.
        let fused: ScaledTensor<Mxfp8, 2> =
            a.grouped_gemm(&b.t(), &starts).run_quantized(Quantizer::Ocp).unwrap();
        let after: ScaledTensor<Mxfp8, 2> = d.quantize_with(Quantizer::Ocp).unwrap();
        let values = |t: &ScaledTensor<Mxfp8, 2>| t.dequantize::<f64>().unwrap().to_vec().unwrap();
        prop_assert_eq!(values(&fused), values(&after));
    }
}

#[track_caller]
fn refused<T>(result: Result<T, Error>) -> Error {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error,
    }
}

#[test]
fn offsets_that_are_no_partition_of_the_rows_are_refused() {
    let (a, b) = (tensor([4, 1], &[1.0; 4]), tensor([2, 1, 1], &[1.0; 2]));
    for (offsets, expected) in [
        ([1, 2, 4], "it begins at 1; offsets begin at 0"),
        ([0, 2, 5], "it ends at 5, but there are 4 rows"),
        ([0, 2, 3], "it ends at 3, but there are 4 rows"),
        ([0, 5, 4], "element 2 is 4, below the 5 before it"),
        ([0, -1, 4], "element 1 is -1, below the 0 before it"),
        ([0, 2, -1], "it ends at -1"),
    ] {
        let error = refused(a.grouped_gemm(&b, &ints(offsets)).run::<f64>());
        assert!(matches!(error, Error::Value { op: "grouped_gemm", arg: "offsets", .. }));
        assert!(error.to_string().contains(expected), "{error}");
    }
    let large = Tensor::from_host(&DEVICE, [3], &[0u32, 2, u32::MAX]).unwrap();
    let error = refused(a.grouped_gemm(&b, &large).run::<f64>());
    assert!(error.to_string().contains("it ends at 4294967295"), "{error}");
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let a = tensor([4, 2], &[1.0; 8]);
    let offsets = ints([0, 2, 4]);
    let run = |b: &Tensor<f64, 3>| refused(a.grouped_gemm(b, &offsets).run::<f64>()).to_string();
    let message = run(&tensor([2, 3, 2], &[1.0; 12]));
    assert_eq!(
        message,
        "grouped_gemm: a, b: a is [4, 2] f64, b is [2, 3, 2] f64: inner sizes 2 and 3 differ; \
         transpose b?"
    );
    let message = run(&tensor([3, 2, 1], &[1.0; 6]));
    assert!(message.contains("offsets is [3] i32: sizes [4] are expected"), "{message}");

    let b = tensor([2, 2, 3], &[1.0; 12]);
    let start = || a.grouped_gemm(&b, &offsets);
    for (builder, expected) in [
        (start().activation(Activation::SwiGlu), "b is [2, 2, 3] f64: a gated activation"),
        (start().bias(&tensor([1, 3], &[0.0; 3])), "bias is [1, 3] f64: sizes [2, 3]"),
        (start().residual(&tensor([4, 2], &[0.0; 8])), "residual is [4, 2] f64: sizes [4, 3]"),
        (start().alpha(f32::NAN), "alpha: NaN"),
    ] {
        let message = refused(builder.run::<f64>()).to_string();
        assert!(message.contains(expected), "{message}");
    }
    let message = refused(start().run_into(&tensor([4, 2], &[0.0; 8]))).to_string();
    assert!(message.contains("d is [4, 2] f64: sizes [4, 3]"), "{message}");
    let message = refused(start().run_quantized::<Mxfp8>(Quantizer::FourOverSix)).to_string();
    assert!(message.contains("quantizer"), "{message}");
}

#[test]
fn operands_of_other_ranks_and_types_are_refused() {
    let spec = |b: [usize; 3]| tensor(b, &vec![0.0; b.iter().product()]).operand();
    let (a, d) = (tensor([4, 2], &[0.0; 8]).operand(), tensor([4, 3], &[0.0; 12]).operand());
    let offsets = ints([0, 2, 4]).operand();
    let good = || GroupedGemm::new(a.clone(), spec([2, 2, 3]), offsets.clone(), d.clone());
    DEVICE.run(&good().into()).unwrap();
    let integers: Tensor<i32, 3> = Tensor::zeros(&DEVICE, [2, 2, 3]).unwrap();
    let floats = tensor([3], &[0.0, 2.0, 4.0]);
    let refusal = |op: GroupedGemm| refused(DEVICE.run(&Op::from(op))).to_string();
    for (op, expected) in [
        (
            GroupedGemm { b: a.clone(), ..good() },
            "sizes [total_m, k] and [groups, k, n] are expected",
        ),
        (GroupedGemm { b: integers.operand(), ..good() }, "b is [2, 2, 3] i32: a float"),
        (
            GroupedGemm { offsets: floats.operand(), ..good() },
            "offsets is [3] f64: u32 or i32 or i64 is expected",
        ),
    ] {
        let message = refusal(op);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn blocks_that_do_not_run_along_k_are_refused() {
    let b: ScaledTensor<Nvfp4, 3> = ScaledTensor::zeros(&DEVICE, [2, 16, 3]).unwrap();
    let a = Random(1).tensor([2, 16]);
    let error = refused(a.grouped_gemm(&b, &ints([0, 1, 2])).run::<f64>());
    assert!(matches!(error, Error::Layout { arg: "b", .. }), "{error}");
    assert!(error.to_string().contains("[groups, n, k]"), "{error}");
    let a: ScaledTensor<Nvfp4, 2> = ScaledTensor::zeros(&DEVICE, [16, 2]).unwrap();
    let error = refused(a.t().grouped_gemm(&b, &ints([0, 1, 2])).run::<f64>());
    assert!(matches!(error, Error::Layout { arg: "a", .. }), "{error}");
}

#[test]
fn operands_of_another_device_are_refused() {
    let other = Device::reference();
    let bias: Tensor<f64, 2> = Tensor::zeros(&other, [1, 1]).unwrap();
    let (a, b) = (tensor([1, 1], &[1.0]), tensor([1, 1, 1], &[1.0]));
    let error = refused(a.grouped_gemm(&b, &ints([0, 1])).bias(&bias).run::<f64>());
    assert!(matches!(error, Error::Device { .. }), "{error}");
}

#[test]
fn specification_can_be_explained() {
    let (a, b) = (tensor([1, 1], &[1.0]), tensor([1, 1, 1], &[1.0]));
    let spec = a.grouped_gemm(&b, &ints([0, 1])).spec::<f32>().unwrap();
    let text = DEVICE.explain(&spec).unwrap().to_string();
    assert!(text.contains("reference.grouped_gemm"), "{text}");
}
