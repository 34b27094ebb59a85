//! Copies, casts and conversions between formats: what becomes of each value, in any layout.

#[path = "common/ops.rs"]
mod ops;

use ferrocerium::format::{Format, Mxfp4, Mxfp8, Nvfp4, Quantizer};
use ferrocerium::op::{Convert, Scaled};
use ferrocerium::{
    AnyTensor, DType, Device, F8E4M3, F8E5M2, Scalar, ScaledTensor, Tensor, UE4M3, bf16, f16,
};
use ops::{devices, error, refused, says, scaled_spec, spec};
use proptest::prelude::*;

/// Numbers of every size and kind, among them those that narrow types round, saturate or do not
/// have.
fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -500.0..500.0f64,
        2 => any::<f32>().prop_map(f64::from),
        1 => any::<f64>(),
        1 => (-40i32..40, any::<bool>()).prop_map(|(e, up)| 2f64.powi(e) * if up { 1.5 } else { 1.0625 }),
        1 => prop::sample::select(vec![0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN]),
    ]
}

fn same<E: Scalar>(a: E, b: E) -> bool {
    bytemuck::bytes_of(&a) == bytemuck::bytes_of(&b) || (a.to_f64().is_nan() && b.to_f64().is_nan())
}

/// Casts a tensor and a transposed, sliced view of it.
fn check_cast<A: Scalar, B: Scalar>(values: &[f64]) -> Result<(), TestCaseError> {
    let values: Vec<A> = values.iter().map(|&x| A::from_f64(x)).collect();
    for (device, _) in devices() {
        let x = Tensor::from_host(&device, [3, 5], &values).unwrap();
        for x in [x.clone(), x.t(), x.slice(1, 1..4).unwrap().t()] {
            let cast: Tensor<B, 2> = x.cast().unwrap();
            prop_assert_eq!(cast.shape(), x.shape());
            for (from, to) in x.to_vec().unwrap().into_iter().zip(cast.to_vec().unwrap()) {
                let expected = B::from_f64(from.to_f64());
                prop_assert!(
                    same(to, expected),
                    "{from} {} → {to} {}, not {expected}",
                    A::DTYPE,
                    B::DTYPE
                );
            }
        }
    }
    Ok(())
}

macro_rules! casts {
    ($values:expr, [$($from:ty),*]) => {$(
        check_cast::<$from, f64>($values)?;
        check_cast::<$from, f32>($values)?;
        check_cast::<$from, bf16>($values)?;
        check_cast::<$from, f16>($values)?;
        check_cast::<$from, F8E4M3>($values)?;
        check_cast::<$from, F8E5M2>($values)?;
        check_cast::<$from, i32>($values)?;
        check_cast::<$from, i8>($values)?;
        check_cast::<$from, u16>($values)?;
    )*};
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_cast_rounds_each_value_once(values in prop::collection::vec(value(), 15)) {
        casts!(&values, [f64, f32, bf16, f16, F8E4M3, F8E5M2, i32, u8]);
    }

    #[test]
    fn a_copy_between_any_strides_moves_every_bit(
        bits in prop::collection::vec(any::<u32>(), 24),
        axes in Just([0usize, 1, 2]).prop_shuffle(),
        to in Just([0usize, 1, 2]).prop_shuffle(),
    ) {
        // NaNs with their payload among them.
        let floats: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
        for (device, _) in devices() {
            let x = Tensor::from_host(&device, [2, 3, 4], &floats).unwrap().permute(axes).unwrap();
            let shape = x.shape();
            let mut stored = [0; 3];
            to.iter().enumerate().for_each(|(i, &axis)| stored[axis] = shape[i]);
            let out = Tensor::<f32, 3>::zeros(&device, stored).unwrap().permute(to).unwrap();
            out.copy_from(&x).unwrap();
            let bits = |t: &Tensor<f32, 3>| -> Vec<u32> {
                t.to_vec().unwrap().into_iter().map(f32::to_bits).collect()
            };
            prop_assert_eq!(bits(&out), bits(&x));
        }
    }

    #[test]
    fn requantising_is_dequantising_and_quantising(
        values in prop::collection::vec(-100.0f32..100.0, 2 * 40),
        from in prop::sample::select(Format::ALL.to_vec()),
        to in prop::sample::select(Format::ALL.to_vec()),
    ) {
        for (device, _) in devices() {
            let x = AnyTensor::from(Tensor::from_host(&device, [2, 40], &values).unwrap());
            let q = x.quantize(from, Quantizer::default_for(from)).unwrap();
            let how = Quantizer::default_for(to);
            let once = q.quantize(to, how).unwrap().to_f32_vec().unwrap();
            let twice = q.cast(DType::F32).unwrap().quantize(to, how).unwrap();
            prop_assert_eq!(once, twice.to_f32_vec().unwrap());
        }
    }
}

