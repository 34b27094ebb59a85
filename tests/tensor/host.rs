//! Host guards: who may look while whom.

use ferrocerium::{Device, Tensor};

use crate::ops::{error, says};

fn tensor() -> Tensor<f32, 2> {
    tensor_on(&Device::reference())
}

fn tensor_on(device: &Device) -> Tensor<f32, 2> {
    Tensor::from_host(device, [2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap()
}

#[test]
fn readers_share_and_a_writer_is_alone() {
    let x = tensor();
    {
        let (a, b) = (x.host().unwrap(), x.t().copy().unwrap());
        let also = x.host().unwrap();
        assert_eq!(a[[0, 1]], b.host().unwrap()[[1, 0]]);
        assert_eq!(also[[1, 1]], 4.0);
        says(&error(x.host_mut()), &["write", "reading", "drop that guard"]);
    }
    {
        let mut w = x.host_mut().unwrap();
        w[[0, 0]] = 9.0;
        assert_eq!(w[[0, 0]], 9.0);
        says(&error(x.host()), &["read", "writing", "drop that guard"]);
        says(&error(x.host_mut()), &["write", "writing", "drop that guard"]);
    }
    assert_eq!(x.to_vec().unwrap(), [9.0, 2.0, 3.0, 4.0]);
}

#[test]
fn an_operation_does_not_write_under_a_host_view() {
    let x = tensor();
    let y = tensor_on(x.device());
    let view = x.host().unwrap();
    says(&error(x.copy_from(&y)), &["an operation wants to write", "reading", "drop"]);
    // Reading beside a reader is fine.
    assert_eq!(x.add(&y).unwrap().to_vec().unwrap(), [2.0, 4.0, 6.0, 8.0]);
    drop(view);
    x.copy_from(&y).unwrap();
    let writer = x.host_mut().unwrap();
    says(&error(x.add(&y)), &["an operation wants to read", "writing", "drop"]);
    drop(writer);
    x.add(&y).unwrap();
}

#[test]
fn a_failed_operation_leaves_its_other_buffers_free() {
    let x = tensor();
    let y = tensor_on(x.device());
    let view = x.host_mut().unwrap();
    error(y.add(&x));
    drop(view);
    y.host_mut().unwrap()[[0, 0]] = 5.0;
}

#[test]
fn an_operation_never_reads_and_writes_one_buffer() {
    let x = tensor();
    let (top, bottom) = (x.slice(0, 0..1).unwrap(), x.slice(0, 1..2).unwrap());
    says(&error(top.copy_from(&bottom)), &["also another operand", "memory of its own"]);
    // The same input twice is no conflict.
    assert_eq!(x.mul(&x).unwrap().to_vec().unwrap(), [1.0, 4.0, 9.0, 16.0]);
}

#[test]
fn clones_and_views_see_each_others_changes() {
    let x = tensor();
    let (clone, view) = (x.clone(), x.t());
    x.host_mut().unwrap()[[0, 1]] = 7.0;
    assert_eq!(clone.host().unwrap()[[0, 1]], 7.0);
    assert_eq!(view.host().unwrap()[[1, 0]], 7.0);
    let copy = x.copy().unwrap();
    x.host_mut().unwrap()[[0, 1]] = 8.0;
    assert_eq!(copy.host().unwrap()[[0, 1]], 7.0);
}

#[test]
fn a_mutable_view_gives_indices_in_row_major_order() {
    let x = tensor().t();
    let mut seen = Vec::new();
    x.host_mut().unwrap().for_each_mut(|index, element| seen.push((index, *element)));
    assert_eq!(seen, [([0, 0], 1.0), ([0, 1], 3.0), ([1, 0], 2.0), ([1, 1], 4.0)]);
    assert!(x.host_mut().unwrap().as_mut_slice().is_none());
    let plain = tensor();
    plain.host_mut().unwrap().as_mut_slice().unwrap().fill(0.5);
    assert_eq!(plain.to_vec().unwrap(), [0.5; 4]);
}

#[test]
fn indexing_out_of_bounds_panics_with_index_and_shape_and_get_does_not() {
    let x = tensor();
    let host = x.host().unwrap();
    assert_eq!(host.get([2, 0]), None);
    assert_eq!(host.get([0, usize::MAX]), None);
    let look = std::panic::AssertUnwindSafe(|| x.host().unwrap()[[0, 2]]);
    let panic = std::panic::catch_unwind(look).unwrap_err();
    says(panic.downcast_ref::<String>().unwrap(), &["[0, 2]", "out of bounds", "[2, 2]"]);
    drop(host);
    // The guard that panicked was given back.
    assert!(x.host_mut().is_ok());
}
