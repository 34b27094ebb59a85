//! Tensors for attention tests.

use std::sync::LazyLock;

use ferrocerium::{Device, Tensor};

/// The reference device that all tensors are on.
pub static DEVICE: LazyLock<Device> = LazyLock::new(Device::reference);

/// An f64 tensor on the reference device.
pub fn tensor<const R: usize>(shape: [usize; R], values: &[f64]) -> Tensor<f64, R> {
    Tensor::from_host(&DEVICE, shape, values).unwrap()
}

/// An i32 vector on the reference device.
pub fn ints<const N: usize>(values: [i32; N]) -> Tensor<i32, 1> {
    Tensor::from_host(&DEVICE, [N], &values).unwrap()
}

/// Fails unless both hold the same numbers, to a part in 10¹² of the larger ones' size.
#[track_caller]
pub fn assert_close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        let same = x == y || (x - y).abs() <= 1e-12 * (1.0 + x.abs().max(y.abs()));
        assert!(same || x.is_nan() && y.is_nan(), "element {i}: {x} and {y} differ");
    }
}
