//! safetensors: what is read is what was written, and nothing a file says can do harm.
#![cfg(feature = "safetensors")]
#![allow(missing_docs)]

#[path = "common/folder.rs"]
mod folder;
#[path = "common/safetensors_file.rs"]
mod safetensors_file;

use std::path::Path;

use ferrocerium::caps::MemoryKind;
use ferrocerium::format::{Format, Fp8Block128, Fp8PerRow, Fp8PerTensor, Mxfp4, Mxfp8, Nvfp4};
use ferrocerium::io::safetensors::{Naming, TensorInfo, TensorScale, parse_header, shard_names};
use ferrocerium::io::{SafeTensors, Weights};
use ferrocerium::{DType, Device, E2M1x2, Error, F8E4M3, Result, Tensor, bf16};
use folder::Folder;
use proptest::prelude::*;
use safetensors_file::{Tensor as Part, entry, file, with_header};

fn parse(file: &[u8]) -> Result<Vec<TensorInfo>> {
    parse_header(file, Path::new("test.safetensors"), 0)
}

/// The message of a refusal, which is always [`Error::File`] and names the file.
fn refusal(file: &[u8]) -> String {
    match parse(file) {
        Err(e @ Error::File { .. }) => {
            let message = e.to_string();
            assert!(message.starts_with("test.safetensors: "), "{message}");
            message
        }
        Err(e) => panic!("refused with another kind of error: {e:?}"),
        Ok(t) => panic!("accepted: {t:?}"),
    }
}

