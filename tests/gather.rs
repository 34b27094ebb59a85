//! Rows, or other slices, picked by index.
#![cfg(feature = "cpu")]

#[path = "common/ops.rs"]
mod ops;

use ferrocerium::format::{Format, Nvfp4};
use ferrocerium::op::{Gather, Op};
use ferrocerium::{DType, Device, Element, F8E5M2, Tensor, bf16};
use ops::{devices, error, refused, says, scaled_spec, spec, tensor, values};
use proptest::prelude::*;

#[test]
fn embedding_picks_rows_by_hand() {
    for (device, _) in devices() {
        let table = Tensor::from_fn(&device, [4, 2], |[i, j]| (10 * i + j) as f32).unwrap();
        let ids = Tensor::from_host(&device, [2, 2], &[3i32, 0, 3, 1]).unwrap();
        let out: Tensor<f32, 3> = table.embed(&ids).unwrap();
        assert_eq!(out.shape(), [2, 2, 2]);
        assert_eq!(out.to_vec().unwrap(), [30.0, 31.0, 0.0, 1.0, 30.0, 31.0, 10.0, 11.0]);
    }
}

proptest! {
    #[test]
    fn picking_along_any_axis_equals_indexing(
        shape in prop::array::uniform3(1usize..5),
        axis in 0usize..3,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        transposed: bool,
    ) {
        for (device, _) in devices() {
            let mut table = Tensor::from_fn(&device, shape, |[i, j, k]| (i * 100 + j * 10 + k) as i64).unwrap();
            if transposed {
                table = table.transpose(0, 2).unwrap();
            }
            let size = table.shape()[axis];
            let at: Vec<i64> = picks.iter().map(|p| p.index(size) as i64).collect();
            let indices = Tensor::from_host(&device, [at.len()], &at).unwrap();
            let found = table.index_select(axis, &indices).unwrap();
            let host = table.host().unwrap();
            let expected = Tensor::from_fn(&device, found.shape(), |mut index| {
                index[axis] = at[index[axis]] as usize;
                host[index]
            });
            prop_assert_eq!(found.shape()[axis], at.len());
            prop_assert_eq!(found.to_vec().unwrap(), expected.unwrap().to_vec().unwrap());
        }
    }
}

#[test]
fn every_type_is_moved_bit_for_bit() {
    fn check<E: Element>(device: &Device) {
        // Every byte pattern there is, NaNs with their payloads among them.
        let bytes: Vec<u8> = (0..8 * size_of::<E>()).map(|i| (i * 37 + 200) as u8).collect();
        let read = bytemuck::pod_read_unaligned::<E>;
        let elements: Vec<E> = bytes.chunks(size_of::<E>()).map(read).collect();
        let table = Tensor::from_host(device, [4, 2], &elements).unwrap();
        let ids = Tensor::from_host(device, [2], &[2u32, 1]).unwrap();
        let found: Tensor<E, 2> = table.embed(&ids).unwrap();
        let found = found.to_vec().unwrap();
        let raw = |e: &[E]| bytemuck::cast_slice::<E, u8>(e).to_vec();
        assert_eq!(raw(&found[..2]), raw(&elements[4..6]), "{}", E::DTYPE);
        assert_eq!(raw(&found[2..]), raw(&elements[2..4]), "{}", E::DTYPE);
    }
    for (device, _) in devices() {
        check::<f64>(&device);
        check::<f32>(&device);
        check::<bf16>(&device);
        check::<F8E5M2>(&device);
        check::<ferrocerium::E2M1x2>(&device);
        check::<i64>(&device);
        check::<u8>(&device);
    }
}

#[test]
fn a_table_of_another_type_is_rounded_once() {
    for (device, _) in devices() {
        let table: Tensor<f32, 2> = tensor(&device, [5, 7], 3);
        let ids = Tensor::from_host(&device, [3], &[4u32, 4, 2]).unwrap();
        let found: Tensor<bf16, 2> = table.embed_as(&ids).unwrap();
        let expected: Tensor<bf16, 2> = table.cast::<bf16>().unwrap().embed(&ids).unwrap();
        assert_eq!(found.to_vec().unwrap(), expected.to_vec().unwrap());
    }
}

