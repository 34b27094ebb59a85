//! What the tests of operations share.
#![allow(dead_code)]

use ferrocerium::op::{Dense, Op, Operand, Scaled};
use ferrocerium::{DType, Device, Float, Tensor, format::Format};

/// A contiguous operand without data.
pub fn spec(dtype: DType, dims: &[usize]) -> Operand {
    Dense::spec(dtype, dims).unwrap().into()
}

/// A block-scaled operand without data.
pub fn scaled_spec(format: Format, dims: &[usize]) -> Scaled {
    Scaled::spec(format, dims).unwrap()
}

/// Asserts that an operation is refused with a message that holds each of `parts`.
#[track_caller]
pub fn refused(op: impl Into<Op>, parts: &[&str]) {
    let message = op.into().validate().expect_err("it was accepted").to_string();
    says(&message, parts);
}

/// Asserts that a message holds each of `parts`.
#[track_caller]
pub fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "no {part:?} in {message:?}");
    }
}

/// The message of a call that must fail.
#[track_caller]
pub fn error<T>(result: ferrocerium::Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    }
}

/// Numbers of plain size that differ, of both signs, the same for the same seed.
pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        // Multiplier and increment of Knuth's MMIX generator.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1u64 << 24) as f32) * 4.0 - 2.0
    };
    (0..n).map(|_| next()).collect()
}

/// [`numbers`] as a tensor.
pub fn tensor<E: Float, const R: usize>(
    device: &Device,
    shape: [usize; R],
    seed: u64,
) -> Tensor<E, R> {
    let values: Vec<E> =
        numbers(shape.iter().product(), seed).into_iter().map(E::from_f32).collect();
    Tensor::from_host(device, shape, &values).unwrap()
}

/// The elements as f64, in row-major order.
pub fn values<E: Float, const R: usize>(tensor: &Tensor<E, R>) -> Vec<f64> {
    tensor.to_vec().unwrap().into_iter().map(E::to_f64).collect()
}

/// The devices that every operation must run on, with the unit roundoff in which each computes.
pub fn devices() -> Vec<(Device, f64)> {
    const U_F64: f64 = f64::EPSILON / 2.0;
    vec![
        (Device::reference(), U_F64),
        #[cfg(feature = "cpu")]
        (Device::builder().threads(2).cpu().unwrap(), f64::from(f32::EPSILON) / 2.0),
    ]
}

/// Asserts that `found` is within `bound` of `expected`, or both NaN, or the same infinity.
#[track_caller]
pub fn close(found: f64, expected: f64, bound: f64, what: impl std::fmt::Display) {
    let same = found == expected || (found.is_nan() && expected.is_nan());
    assert!(
        same || (found - expected).abs() <= bound,
        "{what}: {found} differs from {expected} by more than {bound:e}"
    );
}
