//! Rows, or other slices, put where indices say.
#![cfg(feature = "cpu")]

#[path = "common/ops.rs"]
mod ops;

use ferrocerium::op::{Op, Scatter};
use ferrocerium::{DType, Device, Error, Tensor};
use ops::devices;
use proptest::prelude::*;

#[test]
fn rows_go_where_their_indices_say_and_others_stay() {
    for (device, _) in devices() {
        let out = Tensor::from_fn(&device, [4, 2], |[i, j]| (10 * i + j) as i32).unwrap();
        let rows = Tensor::from_host(&device, [3, 2], &[-1, -2, -3, -4, -5, -6]).unwrap();
        let at = Tensor::from_host(&device, [3], &[2i64, 0, 2]).unwrap();
        out.scatter_from(0, &at, &rows).unwrap();
        // Of two for one place the last one stays.
        assert_eq!(out.to_vec().unwrap(), [-3, -4, 10, 11, -5, -6, 30, 31]);
    }
}

proptest! {
    #[test]
    fn what_is_scattered_is_gathered_again(
        shape in prop::array::uniform3(1usize..5),
        axis in 0usize..3,
        from in any::<prop::sample::Index>(),
        transposed: bool,
    ) {
        for (device, _) in devices() {
            let size = shape[axis];
            // Every place once, from one of them on.
            let at: Vec<u32> = (0..size).map(|i| ((i + from.index(size)) % size) as u32).collect();
            let at = Tensor::from_host(&device, [size], &at).unwrap();
            let mut src = Tensor::from_fn(&device, shape, |[i, j, k]| (i * 100 + j * 10 + k) as f32).unwrap();
            let mut out = Tensor::<f32, 3>::zeros(&device, src.shape()).unwrap();
            if transposed && axis == 1 {
                src = src.transpose(0, 2).unwrap();
                out = out.transpose(0, 2).unwrap();
            }
            out.scatter_from(axis, &at, &src).unwrap();
            prop_assert_eq!(out.index_select(axis, &at).unwrap().to_vec().unwrap(), src.to_vec().unwrap());
        }
    }
}

#[test]
fn indices_out_of_range_and_sizes_that_do_not_fit_are_refused() {
    for (device, _) in devices() {
        let out = Tensor::<f32, 2>::zeros(&device, [4, 2]).unwrap();
        let rows = Tensor::<f32, 2>::zeros(&device, [1, 2]).unwrap();
        for index in [-1i32, 4] {
            let at = Tensor::from_host(&device, [1], &[index]).unwrap();
            let error = out.scatter_from(0, &at, &rows).unwrap_err();
            assert!(matches!(error, Error::Value { .. }), "{error:?}");
            assert!(error.to_string().contains("indices: element 0"), "{error}");
        }
        let at = Tensor::from_host(&device, [1], &[0u32]).unwrap();
        let error = out.scatter_from(2, &at, &rows).unwrap_err().to_string();
        assert!(error.contains("axis: 2 is not one of the 2 dimensions"), "{error}");
        let error = out.scatter_from(1, &at, &rows).unwrap_err().to_string();
        assert!(error.contains("scatter"), "{error}");
        // Both in one buffer.
        let row = out.slice(0, 0..1).unwrap();
        assert!(matches!(out.scatter_from(0, &at, &row), Err(Error::Layout { .. })));
    }
}

#[test]
fn elements_of_another_type_are_refused_with_what_would_work() {
    let device = Device::cpu();
    let spec = |dtype, dims: &[usize]| ferrocerium::op::Dense::spec(dtype, dims).unwrap();
    let op = Op::from(Scatter {
        src: spec(DType::BF16, &[1, 2]).into(),
        indices: spec(DType::U32, &[1]).into(),
        axis: 0,
        out: spec(DType::F32, &[4, 2]).into(),
    });
    let error = device.explain(&op).unwrap_err();
    assert!(matches!(error, Error::DType { .. }) && error.to_string().contains("convert src"));
}
