//! Matrix products: what they compute, for which operands, and what they refuse.
#![cfg(feature = "cpu")]

use ferrocerium::format::{
    BlockFormat, Format, Fp8Block128, Fp8Group128, Fp8PerRow, Fp8PerTensor, Mxfp4, Mxfp8, Nvfp4,
    Quantizer,
};
use ferrocerium::op::Activation;
use ferrocerium::tensor::MatOperand;
use ferrocerium::{AnyTensor, DType, Device, Error, F8E4M3, F8E5M2, ScaledTensor, Tensor, bf16};

/// Small values that every type tells apart, in no pattern that a transposition keeps.
fn value(index: [usize; 2]) -> f32 {
    let [i, j] = index;
    ((i * 7 + j * 13) % 11) as f32 * 0.25 - 1.25
}

fn matrix(device: &Device, shape: [usize; 2]) -> Tensor<f32, 2> {
    Tensor::from_fn(device, shape, value).unwrap()
}

/// The values of a tensor of run-time type, as f64.
fn values(any: &AnyTensor) -> Vec<f64> {
    let plain = any.cast(DType::F32).unwrap();
    plain.tensor::<f32, 2>().unwrap().to_vec().unwrap().iter().map(|&x| f64::from(x)).collect()
}

fn naive(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    let dot = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f64>();
    (0..m * n).map(|p| dot(p / n, p % n)).collect()
}

/// Every type that `[rows, k]` values can have.
fn all_types(x: &Tensor<f32, 2>) -> Vec<AnyTensor> {
    let any = AnyTensor::from(x.clone());
    let plain = [DType::F64, DType::F32, DType::BF16, DType::F16, DType::F8E4M3, DType::F8E5M2];
    let plain = plain.into_iter().map(|dtype| any.cast(dtype).unwrap());
    let blocks = Format::ALL.into_iter();
    let blocks = blocks.map(|f| any.quantize(f, Quantizer::default_for(f)).unwrap());
    plain.chain(blocks).collect()
}

#[test]
fn every_pair_of_element_types_and_block_formats_multiplies() {
    for device in [Device::reference(), Device::cpu()] {
        let (m, n, k) = (3, 5, 40);
        let lefts = all_types(&matrix(&device, [m, k]));
        let rights = all_types(&matrix(&device, [n, k]));
        for a in &lefts {
            for b in &rights {
                let b = b.t().unwrap();
                let y = product(a, &b);
                let wanted = naive(&values(a), &values(&b), m, n, k);
                for (y, wanted) in y.iter().zip(&wanted) {
                    // f32 accumulation of 40 products of at most 2 in magnitude.
                    let bound = 40.0 * 40.0 * 4.0 * f64::from(f32::EPSILON);
                    let error = (f64::from(*y) - wanted).abs();
                    assert!(error <= bound, "{a} · {b} on {}: {y}, not {wanted}", device.name());
                }
            }
        }
    }
}

/// The product of operands of run-time type, as f32.
fn product(a: &AnyTensor, b: &AnyTensor) -> Vec<f32> {
    use ferrocerium::op::{Gemm, Op};
    let device = a.device();
    let shape = [a.shape()[0], b.shape()[1]];
    let out = Tensor::<f32, 2>::zeros(device, shape).unwrap();
    let op = Gemm::new(a.operand().clone(), b.operand().clone(), out.operand());
    device.run(&Op::Gemm(op)).unwrap();
    out.to_vec().unwrap()
}

#[test]
fn the_result_type_follows_from_the_operand_types() {
    let device = Device::reference();
    let x = matrix(&device, [2, 32]);
    let w = matrix(&device, [4, 32]);
    let x16 = x.cast::<bf16>().unwrap();
    let w16 = w.cast::<bf16>().unwrap();
    let w4: ScaledTensor<Nvfp4, 2> = w.quantize().unwrap();
    let _: Tensor<f32, 2> = x.matmul(&w.t()).unwrap();
    let _: Tensor<bf16, 2> = x16.matmul(&w16.t()).unwrap();
    let _: Tensor<bf16, 2> = x16.matmul(&w4.t()).unwrap();
    let x4 = x.quantize::<Nvfp4>().unwrap();
    let _: Tensor<f32, 2> = x4.matmul(&w4.t()).unwrap();
    let x8 = x.cast::<F8E4M3>().unwrap();
    let w8 = w.cast::<F8E4M3>().unwrap();
    let _: Tensor<f32, 2> = x8.matmul(&w8.t()).unwrap();
    let _: Tensor<F8E5M2, 2> = x.gemm(&w8.t()).run().unwrap();
}

