//! From and to vectors, arrays, and tensors of run-time type.

use ferrocerium::format::{Mxfp8, Nvfp4};
use ferrocerium::memory::{Buffer, Pool};
use ferrocerium::{AnyTensor, DType, Device, E2M1x2, F8E4M3, Tensor, bf16};

use crate::ops::{error, says, tensor};

#[test]
fn constructors_make_what_they_say() {
    let device = Device::reference();
    let x = Tensor::from_vec(&device, vec![1i16, 2, 3]).unwrap();
    assert_eq!(x.shape(), [3]);
    assert_eq!(Vec::try_from(&x).unwrap(), [1, 2, 3]);
    let x: Tensor<bf16, 1> = Tensor::arange(&device, -2..2).unwrap();
    assert_eq!(x.to_vec().unwrap(), [-2.0, -1.0, 0.0, 1.0].map(bf16::from_f32));
    let rounded: Tensor<bf16, 1> = Tensor::arange(&device, 257..258).unwrap();
    assert_eq!(rounded.to_vec().unwrap(), [bf16::from_f32(256.0)]);
    assert!(Tensor::<u8, 1>::arange(&device, 3..3).unwrap().is_empty());
    assert_eq!(Tensor::full(&device, [], 7u8).unwrap().item().unwrap(), 7);
    assert_eq!(Tensor::full(&device, [2, 2], 0.5f32).unwrap().to_vec().unwrap(), [0.5; 4]);
    let index = Tensor::from_fn(&device, [2, 2], |[i, j]| (10 * i + j) as u64).unwrap();
    assert_eq!(index.to_vec().unwrap(), [0, 1, 10, 11]);
    let message = error(Tensor::from_host(&device, [2, 2], &[1, 2, 3]));
    says(&message, &["from_host", "3 elements", "[2, 2]", "4"]);
}

#[test]
fn a_tensor_of_run_time_type_is_given_back_as_its_own_type_only() {
    let device = Device::reference();
    let x: Tensor<bf16, 2> = tensor(&device, [2, 3], 1);
    let any = AnyTensor::from(x.t());
    assert_eq!((any.dtype(), any.shape()), (Some(DType::BF16), vec![3, 2]));
    let back: Tensor<bf16, 2> = any.tensor().unwrap();
    assert_eq!(back.strides(), x.t().strides());
    assert_eq!(back.to_vec().unwrap(), x.t().to_vec().unwrap());
    says(&error(any.tensor::<f32, 2>()), &["[3, 2] bf16", "not f32", "cast"]);
    says(&error(any.tensor::<bf16, 3>()), &["[3, 2] bf16", "2 dimensions, not 3"]);
    says(&error(any.scaled::<Nvfp4, 2>()), &["[3, 2] bf16", "not nvfp4"]);

    let q = tensor::<f32, 2>(&device, [2, 32], 1).quantize::<Nvfp4>().unwrap();
    let any = AnyTensor::from(q.clone());
    assert_eq!((any.dtype(), any.shape()), (None, vec![2, 32]));
    let back = any.scaled::<Nvfp4, 2>().unwrap();
    let values = |q: &ferrocerium::ScaledTensor<Nvfp4, 2>| q.dequantize::<f32>().unwrap().to_vec();
    assert_eq!(values(&back).unwrap(), values(&q).unwrap());
    says(&error(any.scaled::<Mxfp8<F8E4M3>, 2>()), &["nvfp4", "not mxfp8"]);
    says(&error(any.scaled::<Nvfp4, 1>()), &["2 dimensions, not 1"]);
    says(&error(any.tensor::<f32, 2>()), &["nvfp4", "not f32"]);
}

