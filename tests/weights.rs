//! Weights from GGUF files: in place, decoded, rearranged.
#![cfg(feature = "gguf")]
#![allow(missing_docs)]

#[path = "common/folder.rs"]
mod folder;
#[path = "common/gguf_file.rs"]
mod gguf_file;

use ferrocerium::caps::MemoryKind;
use ferrocerium::format::{Mxfp4, Nvfp4};
use ferrocerium::io::{Gguf, Weights};
use ferrocerium::{Device, Error, Tensor, bf16};
use folder::Folder;
use gguf_file::GgufFile;

const F32: u32 = 0;
const Q8_0: u32 = 8;
const Q2_K: u32 = 10;
const BF16: u32 = 30;
const MXFP4: u32 = 39;
const NVFP4: u32 = 40;

fn open(name: &str, file: GgufFile) -> (Folder, Weights) {
    let folder = Folder::new(name);
    // The name of the file says nothing: its first bytes do.
    let path = folder.write("model.bin", file.bytes());
    let weights = Weights::open(&Device::reference(), path).unwrap();
    (folder, weights)
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn plain_tensors_are_used_in_place() {
    let file = GgufFile::default()
        .str("general.architecture", "llama")
        .tensor("norm", &[3, 2], F32, &f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
        .tensor("half", &[1], BF16, &bf16::from_f32(1.5).to_le_bytes());
    let (_folder, weights) = open("gguf-in-place", file);
    let used = weights.device().memory().used;
    let norm: Tensor<f32, 2> = weights.get("norm").unwrap();
    assert_eq!((norm.shape(), norm.host().unwrap()[[1, 0]]), ([2, 3], 4.0));
    assert_eq!(norm.region().buffer().kind(), MemoryKind::Mapped);
    assert_eq!(weights.any("half").unwrap().to_string(), "[1] bf16");
    assert_eq!(weights.device().memory().used, used, "no byte is copied");
    let file = weights.gguf().unwrap();
    assert_eq!(file.metadata().str("general.architecture").unwrap(), Some("llama"));
}

#[test]
fn mapped_weights_are_read_only_and_outlive_their_file_handle() {
    let (folder, weights) =
        open("gguf-outlive", GgufFile::default().tensor("x", &[2], F32, &f32s(&[1.0, 2.0])));
    let x: Tensor<f32, 1> = weights.get("x").unwrap();
    drop(weights);
    drop(folder);
    assert!(matches!(x.host_mut().err(), Some(Error::Busy { .. })));
    assert_eq!(x.to_vec().unwrap(), [1.0, 2.0]);
}

#[test]
fn misaligned_tensors_name_the_copying_call() {
    let file = GgufFile { alignment: 1, ..GgufFile::default() }
        .u32("general.alignment", 1)
        .tensor("byte", &[1], 24, &[7])
        .tensor("x", &[2], F32, &f32s(&[1.0, 2.0]))
        .tensor("y", &[2], F32, &f32s(&[3.0, 4.0]))
        .tensor("z", &[2], 24, &[0; 2])
        .tensor("v", &[2], F32, &f32s(&[5.0, 6.0]));
    let (_folder, weights) = open("gguf-misaligned", file);
    // Whatever the header's length: v lies 2 bytes after a multiple of 4 from x.
    let at = |name: &str| weights.entry(name).unwrap().region.offset();
    assert_ne!(at("x") % 4, at("v") % 4);
    let name = if at("x") % 4 == 0 { "v" } else { "x" };
    let e = weights.get::<f32, 1>(name).err().unwrap();
    assert!(matches!(e, Error::Layout { .. }) && e.to_string().contains("copy()"), "{e}");
    assert!(matches!(weights.any(name).err(), Some(Error::Layout { .. })));
    let copy = weights.copy::<f32, 1>(name).unwrap();
    assert_eq!(copy.to_vec().unwrap(), weights.to_f32(name).unwrap());
    assert_eq!(weights.to_f32("y").unwrap(), [3.0, 4.0]);
}

#[test]
fn blocks_are_decoded_only_by_a_call_that_says_so() {
    let block: Vec<u8> = [0x00, 0x38].into_iter().chain(0..32).collect();
    let file = GgufFile::default().tensor("q", &[32, 2], Q8_0, &[&block[..], &block].concat());
    let (_folder, weights) = open("gguf-blocks", file);
    for e in [
        weights.get::<f32, 2>("q").err().unwrap(),
        weights.copy::<f32, 2>("q").err().unwrap(),
        weights.any("q").err().unwrap(),
    ] {
        assert!(matches!(e, Error::DType { .. }) && e.to_string().contains("decode()"), "{e}");
    }
    let q: Tensor<bf16, 2> = weights.decode("q").unwrap();
    assert_eq!((q.shape(), q.host().unwrap()[[1, 3]].to_f32()), ([2, 32], 1.5));
    let e = weights.scaled::<Mxfp4, 2>("q").err().unwrap();
    assert!(matches!(e, Error::DType { .. }) && e.to_string().contains("repack()"), "{e}");
    let e = weights.repack::<Mxfp4, 2>("q").err().unwrap();
    assert!(matches!(e, Error::DType { .. }) && e.to_string().contains("Q8_0"), "{e}");
}

#[test]
fn a_file_with_types_that_are_not_decoded_still_opens() {
    let file = GgufFile::default().tensor("q", &[256], Q2_K, &[0; 84]).tensor(
        "x",
        &[1],
        F32,
        &f32s(&[1.0]),
    );
    let (_folder, weights) = open("gguf-q2k", file);
    assert_eq!(weights.to_f32("x").unwrap(), [1.0]);
    let e = weights.to_f32("q").unwrap_err();
    assert!(matches!(e, Error::DType { .. }) && e.to_string().contains("Q2_K"), "{e}");
}

/// Bytes that differ everywhere, so that any code out of place shows; scales are given.
fn blocks(n: usize, bytes: usize, scale_bytes: usize, scale: impl Fn(usize) -> u8) -> Vec<u8> {
    (0..n * bytes)
        .map(|i| {
            let (block, at) = (i / bytes, i % bytes);
            if at < scale_bytes {
                scale(block * scale_bytes + at)
            } else {
                (i.wrapping_mul(2_654_435_761) >> 11) as u8
            }
        })
        .collect()
}

#[test]
fn repacked_mxfp4_has_the_values_of_the_blocks() {
    let data = blocks(6, 17, 1, |i| 120 + i as u8);
    let file = GgufFile::default().tensor("w", &[64, 3], MXFP4, &data);
    let (_folder, weights) = open("gguf-mxfp4", file);
    let scaled = weights.repack::<Mxfp4, 2>("w").unwrap();
    assert_eq!(scaled.shape(), [3, 64]);
    let values = scaled.dequantize::<f32>().unwrap().to_vec().unwrap();
    assert_eq!(values, weights.to_f32("w").unwrap());
    assert!(matches!(weights.repack::<Nvfp4, 2>("w").err(), Some(Error::DType { .. })));
    assert!(matches!(weights.repack::<Mxfp4, 1>("w").err(), Some(Error::Shape { .. })));
}

#[test]
fn nvfp4_is_multiplied_by_the_scale_beside_it() {
    let data = blocks(4, 36, 4, |i| 0x30 + i as u8);
    let file = GgufFile::default()
        .tensor("a.weight", &[128, 2], NVFP4, &data)
        .tensor("b.weight", &[128, 2], NVFP4, &data)
        .tensor("b.scale", &[1], F32, &f32s(&[0.375]));
    let (_folder, weights) = open("gguf-nvfp4", file);
    let plain = weights.to_f32("a.weight").unwrap();
    assert!(plain.iter().any(|x| *x != plain[0]));
    let scaled: Vec<f32> = plain.iter().map(|x| x * 0.375).collect();
    assert_eq!(weights.to_f32("b.weight").unwrap(), scaled);
    for (name, expected) in [("a.weight", plain), ("b.weight", scaled)] {
        let repacked = weights.repack::<Nvfp4, 2>(name).unwrap();
        assert_eq!(repacked.dequantize::<f32>().unwrap().to_vec().unwrap(), expected);
    }
}

#[test]
fn nvfp4_of_several_experts_takes_a_scale_for_each() {
    let data = blocks(2, 36, 4, |_| 0x38);
    let one = [&data[..36], &data[..36]].concat();
    let file = GgufFile::default()
        .tensor("e.weight", &[64, 1, 2], NVFP4, &one)
        .tensor("e.scale", &[2], F32, &f32s(&[1.0, 0.5]))
        .tensor("f.weight", &[64, 1, 2], NVFP4, &one)
        .tensor("f.scale", &[3], F32, &f32s(&[1.0; 3]));
    let (_folder, weights) = open("gguf-experts", file);
    let values = weights.to_f32("e.weight").unwrap();
    assert!(values[..64].iter().zip(&values[64..]).all(|(a, b)| a * 0.5 == *b));
    let e = weights.repack::<Nvfp4, 3>("e.weight").err().unwrap();
    assert!(matches!(e, Error::Layout { .. }) && e.to_string().contains("decode()"), "{e}");
    assert!(matches!(weights.to_f32("f.weight"), Err(Error::File { .. })));
}

#[test]
fn decoding_counts_against_the_budget_and_fails_over_it() {
    let folder = Folder::new("gguf-budget");
    let file = GgufFile::default().tensor("q", &[32, 4], Q8_0, &[0; 34 * 4]);
    let path = folder.write("model.gguf", file.bytes());
    let device = Device::builder().memory_limit(256).reference();
    let weights = Weights::open(&device, path).unwrap();
    assert!(matches!(weights.decode::<f32, 2>("q").err(), Some(Error::OutOfMemory { .. })));
    weights.decode::<bf16, 2>("q").unwrap();
}

#[test]
fn opening_what_is_no_model_is_an_error_value() {
    let folder = Folder::new("gguf-none");
    let missing = Gguf::open(folder.path().join("none.gguf")).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
    assert!(matches!(
        Gguf::open(folder.path()).unwrap_err(),
        Error::File { .. } | Error::Io { .. }
    ));
    let path = folder.write("short.gguf", b"GGUF");
    assert!(matches!(Weights::open(&Device::reference(), &path).unwrap_err(), Error::File { .. }));
}

#[test]
fn weights_can_be_used_from_several_threads() {
    let file = GgufFile::default().tensor("q", &[32, 4], Q8_0, &blocks(4, 34, 2, |_| 0x38));
    let (_folder, weights) = open("gguf-threads", file);
    let expected = weights.to_f32("q").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(weights.to_f32("q").unwrap(), expected);
                }
            });
        }
    });
}