fn scaled_product<F: BlockFormat>(device: &Device) -> Tensor<f32, 2> {
    let x = matrix(device, [2, 256]);
    let w: ScaledTensor<F, 2> = matrix(device, [3, 256]).quantize().unwrap();
    x.matmul(&w.t()).unwrap()
}

#[test]
fn a_block_scaled_weight_gives_the_product_with_its_dequantised_values() {
    let device = Device::reference();
    fn check<F: BlockFormat>(device: &Device) {
        let x = matrix(device, [2, 256]);
        let w: ScaledTensor<F, 2> = matrix(device, [3, 256]).quantize().unwrap();
        // f64 holds code · scale · g exactly.
        let plain: Tensor<f64, 2> = w.dequantize().unwrap();
        let wanted: Tensor<f32, 2> = x.gemm(&plain.t()).run().unwrap();
        let wanted = wanted.to_vec().unwrap();
        assert_eq!(scaled_product::<F>(device).to_vec().unwrap(), wanted, "{}", F::FORMAT);
    }
    check::<Nvfp4>(&device);
    check::<Mxfp4>(&device);
    check::<Mxfp8<F8E4M3>>(&device);
    check::<Mxfp8<F8E5M2>>(&device);
    check::<Fp8PerTensor<F8E4M3>>(&device);
    check::<Fp8PerRow>(&device);
    check::<Fp8Group128>(&device);
    check::<Fp8Block128>(&device);
}

#[test]
fn the_epilogue_is_applied_in_the_documented_order() {
    for device in [Device::reference(), Device::cpu()] {
        let a = Tensor::from_host(&device, [1, 2], &[1.0f32, 2.0]).unwrap();
        let b = Tensor::from_host(&device, [2, 2], &[3.0f32, -4.0, 5.0, 6.0]).unwrap();
        let c = Tensor::from_host(&device, [1, 2], &[10.0f32, 20.0]).unwrap();
        let bias = Tensor::from_host(&device, [2], &[-100.0f32, 1.0]).unwrap();
        let residual = Tensor::from_host(&device, [1, 2], &[0.5f32, 0.25]).unwrap();
        let y: Tensor<f32, 2> = a
            .gemm(&b)
            .alpha(2.0)
            .plus(0.5, &c)
            .bias(&bias)
            .activation(Activation::Relu)
            .residual(&residual)
            .run()
            .unwrap();
        // A·B = [13, 8]: 2·13 + 5 − 100 < 0, 2·8 + 10 + 1 = 27.
        assert_eq!(y.to_vec().unwrap(), [0.5, 27.25], "{}", device.name());
    }
}

#[test]
fn a_gated_activation_multiplies_the_activated_first_half_by_the_second() {
    for device in [Device::reference(), Device::cpu()] {
        let a = Tensor::from_host(&device, [1, 1], &[1.0f32]).unwrap();
        let b = Tensor::from_host(&device, [1, 4], &[1.0f32, -2.0, 3.0, 5.0]).unwrap();
        let y: Tensor<f32, 2> = a.gemm(&b).activation(Activation::SwiGlu).run().unwrap();
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let wanted = [silu(1.0) * 3.0, silu(-2.0) * 5.0];
        assert_eq!(y.shape(), [1, 2]);
        for (y, wanted) in y.to_vec().unwrap().into_iter().zip(wanted) {
            assert!((f64::from(y) - wanted).abs() < 1e-6, "{}: {y} {wanted}", device.name());
        }
    }
}