#[test]
fn a_tensor_of_run_time_type_is_checked_against_its_buffer() {
    let device = Device::reference();
    let pool = Pool::new("test", 1 << 20);
    let buffer = Buffer::host(&pool, 64, "any").unwrap();
    let any = |dtype, shape: &[usize], offset| {
        AnyTensor::from_buffer(&device, dtype, shape, buffer.clone(), offset)
    };
    assert!(any(DType::F32, &[4, 4], 0).is_ok());
    says(&error(any(DType::F32, &[4, 5], 0)), &["80 bytes from 0", "64 bytes", "`any`"]);
    says(&error(any(DType::F32, &[usize::MAX / 2], 0)), &["addressed"]);
    says(&error(any(DType::U8, &[1; 7], 0)), &["7 dimensions", "6"]);
    let odd = any(DType::F32, &[3], 2).unwrap();
    says(&error(odd.tensor::<f32, 1>()), &["2 is not a multiple of 4"]);
}

#[test]
fn values_of_any_type_come_as_f32() {
    let device = Device::reference();
    let bytes = Tensor::from_host(&device, [2, 2], &[1u8, 2, 3, 255]).unwrap();
    assert_eq!(AnyTensor::from(bytes.t()).to_f32_vec().unwrap(), [1.0, 3.0, 2.0, 255.0]);
    let empty = Tensor::<f32, 2>::zeros(&device, [0, 3]).unwrap();
    assert!(AnyTensor::from(empty).to_f32_vec().unwrap().is_empty());
    let q = tensor::<f32, 2>(&device, [3, 20], 4).quantize::<Nvfp4>().unwrap();
    let expected: Tensor<f32, 2> = q.t().dequantize().unwrap();
    assert_eq!(AnyTensor::from(q.t()).to_f32_vec().unwrap(), expected.to_vec().unwrap());
    let codes = Tensor::<E2M1x2, 1>::zeros(&device, [2]).unwrap();
    says(&error(AnyTensor::from(codes).to_f32_vec()), &["e2m1x2", "block format"]);
}

#[cfg(feature = "ndarray")]
mod arrays {
    use ::ndarray::{Array, Axis, array, s};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arrays_and_tensors_hold_the_same_elements(
            shape in prop::array::uniform3(0usize..5),
            axes in Just([0usize, 1, 2]).prop_shuffle(),
            step in 1isize..3,
            backwards: bool,
        ) {
            let device = Device::reference();
            let array = Array::from_shape_fn(shape, |(i, j, k)| (i * 100 + j * 10 + k) as i32);
            let step = if backwards { -step } else { step };
            let view = array.view().permuted_axes(axes);
            let view = view.slice(s![..;step, .., ..]);
            let x: Tensor<i32, 3> = Tensor::from_ndarray(&device, &view).unwrap();
            prop_assert_eq!(x.to_ndarray().unwrap(), view.to_owned());

            let moved = x.permute(axes).unwrap();
            let host = moved.host().unwrap();
            prop_assert_eq!(host.view().unwrap(), view.view().permuted_axes(axes));
        }
    }

    #[test]
    fn a_mutable_view_writes_the_tensor() {
        let x = Tensor::<f32, 2>::zeros(&Device::reference(), [2, 2]).unwrap();
        let t = x.t();
        t.host_mut().unwrap().view_mut().unwrap().index_axis_mut(Axis(0), 1).fill(2.0);
        assert_eq!(x.to_ndarray().unwrap(), array![[0.0, 2.0], [0.0, 2.0]]);
    }

    #[test]
    fn a_broadcast_tensor_is_viewed_with_strides_of_zero() {
        let x = Tensor::from_host(&Device::reference(), [2], &[1.0f32, 2.0]).unwrap();
        let wide = x.broadcast_to([3, 2]).unwrap();
        let host = wide.host().unwrap();
        assert_eq!(host.view().unwrap(), array![[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]);
    }

    #[test]
    fn an_array_of_another_rank_is_refused() {
        let array = array![[1.0f32, 2.0]];
        let message = error(Tensor::<f32, 1>::from_ndarray(&Device::reference(), &array));
        says(&message, &["from_ndarray", "[1, 2]", "2 dimensions, not 1"]);
    }
}