#[test]
fn a_block_scaled_table_is_dequantised() {
    for (device, _) in devices() {
        let table = tensor::<f32, 2>(&device, [5, 35], 3).quantize::<Nvfp4>().unwrap();
        let ids = Tensor::from_host(&device, [2, 1], &[4i64, 2]).unwrap();
        let found: Tensor<f32, 3> = table.embed(&ids).unwrap();
        let expected: Tensor<f32, 3> = table.dequantize::<f32>().unwrap().embed(&ids).unwrap();
        assert_eq!(values(&found), values(&expected));
    }
}

#[test]
fn an_index_out_of_range_is_named_with_its_position_and_the_range() {
    for (device, _) in devices() {
        let table: Tensor<f32, 2> = tensor(&device, [4, 2], 0);
        for bad in [4i64, -1, i64::MAX, i64::MIN] {
            let ids = Tensor::from_host(&device, [2, 2], &[0, 3, bad, 0]).unwrap();
            let message = error(table.embed::<_, 2, 3>(&ids));
            let index = format!("index {bad} at position 2");
            says(&message, &["gather", &index, "[2, 2] i64", "0..4", "[4, 2] f32"]);
        }
        let empty: Tensor<f32, 2> = tensor(&device, [0, 2], 0);
        let ids = Tensor::from_host(&device, [1], &[0u32]).unwrap();
        says(&error(empty.embed::<_, 1, 2>(&ids)), &["index 0", "0..0"]);
    }
}

#[test]
fn nothing_picked_or_nothing_in_a_row_is_empty() {
    for (device, _) in devices() {
        let none = Tensor::<u32, 1>::zeros(&device, [0]).unwrap();
        let table: Tensor<f32, 2> = tensor(&device, [0, 2], 0);
        assert_eq!(table.index_select(0, &none).unwrap().shape(), [0, 2]);
        let table: Tensor<f32, 2> = tensor(&device, [3, 0], 0);
        let ids = Tensor::from_host(&device, [1], &[2u32]).unwrap();
        assert_eq!(table.index_select(0, &ids).unwrap().shape(), [1, 0]);
        // An index is checked even where its row is empty.
        let ids = Tensor::from_host(&device, [1], &[3u32]).unwrap();
        says(&error(table.index_select(0, &ids)), &["index 3", "0..3"]);
    }
}

#[test]
fn each_argument_is_checked_by_name() {
    let table = || spec(DType::BF16, &[4, 8]);
    let ids = || spec(DType::I32, &[3]);
    let out = || spec(DType::BF16, &[3, 8]);
    assert!(Op::from(Gather::new(table(), ids(), out())).validate().is_ok());

    let op = Gather { axis: 2, ..Gather::new(table(), ids(), out()) };
    refused(op, &["axis", "2 is not one of the 2", "[4, 8] bf16"]);
    let wide = spec(DType::I32, &[1; 6]);
    refused(Gather::new(table(), wide, out()), &["7 dimensions", "6"]);
    let ids8 = spec(DType::U8, &[3]);
    refused(Gather::new(table(), ids8, out()), &["indices is [3] u8", "u32 or i32 or i64"]);
    let short = spec(DType::BF16, &[2, 8]);
    refused(Gather::new(table(), ids(), short), &["out is [2, 8] bf16", "[3, 8]"]);
    let int = spec(DType::I32, &[3, 8]);
    refused(Gather::new(table(), ids(), int), &["out is [3, 8] i32", "table is [4, 8] bf16"]);
    let int = spec(DType::I32, &[4, 8]);
    refused(Gather::new(int, ids(), out()), &["out is [3, 8] bf16", "table is [4, 8] i32"]);
    let scaled = scaled_spec(Format::Mxfp4, &[3, 8]);
    refused(Gather::new(table(), ids(), scaled), &["out is [3, 8] mxfp4", "a float"]);

    let device = Device::reference();
    let table: Tensor<f32, 2> = tensor(&device, [4, 2], 0);
    let ids = Tensor::from_host(&device, [1], &[0u32]).unwrap();
    says(&error(table.embed::<_, 1, 3>(&ids)), &["[1, 2]", "2 dimensions", "not 3"]);
    let elsewhere = Tensor::from_host(&Device::cpu(), [1], &[0u32]).unwrap();
    says(&error(table.index_select(0, &elsewhere)), &["reference and cpu"]);
}