fn open(folder: &Folder, tensors: &[Part<'_>]) -> Weights {
    folder.write("model.safetensors", file(tensors));
    Weights::open(&Device::reference(), folder.path()).unwrap()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn every_element_type_is_read_by_name() {
    let types = [
        ("BOOL", 1, Some(DType::U8)),
        ("U8", 1, Some(DType::U8)),
        ("I8", 1, Some(DType::I8)),
        ("F8_E4M3", 1, Some(DType::F8E4M3)),
        ("F8_E5M2", 1, Some(DType::F8E5M2)),
        ("F8_E8M0", 1, Some(DType::E8M0)),
        ("I16", 2, Some(DType::I16)),
        ("U16", 2, Some(DType::U16)),
        ("F16", 2, Some(DType::F16)),
        ("BF16", 2, Some(DType::BF16)),
        ("I32", 4, Some(DType::I32)),
        ("U32", 4, Some(DType::U32)),
        ("F32", 4, Some(DType::F32)),
        ("F64", 8, Some(DType::F64)),
        ("I64", 8, Some(DType::I64)),
        ("U64", 8, Some(DType::U64)),
        ("C64", 8, None),
    ];
    for (name, size, dtype) in types {
        let bytes = file(&[("t", name, &[3, 2], &vec![7; 6 * size])]);
        let [t] = &parse(&bytes).unwrap()[..] else { panic!("one tensor") };
        assert_eq!((t.dtype, t.dtype_name, &t.shape[..]), (dtype, name, &[3, 2][..]));
        assert_eq!(&bytes[t.bytes.clone()], vec![7; 6 * size]);
    }
}

#[test]
fn f4_is_pairs_of_codes() {
    let bytes = file(&[("t", "F4", &[2, 6], &[0x21; 6])]);
    let [t] = &parse(&bytes).unwrap()[..] else { panic!("one tensor") };
    assert_eq!((t.dtype, &t.shape[..]), (Some(DType::E2M1x2), &[2, 3][..]));
    assert!(refusal(&file(&[("t", "F4", &[2, 3], &[0; 3])])).contains("odd length"));
}

#[test]
fn tensors_are_used_in_place() {
    let folder = Folder::new("in-place");
    let data = f32s(&[1.0, -2.0, 3.0, 4.5, 0.0, 6.0]);
    let weights = open(&folder, &[("a", "F32", &[2, 3], &data), ("b", "U8", &[2], &[7, 8])]);
    let used = weights.device().memory().used;
    let a: Tensor<f32, 2> = weights.get("a").unwrap();
    assert_eq!(a.to_vec().unwrap(), [1.0, -2.0, 3.0, 4.5, 0.0, 6.0]);
    assert_eq!(weights.any("b").unwrap().to_string(), "[2] u8");
    assert_eq!(weights.device().memory().used, used, "no byte is copied");
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn misaligned_tensors_name_the_copying_call() {
    let folder = Folder::new("misaligned");
    let data = f32s(&[1.5, 2.5]);
    let weights = open(&folder, &[("b", "U8", &[1], &[7]), ("a", "F32", &[2], &data)]);
    for e in [weights.get::<f32, 1>("a").err().unwrap(), weights.any("a").err().unwrap()] {
        assert!(matches!(e, Error::Layout { .. }) && e.to_string().contains("copy()"), "{e}");
    }
    assert_eq!(weights.copy::<f32, 1>("a").unwrap().to_vec().unwrap(), [1.5, 2.5]);
    assert_eq!(weights.decode::<bf16, 1>("a").unwrap().to_vec().unwrap()[1].to_f32(), 2.5);
}

#[test]
fn wrong_names_types_and_ranks_are_errors_that_name_what_is_there() {
    let folder = Folder::new("wrong");
    let weights = open(&folder, &[("a", "F32", &[2], &[0; 8]), ("c", "C64", &[1], &[0; 8])]);
    let e = weights.get::<f32, 1>("x").err().unwrap();
    assert!(matches!(e, Error::Value { .. }) && e.to_string().contains("\"a\""), "{e}");
    let e = weights.get::<bf16, 1>("a").err().unwrap();
    assert!(matches!(e, Error::DType { .. }) && e.to_string().contains("[2] f32"), "{e}");
    let e = weights.get::<f32, 2>("a").err().unwrap();
    assert!(matches!(e, Error::Shape { .. }) && e.to_string().contains("1 dimensions"), "{e}");
    let e = weights.decode::<f32, 2>("a").err().unwrap();
    assert!(matches!(e, Error::Shape { .. }), "{e}");
    let e = weights.decode::<f32, 1>("c").err().unwrap();
    assert!(matches!(e, Error::DType { .. }) && e.to_string().contains("C64"), "{e}");
    let e = weights.scaled::<Nvfp4, 1>("a").err().unwrap();
    assert!(matches!(e, Error::DType { .. }) && e.to_string().contains("nvfp4"), "{e}");
    assert!(weights.contains("a") && !weights.contains("x"));
}

#[test]
fn decode_converts_in_one_rounding() {
    let folder = Folder::new("decode");
    // Just above the middle between two bf16: rounding through f32 first would make it a tie.
    let x = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
    let weights = open(
        &folder,
        &[
            ("d", "F64", &[1], &x.to_le_bytes()),
            ("i", "I32", &[2], &[i32::MAX.to_le_bytes(), (-5i32).to_le_bytes()].concat()),
            ("h", "BF16", &[1], &bf16::from_f32(-3.5).to_le_bytes()),
        ],
    );
    assert_eq!(weights.decode::<bf16, 1>("d").unwrap().to_vec().unwrap()[0].to_f32(), 1.0078125);
    assert_eq!(weights.to_f32("i").unwrap(), [2147483648.0, -5.0]);
    assert_eq!(weights.decode::<f64, 1>("i").unwrap().to_vec().unwrap()[0], 2147483647.0);
    assert_eq!(weights.to_f32("h").unwrap(), [-3.5]);
}

/// Codes 2, 1 (1.0, 0.5) in every byte: values 0.5, 1.0, 0.5, …
const PAIR: u8 = 0x21;
/// E4M3 for 2.
const TWO: u8 = 0x40;

fn assert_pairs(values: &[f32], scale: f32) {
    for (i, x) in values.iter().enumerate() {
        assert_eq!(*x, if i % 2 == 0 { 0.5 * scale } else { scale }, "value {i}");
    }
}

#[test]
fn nvfp4_as_modelopt_names_it_is_multiplied_by_its_tensor_scale() {
    let folder = Folder::new("modelopt");
    let weights = open(
        &folder,
        &[
            ("x.weight_scale_2", "F32", &[], &f32s(&[0.25])),
            ("x.input_scale", "F32", &[1], &f32s(&[3.0])),
            ("x.weight", "U8", &[2, 16], &[PAIR; 32]),
            ("x.weight_scale", "F8_E4M3", &[2, 2], &[TWO; 4]),
        ],
    );
    let parts = weights.safetensors().unwrap().scaled_parts("x.weight").unwrap().unwrap();
    assert_eq!((parts.format, parts.naming), (Format::Nvfp4, Naming::ModelOpt));
    assert_eq!(parts.shape, [2, 32]);
    assert!(matches!(parts.tensor_scale, Some(TensorScale::Multiplies(_))));
    let Some(TensorScale::Multiplies(t)) = parts.input_scale else { panic!("an input scale") };
    assert_eq!(t.name, "x.input_scale");
    assert_pairs(&weights.to_f32("x.weight").unwrap(), 0.5);
    let scaled = weights.scaled::<Nvfp4, 2>("x.weight").unwrap();
    assert_eq!(scaled.shape(), [2, 32]);
    assert_pairs(&scaled.dequantize::<f32>().unwrap().to_vec().unwrap(), 0.5);
    // The codes themselves are still there to be had.
    assert_eq!(weights.get::<u8, 2>("x.weight").unwrap().shape(), [2, 16]);
    let e = weights.scaled::<Mxfp4, 2>("x.weight").err().unwrap();
    assert!(matches!(e, Error::DType { .. }) && e.to_string().contains("nvfp4"), "{e}");
    assert!(matches!(weights.scaled::<Nvfp4, 3>("x.weight").err(), Some(Error::Shape { .. })));
}

#[test]
fn nvfp4_as_compressed_tensors_names_it_is_divided_by_its_global_scale() {
    let folder = Folder::new("compressed-tensors");
    let weights = open(
        &folder,
        &[
            ("x.weight_global_scale", "F32", &[1], &f32s(&[4.0])),
            ("x.input_global_scale", "F32", &[1], &f32s(&[3.0])),
            ("x.weight_packed", "U8", &[2, 16], &[PAIR; 32]),
            ("x.weight_scale", "F8_E4M3", &[2, 2], &[TWO; 4]),
        ],
    );
    let model = weights.safetensors().unwrap();
    let parts = model.scaled_parts("x.weight").unwrap().unwrap();
    assert_eq!((parts.format, parts.naming), (Format::Nvfp4, Naming::CompressedTensors));
    assert!(matches!(parts.input_scale, Some(TensorScale::Divides(_))));
    assert_pairs(&weights.to_f32("x.weight").unwrap(), 0.5);
    let scaled = weights.scaled::<Nvfp4, 2>("x.weight").unwrap();
    assert_pairs(&scaled.dequantize::<f32>().unwrap().to_vec().unwrap(), 0.5);
    assert_eq!(model.scaled_names().collect::<Vec<_>>(), ["x.weight"]);
    assert!(weights.contains("x.weight"));
    assert_eq!(weights.shape("x.weight").unwrap(), [2, 32]);
}

#[test]
fn mxfp4_is_recognised_in_every_naming() {
    /// E8M0 for 4.
    const FOUR: u8 = 129;
    let (codes, scales) = (&[PAIR; 64][..], &[FOUR; 4][..]);
    let cases: [(&[Part<'_>], &str, Naming); 5] = [
        (
            &[("x_blocks", "U8", &[2, 2, 16], codes), ("x_scales", "U8", &[2, 2], scales)],
            "x",
            Naming::GptOss,
        ),
        (
            &[
                ("x.weight_packed", "U8", &[2, 32], codes),
                ("x.weight_scale", "U8", &[2, 2], scales),
            ],
            "x.weight",
            Naming::CompressedTensors,
        ),
        (
            &[("x.weight", "U8", &[2, 32], codes), ("x.weight_scale", "U8", &[2, 2], scales)],
            "x.weight",
            Naming::ModelOpt,
        ),
        (
            &[("x.weight", "F4", &[2, 64], codes), ("x.weight_scale", "F8_E8M0", &[2, 2], scales)],
            "x.weight",
            Naming::ModelOpt,
        ),
        (
            &[("x_blocks", "U8", &[1, 2, 2, 16], codes), ("x_scales", "U8", &[1, 2, 2], scales)],
            "x",
            Naming::GptOss,
        ),
    ];
    for (i, (tensors, name, naming)) in cases.into_iter().enumerate() {
        let folder = Folder::new(&format!("mxfp4-{i}"));
        let weights = open(&folder, tensors);
        let model = weights.safetensors().unwrap();
        let parts = model.scaled_parts(name).unwrap().unwrap();
        assert_eq!((parts.format, parts.naming), (Format::Mxfp4, naming));
        assert_eq!(parts.shape[parts.shape.len() - 2..], [2, 64]);
        assert_pairs(&weights.to_f32(name).unwrap(), 4.0);
        assert_eq!(model.scaled_names().collect::<Vec<_>>(), [name]);
        if parts.shape.len() == 2 {
            let scaled = weights.scaled::<Mxfp4, 2>(name).unwrap();
            assert_pairs(&scaled.dequantize::<f32>().unwrap().to_vec().unwrap(), 4.0);
        }
    }
}

#[test]
fn fp8_is_recognised_by_its_scales() {
    let codes = vec![TWO; 2 * 128];
    let check = |label: &str, scale: Part<'_>, format, expected: [f32; 2]| {
        let folder = Folder::new(&format!("fp8-{label}"));
        let weights = open(&folder, &[scale, ("x.weight", "F8_E4M3", &[2, 128], &codes)]);
        let model = weights.safetensors().unwrap();
        assert_eq!(model.scaled_parts("x.weight").unwrap().unwrap().format, format);
        let values = weights.to_f32("x.weight").unwrap();
        assert_eq!((values[0], values[255]), (expected[0], expected[1]));
        weights.get::<F8E4M3, 2>("x.weight").unwrap();
        let scaled: Vec<f32> = match format {
            Format::Fp8TensorE4M3 => {
                weights.scaled::<Fp8PerTensor<F8E4M3>, 2>("x.weight").unwrap().dequantize().unwrap()
            }
            Format::Fp8Row => {
                weights.scaled::<Fp8PerRow, 2>("x.weight").unwrap().dequantize().unwrap()
            }
            Format::Fp8Block128 => {
                weights.scaled::<Fp8Block128, 2>("x.weight").unwrap().dequantize().unwrap()
            }
            _ => weights.scaled::<Mxfp8<F8E4M3>, 2>("x.weight").unwrap().dequantize().unwrap(),
        }
        .to_vec()
        .unwrap();
        assert_eq!(scaled, values);
    };
    let (one, two) = (f32s(&[0.5]), f32s(&[0.5, 3.0]));
    let name = "x.weight_scale";
    check("tensor", (name, "F32", &[], &one), Format::Fp8TensorE4M3, [1.0, 1.0]);
    check("row", (name, "F32", &[2, 1], &two), Format::Fp8Row, [1.0, 6.0]);
    check("row-flat", (name, "F32", &[2], &two), Format::Fp8Row, [1.0, 6.0]);
    let inverse = ("x.weight_scale_inv", "F32", &[1, 1][..], &one[..]);
    check("block", inverse, Format::Fp8Block128, [1.0, 1.0]);
    let halves: Vec<u8> =
        [0.5, 3.0].iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
    check("row-bf16", (name, "BF16", &[2, 1], &halves), Format::Fp8Row, [1.0, 6.0]);
    let exponents = [127, 127, 127, 127, 128, 128, 128, 126];
    check("mx", (name, "U8", &[2, 4], &exponents), Format::Mxfp8E4M3, [2.0, 1.0]);
}

#[test]
fn weights_whose_parts_do_not_fit_are_refused() {
    let global = f32s(&[4.0]);
    let good = |scale_shape: &'static [usize], scales: &'static [u8]| {
        vec![
            ("x.weight_global_scale", "F32", &[1][..], &global[..]),
            ("x.weight_packed", "U8", &[2, 16][..], &[PAIR; 32][..]),
            ("x.weight_scale", "F8_E4M3", scale_shape, scales),
        ]
    };
    let refused = |tensors: &[Part<'_>], expected: &str| {
        let folder = Folder::new(&format!("parts-{}", expected.len()));
        let weights = open(&folder, tensors);
        let errors = [
            weights.to_f32("x.weight").err().unwrap(),
            weights.scaled::<Nvfp4, 2>("x.weight").err().unwrap(),
        ];
        for e in errors {
            let right = matches!(e, Error::File { .. }) && e.to_string().contains(expected);
            assert!(right, "{e}");
        }
    };
    refused(&good(&[2, 1], &[TWO; 2]), "takes 32 bytes of codes and 4 scales");
    refused(&good(&[2, 3], &[TWO; 6]), "found 32 bytes in x.weight_packed");
    refused(&good(&[2, 2], &[TWO; 4])[1..], "has no x.weight_scale_2 or x.weight_global_scale");
    refused(&good(&[2, 2], &[TWO; 4])[..2], "x.weight_scale is not");
    let mut tensors = good(&[2, 2], &[TWO; 4]);
    tensors[0] = ("x.weight_global_scale", "F16", &[2], &global);
    refused(&tensors, "expected one F32");
}

#[test]
fn plain_weights_are_not_taken_for_scaled_ones() {
    let folder = Folder::new("plain");
    let weights = open(
        &folder,
        &[
            ("x.weight", "F32", &[2], &[0; 8]),
            ("y.weight", "BF16", &[1, 2], &[1; 4]),
            ("y.weight_scale", "F32", &[1], &[0; 4]),
            ("z.weight", "F8_E4M3", &[4], &[TWO; 4]),
        ],
    );
    let model = weights.safetensors().unwrap();
    for name in ["x.weight", "y.weight", "z.weight", "w.weight"] {
        assert_eq!(model.scaled_parts(name).unwrap(), None);
    }
    assert_eq!(model.scaled_names().count(), 0);
    assert_eq!(weights.to_f32("z.weight").unwrap(), [2.0; 4]);
}

#[test]
fn codes_whose_scales_are_not_understood_are_not_decoded_without_them() {
    let folder = Folder::new("int8");
    let weights = open(
        &folder,
        &[
            ("y.weight_scale", "F32", &[2], &[0; 8]),
            ("y.weight", "I8", &[2, 2], &[1; 4]),
            ("z.weight_scale", "I32", &[1], &[0; 4]),
            ("z.weight", "F8_E4M3", &[2, 2], &[TWO; 4]),
        ],
    );
    for name in ["y.weight", "z.weight"] {
        let e = weights.to_f32(name).unwrap_err();
        assert!(matches!(e, Error::File { .. }) && e.to_string().contains("get()"), "{e}");
    }
    assert_eq!(weights.get::<i8, 2>("y.weight").unwrap().to_vec().unwrap(), [1; 4]);
}

#[test]
fn misaligned_scales_are_copied_and_the_codes_are_not() {
    let folder = Folder::new("misaligned-scales");
    let weights = open(
        &folder,
        &[
            ("x.weight", "F8_E4M3", &[1, 3], &[TWO; 3]),
            ("x.weight_scale", "F32", &[1], &f32s(&[0.5])),
        ],
    );
    let scaled = weights.scaled::<Fp8PerTensor<F8E4M3>, 2>("x.weight").unwrap();
    assert_eq!(scaled.dequantize::<f32>().unwrap().to_vec().unwrap(), [1.0; 3]);
    let kinds: Vec<_> = scaled.buffers().map(|(_, region)| region.buffer().kind()).collect();
    assert_eq!(kinds, [MemoryKind::Mapped, MemoryKind::Host]);
}

#[test]
fn packed_codes_are_used_in_place() {
    let folder = Folder::new("packed");
    let weights = open(&folder, &[("x", "F4", &[2, 4], &[PAIR; 4])]);
    assert_eq!(weights.get::<E2M1x2, 2>("x").unwrap().shape(), [2, 2]);
    assert!(matches!(weights.to_f32("x").err(), Some(Error::DType { .. })));
}

#[test]
fn a_model_in_several_files_is_read_by_its_index() {
    let folder = Folder::new("shards");
    folder.write("m-1.safetensors", file(&[("a", "F32", &[1], &f32s(&[1.0]))]));
    folder.write("m-2.safetensors", file(&[("b", "F32", &[1], &f32s(&[2.0]))]));
    let index = folder.write(
        "model.safetensors.index.json",
        r#"{"metadata": {}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#,
    );
    for path in [folder.path(), &index] {
        let weights = Weights::open(&Device::reference(), path).unwrap();
        assert_eq!(weights.to_f32("a").unwrap(), [1.0]);
        assert_eq!(weights.to_f32("b").unwrap(), [2.0]);
    }
}

#[test]
fn load_refuses_an_index_that_leads_out_of_its_folder() {
    for name in [
        "../m.safetensors",
        "/etc/m.safetensors",
        "a/b.safetensors",
        "..\\m.safetensors",
        ".safetensors",
        "c:m.safetensors",
        "m.bin",
        "",
    ] {
        let json = serde_json::json!({"weight_map": {"a": name}}).to_string();
        let e = shard_names(json.as_bytes(), Path::new("i.json")).unwrap_err();
        assert!(matches!(e, Error::File { .. }) && e.to_string().contains("plain name"), "{e}");
    }
}

#[test]
fn load_refuses_an_index_that_is_none() {
    for json in ["", "[]", "{}", r#"{"weight_map": 1}"#, r#"{"weight_map": {"a": 1}}"#] {
        let e = shard_names(json.as_bytes(), Path::new("i.json")).unwrap_err();
        assert!(matches!(e, Error::File { .. }), "{e}");
    }
    let none = shard_names(br#"{"weight_map": {}}"#, Path::new("i.json")).unwrap_err();
    assert!(none.to_string().contains("0 files"), "{none}");
}

#[test]
fn load_refuses_an_index_that_contradicts_its_files() {
    let folder = Folder::new("contradiction");
    folder.write("m-1.safetensors", file(&[("a", "F32", &[1], &[0; 4])]));
    folder.write("m-2.safetensors", file(&[("b", "F32", &[1], &[0; 4])]));
    let attempt = |json: &str| {
        folder.write("model.safetensors.index.json", json);
        SafeTensors::open(folder.path()).unwrap_err()
    };
    let missing = r#"{"weight_map": {"a": "m-1.safetensors", "x": "m-1.safetensors"}}"#;
    assert!(attempt(missing).to_string().contains("no such tensor"));
    let elsewhere = r#"{"weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors"}}"#;
    assert!(attempt(elsewhere).to_string().contains("no such tensor"));
    let no_file = r#"{"weight_map": {"a": "m-3.safetensors"}}"#;
    assert!(matches!(attempt(no_file), Error::Io { .. }));
    folder.write("m-2.safetensors", file(&[("a", "F32", &[1], &[0; 4])]));
    let twice = r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#;
    assert!(attempt(twice).to_string().contains("also in another file"));
}

#[test]
fn load_refuses_paths_without_a_model() {
    let folder = Folder::new("empty");
    let device = Device::reference();
    let open = |path: &Path| Weights::open(&device, path).unwrap_err();
    assert!(open(folder.path()).to_string().contains("neither model.safetensors"));
    assert!(matches!(open(&folder.path().join("none")), Error::Io { .. }));
    let text = folder.write("model.txt", "just some text that is long enough");
    assert!(matches!(open(&text), Error::File { .. }));
    // An empty file can not be mapped everywhere; either way it is an error value.
    open(&folder.write("empty.safetensors", ""));
}

#[test]
fn load_refuses_every_truncation() {
    let bytes = file(&[("a", "F32", &[2], &[1; 8]), ("b", "U8", &[3], &[2; 3])]);
    parse(&bytes).unwrap();
    for len in 0..bytes.len() {
        refusal(&bytes[..len]);
    }
    refusal(&[&bytes[..], &[0]].concat());
}

#[test]
fn load_refuses_header_lengths_beyond_the_file_or_the_limit() {
    for length in [1u64, 100, 100_000_001, 1 << 62, u64::MAX] {
        refusal(&[&length.to_le_bytes()[..], b"{}"].concat());
    }
}

#[test]
fn load_refuses_headers_that_are_no_header() {
    for header in ["", "[]", "{", "null", r#"{"t": 1}"#, r#"{"t": {}}"#, "\u{0}", "{\"t\": \"\""] {
        refusal(&with_header(header, &[]));
    }
    let deep = "[".repeat(100_000);
    refusal(&with_header(&deep, &[]));
    let mut not_utf8 = with_header("{}", &[]);
    not_utf8[9] = 0xFF;
    refusal(&not_utf8);
    refusal(&with_header(&entry("F7", "[1]", "0", "1"), &[0]));
}

#[test]
fn load_refuses_offsets_with_gaps_overlaps_or_in_reverse() {
    for (start, end) in [("1", "5"), ("4", "0"), ("0", "8"), ("-1", "3"), ("0", "99999999999999")] {
        refusal(&with_header(&entry("F32", "[1]", start, end), &[0; 4]));
    }
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a": {{"dtype": "U8", "shape": [4], "data_offsets": {a}}},
                 "b": {{"dtype": "U8", "shape": [4], "data_offsets": {b}}}}}"#
        )
    };
    parse(&with_header(&two("[0, 4]", "[4, 8]"), &[0; 8])).unwrap();
    refusal(&with_header(&two("[0, 4]", "[2, 6]"), &[0; 6]));
    refusal(&with_header(&two("[0, 4]", "[5, 9]"), &[0; 9]));
    refusal(&with_header(&two("[0, 4]", "[0, 4]"), &[0; 4]));
}

#[test]
fn load_refuses_sizes_that_do_not_match_or_overflow() {
    let max = u64::MAX.to_string();
    for shape in ["[2]", "[]", "[1, 2]", "[4294967296, 4294967296]", &format!("[{max}]")] {
        refusal(&with_header(&entry("F16", shape, "0", "8"), &[0; 8]));
    }
    // The end of the data is what overflows here.
    refusal(&with_header(&entry("U8", &format!("[{max}]"), "0", &max), &[0; 8]));
    refusal(&with_header(&entry("U8", &format!("[0, {max}, 2]"), "0", "0"), &[]));
    refusal(&with_header(&entry("F4", "[3]", "0", "2"), &[0; 2]));
}

#[test]
fn load_refuses_names_that_are_empty_or_have_a_zero_byte() {
    for name in ["", "\0"] {
        let header = serde_json::json!({
            name: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
        });
        refusal(&with_header(&header.to_string(), &[0]));
    }
}

#[test]
fn empty_models_and_empty_tensors_are_read() {
    assert!(parse(&with_header("{}", &[])).unwrap().is_empty());
    let [t] = &parse(&with_header(&entry("F32", "[0, 5]", "0", "0"), &[])).unwrap()[..] else {
        panic!("one tensor")
    };
    assert!(t.bytes.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = file(&[
            ("x.weight", "U8", &[2, 16], &[PAIR; 32]),
            ("x.weight_scale", "F8_E4M3", &[2, 2], &[TWO; 4]),
            ("x.weight_scale_2", "F32", &[1], &[0; 4]),
        ]);
        let header = bytes.len() - 40;
        for (at, value) in edits {
            bytes[at.index(header)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(tensors) = parse(&bytes) {
            for t in tensors {
                prop_assert!(bytes.get(t.bytes).is_some());
            }
        }
    }

    #[test]
    fn digits_swapped_in_the_header_never_panic(
        numbers in prop::collection::vec(any::<u64>(), 5),
    ) {
        let [a, b, c, d, e] = numbers[..] else { unreachable!() };
        let header = format!(
            r#"{{"t": {{"dtype": "F32", "shape": [{a}, {b}, {c}], "data_offsets": [{d}, {e}]}}}}"#
        );
        prop_assert!(parse(&with_header(&header, &[0; 16])).is_err());
    }
}