#[test]
fn with_beta_zero_c_may_hold_anything() {
    let device = Device::reference();
    let a = Tensor::from_host(&device, [1, 1], &[3.0f32]).unwrap();
    let c = Tensor::from_host(&device, [1, 1], &[f32::NAN]).unwrap();
    let y: Tensor<f32, 2> = a.gemm(&a).plus(0.0, &c).run().unwrap();
    assert_eq!(y.to_vec().unwrap(), [9.0]);
}

#[test]
fn batches_are_multiplied_one_by_one_and_shared_where_the_size_is_1() {
    for device in [Device::reference(), Device::cpu()] {
        let f = |[b, i, j]: [usize; 3]| value([i + 5 * b, j]);
        let a = Tensor::from_fn(&device, [3, 2, 4], f).unwrap();
        let b = Tensor::from_fn(&device, [1, 4, 5], f).unwrap();
        let y = a.matmul(&b).unwrap();
        assert_eq!(y.shape(), [3, 2, 5]);
        for i in 0..3 {
            let (a, b): (Tensor<f32, 2>, Tensor<f32, 2>) =
                (a.select(0, i).unwrap(), b.select(0, 0).unwrap());
            let one: Tensor<f32, 2> = y.select(0, i).unwrap();
            assert_eq!(one.to_vec().unwrap(), a.matmul(&b).unwrap().to_vec().unwrap());
        }
    }
}

#[test]
fn a_product_over_no_elements_is_zero_and_empty_sides_give_empty_results() {
    for device in [Device::reference(), Device::cpu()] {
        let a = Tensor::<f32, 2>::zeros(&device, [2, 0]).unwrap();
        let b = Tensor::<f32, 2>::zeros(&device, [0, 3]).unwrap();
        assert_eq!(a.matmul(&b).unwrap().to_vec().unwrap(), [0.0; 6]);
        assert_eq!(b.matmul(&matrix(&device, [3, 4])).unwrap().shape(), [0, 4]);
        let w: ScaledTensor<Nvfp4, 2> = matrix(&device, [3, 0]).quantize().unwrap();
        assert_eq!(a.matmul(&w.t()).unwrap().to_vec().unwrap(), [0.0; 6]);
    }
}

#[test]
fn nan_and_infinity_propagate() {
    for device in [Device::reference(), Device::cpu()] {
        let a = Tensor::from_host(&device, [2, 2], &[f32::NAN, 0.0, f32::INFINITY, 1.0]).unwrap();
        let b = Tensor::from_host(&device, [2, 2], &[1.0f32, 0.0, 2.0, 3.0]).unwrap();
        let y = a.matmul(&b).unwrap().to_vec().unwrap();
        assert!(y[0].is_nan() && y[1].is_nan(), "{y:?}");
        assert_eq!(y[2], f32::INFINITY);
        assert!(y[3].is_nan(), "inf · 0 is NaN: {y:?}");
    }
}

#[test]
fn a_result_can_be_quantised_or_written_into_existing_memory() {
    let device = Device::cpu();
    let (x, w) = (matrix(&device, [4, 64]), matrix(&device, [32, 64]));
    let plain: Tensor<f32, 2> = x.gemm(&w.t()).run().unwrap();
    let fused: ScaledTensor<Nvfp4, 2> = x.gemm(&w.t()).run_quantized(Quantizer::Amax).unwrap();
    assert_eq!(fused.shape(), [4, 32]);
    let [rows, cols] = plain.shape();
    let back: Tensor<f32, 2> = fused.dequantize().unwrap();
    let (plain_host, back) = (plain.host().unwrap(), back.host().unwrap());
    let amax = plain_host.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for i in 0..rows {
        for j in 0..cols {
            // Half the widest step of E2M1 (1, between 4 and 6) in units of amax / 6, and the
            // rounding of the block scale, 1/16 of the value.
            let bound = amax / 6.0 + amax / 16.0;
            assert!((plain_host[[i, j]] - back[[i, j]]).abs() <= bound);
        }
    }
    let wide = Tensor::<f32, 2>::full(&device, [4, 48], 7.0).unwrap();
    x.gemm(&w.t()).run_into(&wide.slice(1, 8..40).unwrap()).unwrap();
    let host = wide.host().unwrap();
    for i in 0..4 {
        assert_eq!((host[[i, 7]], host[[i, 40]]), (7.0, 7.0), "neighbours are left alone");
        assert_eq!(host[[i, 8]], plain_host[[i, 0]]);
    }
}