#[test]
fn integers_are_cast_to_integers_exactly_or_saturate() {
    for (device, _) in devices() {
        let values = [i64::MIN, -1, 0, (1 << 53) + 1, i64::MAX];
        let x = Tensor::from_host(&device, [5], &values).unwrap();
        let unsigned: Tensor<u64, 1> = x.cast().unwrap();
        assert_eq!(unsigned.to_vec().unwrap(), [0, 0, 0, (1 << 53) + 1, i64::MAX as u64]);
        let narrow: Tensor<i16, 1> = x.cast().unwrap();
        assert_eq!(narrow.to_vec().unwrap(), [i16::MIN, -1, 0, i16::MAX, i16::MAX]);
        // One rounding: through f64 it would come to a tie first, and from there go to even.
        let above_tie = (1i64 << 54) + (1 << 30) + 1;
        let odd = Tensor::from_host(&device, [2], &[above_tie, -above_tie]).unwrap();
        let up = ((1i64 << 54) + (1 << 31)) as f32;
        assert_eq!(odd.cast::<f32>().unwrap().to_vec().unwrap(), [up, -up]);
        // bf16 has a step of 2^47 there; f16 has no such number.
        let narrow: Tensor<bf16, 1> =
            Tensor::from_host(&device, [1], &[(1i64 << 54) + (1 << 46) + 1])
                .unwrap()
                .cast()
                .unwrap();
        assert_eq!(narrow.to_vec().unwrap()[0].to_f64(), ((1i64 << 54) + (1 << 47)) as f64);
        assert_eq!(
            odd.cast::<f16>().unwrap().to_vec().unwrap(),
            [f16::INFINITY, f16::NEG_INFINITY]
        );
        let x = Tensor::from_host(&device, [2], &[u64::MAX, (1 << 63) + 5]).unwrap();
        assert_eq!(x.cast::<i64>().unwrap().to_vec().unwrap(), [i64::MAX; 2]);
        assert_eq!(x.cast::<f64>().unwrap().to_vec().unwrap(), [2f64.powi(64), 2f64.powi(63)]);
    }
}

#[test]
fn floats_are_cast_to_integers_toward_zero() {
    for (device, _) in devices() {
        let values = [2.9f32, -2.9, f32::NAN, f32::INFINITY, -1e30, 255.5];
        let x = Tensor::from_host(&device, [6], &values).unwrap();
        let to_i32: Tensor<i32, 1> = x.cast().unwrap();
        assert_eq!(to_i32.to_vec().unwrap(), [2, -2, 0, i32::MAX, i32::MIN, 255]);
        let to_u8: Tensor<u8, 1> = x.cast().unwrap();
        assert_eq!(to_u8.to_vec().unwrap(), [2, 0, 0, 255, 0, 255]);
    }
}

#[test]
fn tensors_without_elements_are_converted_to_such() {
    for (device, _) in devices() {
        for shape in [[0, 32], [3, 0], [0, 0]] {
            let x = Tensor::<f32, 2>::zeros(&device, shape).unwrap();
            assert_eq!(x.cast::<bf16>().unwrap().shape(), shape);
            let q = x.quantize::<Nvfp4>().unwrap();
            assert_eq!(q.dequantize::<f32>().unwrap().shape(), shape);
            let sideways = Tensor::zeros(&device, [shape[1], shape[0]]).unwrap();
            sideways.copy_from(&x.t()).unwrap();
        }
        let scalar = Tensor::from_host(&device, [], &[2.5f32]).unwrap();
        assert_eq!(scalar.cast::<i32>().unwrap().item().unwrap(), 2);
    }
}

