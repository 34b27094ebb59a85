//! Tensors for tests, and numbers to fill them with.
#![allow(dead_code)]

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

/// Numbers between −2 and 2 that follow from a seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn number(&mut self) -> f64 {
        (self.next() >> 11) as f64 / 2f64.powi(51) - 2.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn tensor<const R: usize>(&mut self, shape: [usize; R]) -> Tensor<f64, R> {
        Tensor::from_fn(&DEVICE, shape, |_| self.number()).unwrap()
    }

    pub fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
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