fn message(result: ferrocerium::Result<impl Sized>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_both_operands_and_a_hint() {
    let device = Device::cpu();
    let a = Tensor::<bf16, 2>::zeros(&device, [4, 64]).unwrap();
    let b = Tensor::<bf16, 2>::zeros(&device, [32, 64]).unwrap();
    let text = message(a.matmul(&b));
    assert_eq!(
        text,
        "matmul: a, b: a is [4, 64] bf16, b is [32, 64] bf16: inner sizes 64 and 32 differ; \
         transpose b?"
    );
    let bias = Tensor::<bf16, 1>::zeros(&device, [31]).unwrap();
    let text = message(a.gemm(&b.t()).bias(&bias).run::<bf16>());
    assert!(text.contains("bias is [31] bf16") && text.contains("[32]"), "{text}");
    let out = Tensor::<bf16, 2>::zeros(&device, [4, 31]).unwrap();
    let text = message(a.gemm(&b.t()).run_into(&out));
    assert!(text.contains("d is [4, 31] bf16") && text.contains("[4, 32]"), "{text}");
    let a3 = Tensor::<f32, 3>::zeros(&device, [2, 4, 8]).unwrap();
    let b3 = Tensor::<f32, 3>::zeros(&device, [3, 8, 4]).unwrap();
    let text = message(a3.matmul(&b3));
    assert!(text.contains("[2, 4, 8]") && text.contains("[3, 8, 4]"), "{text}");
    let odd = Tensor::<f32, 2>::zeros(&device, [4, 3]).unwrap();
    let text = message(odd.t().gemm(&odd).activation(Activation::SwiGlu).run::<f32>());
    assert!(text.contains("even number of columns"), "{text}");
}

#[test]
fn block_scales_that_do_not_run_along_k_are_refused() {
    let device = Device::cpu();
    let x = matrix(&device, [4, 32]);
    let w: ScaledTensor<Nvfp4, 2> = matrix(&device, [32, 32]).quantize().unwrap();
    let error = x.matmul(&w).err().unwrap();
    assert!(matches!(error, Error::Layout { arg: "b", .. }), "{error}");
    assert!(error.to_string().contains("run along k"), "{error}");
}

#[test]
fn operands_of_two_devices_are_refused() {
    let (a, b) = (matrix(&Device::cpu(), [2, 2]), matrix(&Device::reference(), [2, 2]));
    let error = a.matmul(&b).err().unwrap();
    assert!(matches!(error, Error::Device { .. }), "{error}");
    assert_eq!(a.matmul(&b.on(a.device())).unwrap().shape(), [2, 2]);
}

#[test]
fn an_output_in_the_memory_of_an_input_is_refused() {
    let a = matrix(&Device::cpu(), [2, 2]);
    let error = a.gemm(&a).run_into(&a).err().unwrap();
    assert!(matches!(error, Error::Layout { arg: "d", .. }), "{error}");
    assert!(error.to_string().contains("another operand's, a [2, 2] f32"), "{error}");
}

#[test]
fn a_tensor_of_run_time_type_multiplies_too() {
    let device = Device::cpu();
    let (x, w) = (matrix(&device, [2, 32]), matrix(&device, [4, 32]));
    let any = AnyTensor::from(w.clone()).t().unwrap();
    let y: Tensor<f32, 2> = x.gemm(&any).run().unwrap();
    assert_eq!(y.to_vec().unwrap(), x.matmul(&w.t()).unwrap().to_vec().unwrap());
    assert!(MatOperand::<2>::mat_device(&any).is_same(&device));
}