#[test]
fn values_that_a_format_does_not_have_are_refused_with_their_place() {
    for (device, _) in devices() {
        for (bad, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")]
        {
            let x = Tensor::full(&device, [3, 40], 1.0f32).unwrap();
            x.host_mut().unwrap()[[1, 37]] = bad;
            says(&error(x.quantize::<Nvfp4>()), &[name, "1", "37"]);
            says(&error(x.quantize::<Mxfp8>()), &[name]);
        }
    }
}

#[test]
fn conversions_into_given_memory_may_be_views() {
    for (device, _) in devices() {
        let q = Tensor::full(&device, [2, 32], 1.5f32).unwrap().quantize::<Mxfp4>().unwrap();
        let out = Tensor::<bf16, 2>::zeros(&device, [32, 4]).unwrap();
        q.dequantize_into(&out.t().slice(0, 1..3).unwrap()).unwrap();
        let expected = |_, j: usize| if (1..3).contains(&j) { 1.5 } else { 0.0 };
        let host = out.host().unwrap();
        for i in 0..32 {
            for j in 0..4 {
                assert_eq!(host[[i, j]].to_f32(), expected(i, j));
            }
        }
    }
}

#[test]
fn scales_and_packed_codes_are_copied_and_never_cast() {
    for (device, _) in devices() {
        let scales = Tensor::from_host(&device, [2], &[UE4M3::from_bits(0x38); 2]).unwrap();
        assert_eq!(scales.copy().unwrap().to_vec().unwrap(), scales.to_vec().unwrap());
        says(&error(AnyTensor::from(scales).cast(DType::E2M1x2)), &["only copied", "block format"]);
    }
}

#[test]
fn conversions_that_make_no_sense_are_refused_with_a_reason() {
    let (x, out) = (spec(DType::F32, &[4, 32]), spec(DType::BF16, &[4, 32]));
    let nvfp4 = || scaled_spec(Format::Nvfp4, &[4, 32]);
    let quantise = |dst: Scaled, quantizer, tensor_scale| Convert {
        quantizer,
        tensor_scale,
        ..Convert::new(x.clone(), dst)
    };
    refused(Convert::new(x.clone(), spec(DType::F32, &[32, 4])), &["dst", "[32, 4]", "[4, 32]"]);
    let asked =
        Convert { quantizer: Some(Quantizer::Amax), ..Convert::new(x.clone(), out.clone()) };
    refused(asked, &["only block formats"]);
    refused(Convert::new(spec(DType::I32, &[4, 32]), nvfp4()), &["[4, 32] i32", "cast it first"]);
    refused(quantise(nvfp4(), Some(Quantizer::Ocp), None), &["ocp does not make nvfp4", "default"]);
    refused(quantise(nvfp4(), None, Some(-1.0)), &["-1", "above 0"]);
    refused(quantise(nvfp4(), None, Some(f32::NAN)), &["NaN", "finite"]);
    let mxfp4 = scaled_spec(Format::Mxfp4, &[4, 32]);
    refused(quantise(mxfp4, None, Some(1.0)), &["mxfp4", "no scale for the whole tensor"]);
    let sideways = scaled_spec(Format::Nvfp4, &[32, 4]).transposed();
    refused(quantise(sideways, None, None), &["stored order", "then transpose"]);
}

#[test]
fn a_copy_on_another_device_is_independent() {
    let (a, b) = (Device::reference(), Device::builder().memory_limit(100).reference());
    let x = Tensor::from_host(&a, [2, 3], &[1, 2, 3, 4, 5, 6]).unwrap();
    let y = x.t().to_device(&b).unwrap();
    assert!(y.device().is_same(&b) && y.is_contiguous());
    y.host_mut().unwrap()[[0, 1]] = 9;
    assert_eq!(x.to_vec().unwrap(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(y.to_vec().unwrap(), [1, 9, 2, 5, 3, 6]);
    assert_eq!(b.memory().used, 24);
    let large = Tensor::<u8, 1>::zeros(&a, [101]).unwrap();
    says(&error(large.to_device(&b)), &["101 B", "76 B more"]);
    let q: ScaledTensor<Nvfp4, 2> = Tensor::full(&a, [2, 16], 3.0f32).unwrap().quantize().unwrap();
    let there = q.t().to_device(&b).unwrap();
    assert_eq!((there.shape(), there.bytes()), ([16, 2], q.bytes()));
    let bytes = |q: &ScaledTensor<Nvfp4, 2>| -> Vec<Vec<u8>> {
        q.buffers().map(|(_, r)| r.buffer().read().unwrap()[r.range()].to_vec()).collect()
    };
    assert_eq!(bytes(&there), bytes(&q));
}
