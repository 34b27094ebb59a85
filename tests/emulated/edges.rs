//! Operations on GPUs at their edges: of no elements, of too many.

use ferrocerium::caps::Arch;
use ferrocerium::op::{Dense, Op, Reduce, Reduction};
use ferrocerium::{DType, Device, Error, Tensor, bf16};

use super::emulated;
use super::memory::discrete;

/// A device that shares the host's memory, and one that the host's kernels can not stand in for.
fn devices() -> Vec<Device> {
    emulated(Arch::SM121A).into_iter().chain(discrete()).collect()
}

#[test]
fn of_no_elements_there_is_nothing_to_move() {
    for device in devices() {
        let out: Tensor<f32, 2> = Tensor::full(&device, [4, 2], 7.0).unwrap();
        let none = Tensor::<f32, 2>::zeros(&device, [0, 2]).unwrap();
        let nowhere = Tensor::<u32, 1>::zeros(&device, [0]).unwrap();
        out.scatter_from(0, &nowhere, &none).unwrap();
        assert_eq!(out.to_vec().unwrap(), [7.0; 8]);
        assert_eq!(out.index_select(0, &nowhere).unwrap().shape(), [0, 2]);
    }
}

#[test]
fn indices_are_checked_though_there_is_nothing_to_move() {
    // By the reference: kernels have nothing to run over.
    if let Some(device) = emulated(Arch::SM121A) {
        let out = Tensor::<f32, 2>::zeros(&device, [4, 0]).unwrap();
        let rows = Tensor::<f32, 2>::zeros(&device, [2, 0]).unwrap();
        let good = Tensor::from_host(&device, [2], &[0u32, 3]).unwrap();
        out.scatter_from(0, &good, &rows).unwrap();
        device.synchronize().unwrap();
        assert_eq!(out.index_select(0, &good).unwrap().shape(), [2, 0]);
        let astray = Tensor::from_host(&device, [2], &[3u32, 4]).unwrap();
        let scattered = out.scatter_from(0, &astray, &rows).and_then(|()| device.synchronize());
        let error = scattered.unwrap_err();
        assert!(matches!(error, Error::Value { .. }), "{error:?}");
        assert!(error.to_string().contains("element 1"), "{error}");
        let picked = out.index_select(0, &astray).and_then(|_| device.synchronize());
        assert!(matches!(picked, Err(Error::Value { .. })), "{picked:?}");
    }
}

/// What is summed of no elements, and what is not searched.
#[test]
fn reductions_of_none_are_what_they_begin_with() {
    for device in devices() {
        let x = Tensor::<f32, 2>::zeros(&device, [3, 0]).unwrap();
        for (function, expected) in [
            (Reduction::Sum, 0.0),
            (Reduction::Prod, 1.0),
            (Reduction::Max, f32::NEG_INFINITY),
            (Reduction::Min, f32::INFINITY),
            (Reduction::AbsMax, 0.0),
        ] {
            let of_none: Tensor<f32, 1> = x.reduce(function, &[1]).unwrap();
            assert_eq!(of_none.to_vec().unwrap(), [expected; 3], "{function}");
        }
        let mean: Tensor<f32, 1> = x.reduce(Reduction::Mean, &[1]).unwrap();
        assert!(mean.to_vec().unwrap().iter().all(|x| x.is_nan()));
    }
}

#[test]
fn more_results_than_a_kernel_counts_to_are_refused() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let spec = |dims: &[usize]| Dense::spec(DType::F32, dims).unwrap();
    let many = 1 << 16;
    let op =
        Op::from(Reduce::new(Reduction::Sum, spec(&[many, many, 0]), [2], spec(&[many, many])));
    let explanation = device.explain(&op).unwrap().to_string();
    assert!(explanation.contains("counts to 1073741824"), "{explanation}");
}

/// A source whose columns are neighbours in memory, and which repeats: it is turned in tiles.
#[test]
fn repeated_transposed_matrices_are_copied_as_they_are_read() {
    for device in devices() {
        let x = Tensor::from_fn(&device, [40, 33], |[i, j]| (i * 33 + j) as f32).unwrap();
        let repeated = x.transpose(0, 1).unwrap().broadcast_to([3, 33, 40]).unwrap();
        let expected: Vec<f32> =
            (0..3 * 33 * 40).map(|i| (i % 40 * 33 + i / 40 % 33) as f32).collect();
        assert_eq!(repeated.contiguous().unwrap().to_vec().unwrap(), expected);
        let rounded: Vec<bf16> = expected.iter().map(|&x| bf16::from_f32(x)).collect();
        assert_eq!(repeated.cast::<bf16>().unwrap().to_vec().unwrap(), rounded);
    }
}
