//! What tensors print as.

use ferrocerium::format::{Mxfp4, Nvfp4};
use ferrocerium::{AnyTensor, Device, E2M1x2, Element, Tensor, bf16};

use crate::ops::says;

#[track_caller]
fn prints<E: Element, const R: usize>(tensor: &Tensor<E, R>, expected: &str) {
    assert_eq!(format!("{tensor:?}"), expected);
}

#[test]
fn small_tensors_are_printed_whole_and_aligned() {
    let device = Device::reference();
    let x = Tensor::from_host(&device, [2, 3], &[1.0f32, -2.5, 3.0, 100.0, 0.25, 6.0]).unwrap();
    prints(
        &x,
        "Tensor [2, 3] f32 on reference\n\
         [[  1.00,  -2.50,   3.00],\n \
          [100.00,   0.25,   6.00]]",
    );
    let x = Tensor::from_host(&device, [3], &[1i32, -20, 3]).unwrap();
    prints(&x, "Tensor [3] i32 on reference\n[  1, -20,   3]");
    let x = Tensor::from_host(&device, [], &[bf16::from_f32(0.1)]).unwrap();
    prints(&x, "Tensor [] bf16 on reference\n0.1001");
    let x = Tensor::from_host(&device, [2, 1, 2], &[1u8, 2, 3, 4]).unwrap();
    prints(&x, "Tensor [2, 1, 2] u8 on reference\n[[[1, 2]],\n\n [[3, 4]]]");
    let x = Tensor::from_host(&device, [1], &[bytemuck::cast::<u8, E2M1x2>(0x21)]).unwrap();
    says(&format!("{x:?}"), &["[1] e2m1x2", "0.5", "1"]);
}

#[test]
fn numbers_far_apart_are_printed_with_exponents_and_special_ones_by_name() {
    let device = Device::reference();
    let x = Tensor::from_host(&device, [3], &[1e-7f32, 1.0, f32::NAN]).unwrap();
    prints(&x, "Tensor [3] f32 on reference\n[1.0000e-7,  1.0000e0,       NaN]");
    let x = Tensor::from_host(&device, [3], &[f32::INFINITY, 0.0, -0.5]).unwrap();
    prints(&x, "Tensor [3] f32 on reference\n[ inf,  0.0, -0.5]");
}

#[test]
fn large_tensors_are_printed_without_their_middle() {
    let device = Device::reference();
    let x = Tensor::from_fn(&device, [1000, 1000], |[i, j]| (i * 1000 + j) as f32).unwrap();
    prints(
        &x,
        "Tensor [1000, 1000] f32 on reference\n\
         [[     0.0,      1.0,      2.0, …,    997.0,    998.0,    999.0],\n \
          [  1000.0,   1001.0,   1002.0, …,   1997.0,   1998.0,   1999.0],\n \
          [  2000.0,   2001.0,   2002.0, …,   2997.0,   2998.0,   2999.0],\n \
          …,\n \
          [997000.0, 997001.0, 997002.0, …, 997997.0, 997998.0, 997999.0],\n \
          [998000.0, 998001.0, 998002.0, …, 998997.0, 998998.0, 998999.0],\n \
          [999000.0, 999001.0, 999002.0, …, 999997.0, 999998.0, 999999.0]]",
    );
    // Strides are followed, and short dimensions kept.
    let column = x.t().slice(1, 0..2).unwrap();
    says(
        &format!("{column:?}"),
        &["strides [1, 1000]", "[[   0.0, 1000.0],\n", "[ 999.0, 1999.0]]"],
    );
}

#[test]
fn long_rows_are_broken_into_lines() {
    let x = Tensor::from_fn(&Device::reference(), [1, 60], |[_, j]| j as u16).unwrap();
    let text = format!("{x:?}");
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    assert_eq!(text.lines().count(), 5, "{text}");
    says(&text, &[" 18,\n  19,"]);
}

#[test]
fn empty_tensors_are_printed_as_brackets() {
    let device = Device::reference();
    prints(&Tensor::<f32, 1>::zeros(&device, [0]).unwrap(), "Tensor [0] f32 on reference\n[]");
    let x = Tensor::<f32, 2>::zeros(&device, [1 << 40, 0]).unwrap();
    prints(&x, "Tensor [1099511627776, 0] f32 on reference\n[]");
}

#[test]
fn block_scaled_tensors_are_printed_by_their_values() {
    let device = Device::reference();
    let x = Tensor::from_fn(&device, [2, 3], |[i, j]| (i * 3 + j) as f32).unwrap();
    let q = x.quantize::<Mxfp4>().unwrap();
    assert_eq!(
        format!("{q:?}"),
        "ScaledTensor [2, 3] mxfp4 on reference\n[[0.0, 1.0, 2.0],\n [3.0, 4.0, 4.0]]",
    );
    assert_eq!(
        format!("{:?}", AnyTensor::from(q.t())),
        "AnyTensor [3, 2] mxfp4 transposed on reference\n[[0.0, 3.0],\n [1.0, 4.0],\n [2.0, 4.0]]",
    );
    assert_eq!(q.t().to_string(), "[3, 2] mxfp4 transposed");
    let row = Tensor::from_host(&device, [2], &[6.0f32, -3.0]).unwrap().quantize::<Nvfp4>();
    says(&format!("{:?}", row.unwrap()), &["ScaledTensor [2] nvfp4", "[ 6.0"]);
    let none = Tensor::<f32, 3>::zeros(&device, [2, 0, 3]).unwrap().quantize::<Nvfp4>().unwrap();
    assert_eq!(format!("{none:?}"), "ScaledTensor [2, 0, 3] nvfp4 on reference\n[]");
}

#[test]
fn a_busy_tensor_says_so_instead_of_waiting_or_failing() {
    let x = Tensor::<f32, 1>::zeros(&Device::reference(), [2]).unwrap();
    let guard = x.host_mut().unwrap();
    says(&format!("{x:?}"), &["Tensor [2] f32 on reference\n<busy: ", "writing", "drop"]);
    drop(guard);
    let guard = x.host().unwrap();
    prints(&x, "Tensor [2] f32 on reference\n[0.0, 0.0]");
    drop(guard);
    assert_eq!(x.to_string(), "[2] f32");
}
