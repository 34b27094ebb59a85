//! NumPy's files: read as NumPy means them, in every order, and nothing believed that is not
//! checked.
#![cfg(feature = "npy")]

#[path = "common/folder.rs"]
mod folder;

use std::path::{Path, PathBuf};

use ferrocerium::caps::MemoryKind;
use ferrocerium::io::npy::{self, Header, MAX_HEADER, Npy};
use ferrocerium::{AnyTensor, DType, Device, Error, F8E4M3, Tensor, bf16, f16};
use folder::Folder;

/// A file of that version, with its data at a multiple of 64.
fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let prefix = if version == 1 { 10 } else { 12 };
    let padded = (prefix + header.len() + 1).next_multiple_of(64) - prefix;
    with_length(version, padded as u32, &format!("{header:0$}\n", padded - 1), data)
}

fn with_length(version: u8, length: u32, header: &str, data: &[u8]) -> Vec<u8> {
    let length = length.to_le_bytes();
    let length = if version == 1 { &length[..2] } else { &length[..] };
    [b"\x93NUMPY", &[version, 0][..], length, header.as_bytes(), data].concat()
}

fn header(descr: &str, fortran: bool, shape: &str) -> String {
    let order = if fortran { "True" } else { "False" };
    format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}")
}

fn parse(bytes: &[u8]) -> Result<Header, Error> {
    Header::parse(bytes, Path::new("x.npy"))
}

/// Refused by the reader of bytes and by that of files, with a message that has all of `parts`.
#[track_caller]
fn refused(folder: &Folder, bytes: &[u8], parts: &[&str]) {
    let path = folder.write("refused.npy", bytes);
    for error in [parse(bytes).unwrap_err(), Npy::open(path).unwrap_err()] {
        assert!(matches!(error, Error::File { .. }), "{error:?}");
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "no {part:?} in {text:?}");
        }
    }
}

fn le<const N: usize, T>(values: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(bytes).collect()
}

/// Writes values of a type in both byte orders and versions, and reads them.
macro_rules! every_way {
    ($folder:expr, $device:expr, $($t:ty: $descr:literal, $kind:expr);*) => {$({
        let values: Vec<$t> = (0..24).map(|i| <$t as FromSmall>::from_small(i)).collect();
        let little = le(&values, |x| x.to_le_bytes());
        let big = le(&values, |x| x.to_be_bytes());
        for version in 1..=3 {
            let text = header(concat!("<", $descr), false, "(2, 3, 4)");
            let path = $folder.write("little.npy", file(version, &text, &little));
            let array = Npy::open(&path).unwrap();
            assert_eq!(array.header().dtype, Some($kind));
            let mapped: Tensor<$t, 3> = array.get(&$device).unwrap();
            assert_eq!(mapped.region().buffer().kind(), MemoryKind::Mapped);
            let read: Tensor<$t, 3> = array.read(&$device).unwrap();
            assert_eq!(read.region().buffer().kind(), MemoryKind::Host);
            let text = header(concat!(">", $descr), false, "(2, 3, 4)");
            let path = $folder.write("big.npy", file(version, &text, &big));
            let swapped: Tensor<$t, 3> = Npy::open(&path).unwrap().read(&$device).unwrap();
            for tensor in [mapped, read, swapped] {
                assert_eq!(tensor.shape(), [2, 3, 4]);
                assert_eq!(tensor.to_vec().unwrap(), values, "{}", $descr);
            }
        }
    })*};
}

trait FromSmall {
    fn from_small(i: u8) -> Self;
}

macro_rules! from_small {
    ($($t:ty),*) => {$(impl FromSmall for $t {
        fn from_small(i: u8) -> Self {
            // A different byte in each place.
            (0..size_of::<Self>()).fold(0, |n, at| n | ((i + at as u8) as Self) << (8 * at))
        }
    })*};
}

impl FromSmall for f32 {
    fn from_small(i: u8) -> Self {
        f32::from(i) * 1.1
    }
}

impl FromSmall for f64 {
    fn from_small(i: u8) -> Self {
        f64::from(i) * 1.1
    }
}

impl FromSmall for f16 {
    fn from_small(i: u8) -> Self {
        f16::from_f32(f32::from(i) * 1.1)
    }
}
from_small!(i8, u8, i16, u16, i32, u32, i64, u64);

#[test]
fn every_type_is_read_in_either_byte_order() {
    let (folder, device) = (Folder::new("npy-types"), Device::cpu());
    every_way!(folder, device,
        f32: "f4", DType::F32; f64: "f8", DType::F64; f16: "f2", DType::F16;
        i8: "i1", DType::I8; i16: "i2", DType::I16; i32: "i4", DType::I32; i64: "i8", DType::I64;
        u8: "u1", DType::U8; u16: "u2", DType::U16; u32: "u4", DType::U32; u64: "u8", DType::U64);
}

#[test]
fn fortran_order_is_a_view_with_its_strides() {
    let (folder, device) = (Folder::new("npy-fortran"), Device::cpu());
    // a[i][j] = 10 i + j, columns first.
    let columns: Vec<f32> = (0..3).flat_map(|j| (0..2).map(move |i| (10 * i + j) as f32)).collect();
    let bytes = file(1, &header("<f4", true, "(2, 3)"), &le(&columns, |x| x.to_le_bytes()));
    let array = Npy::open(folder.write("f.npy", bytes)).unwrap();
    let mapped: Tensor<f32, 2> = array.get(&device).unwrap();
    assert_eq!(mapped.strides(), [1, 2]);
    let expected = [0.0, 1.0, 2.0, 10.0, 11.0, 12.0];
    assert_eq!(mapped.to_vec().unwrap(), expected);
    assert_eq!(array.read::<f32, 2>(&device).unwrap().to_vec().unwrap(), expected);
    assert_eq!(array.any(&device).unwrap().shape(), [2, 3]);
    // Saved again it is in C order.
    let error = npy::save(folder.path().join("g.npy"), &mapped.clone().into()).unwrap_err();
    assert!(matches!(error, Error::Layout { .. }), "{error}");
    let contiguous = mapped.contiguous().unwrap();
    npy::save(folder.path().join("g.npy"), &contiguous.into()).unwrap();
    let again = Npy::open(folder.path().join("g.npy")).unwrap();
    assert!(!again.header().fortran_order);
    assert_eq!(again.get::<f32, 2>(&device).unwrap().to_vec().unwrap(), expected);
}

#[test]
fn bytes_without_a_meaning_are_what_the_caller_says() {
    let (folder, device) = (Folder::new("npy-void"), Device::cpu());
    let values = [1.5, -2.0].map(bf16::from_f32);
    let path = folder.path().join("b.npy");
    npy::save(&path, &Tensor::from_host(&device, [2], &values).unwrap().into()).unwrap();
    let array = Npy::open(&path).unwrap();
    assert_eq!((array.header().descr.as_str(), array.header().dtype), ("<V2", None));
    assert_eq!(array.get::<bf16, 1>(&device).unwrap().to_vec().unwrap(), values);
    let error = array.get::<f32, 1>(&device).unwrap_err();
    assert!(matches!(error, Error::DType { .. }), "{error}");
    for error in [array.any(&device).unwrap_err(), array.read_any(&device).unwrap_err()] {
        assert!(error.to_string().contains("name it as E"), "{error}");
    }
    for descr in ["|V1", "<f1"] {
        let path = folder.write("f8.npy", file(1, &header(descr, false, "(1,)"), &[0x38]));
        let one: Tensor<F8E4M3, 1> = Npy::open(path).unwrap().read(&device).unwrap();
        assert_eq!(one.to_vec().unwrap()[0].to_f32(), 1.0);
    }
}

#[test]
fn what_is_saved_comes_back_whatever_its_shape() {
    let (folder, device) = (Folder::new("npy-save"), Device::cpu());
    let path = folder.path().join("x.npy");
    let shapes: [&[usize]; 6] = [&[], &[1], &[7], &[0, 3], &[2, 3], &[1, 2, 1, 3, 1, 2]];
    for shape in shapes {
        let n: usize = shape.iter().product();
        let buffer = device.allocate(4 * n, "x").unwrap();
        bytemuck::cast_slice_mut::<u8, u32>(&mut buffer.write().unwrap())
            .iter_mut()
            .enumerate()
            .for_each(|(i, x)| *x = i as u32);
        let x = AnyTensor::from_buffer(&device, DType::U32, shape, buffer, 0).unwrap();
        npy::save(&path, &x).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!((bytes.len() - 4 * n).is_multiple_of(64));
        assert_eq!(bytes[bytes.len() - 4 * n - 1], b'\n');
        let array = Npy::open(&path).unwrap();
        assert_eq!(array.header().shape, shape);
        let back = array.any(&device).unwrap();
        let region = back.operand().regions().next().unwrap().clone();
        let found = region.buffer().read().unwrap()[region.range()].to_vec();
        assert_eq!(found, le(&(0..n as u32).collect::<Vec<_>>(), |x| x.to_le_bytes()));
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "something was left behind");
}

#[test]
fn what_is_no_array_is_not_saved() {
    let (folder, device) = (Folder::new("npy-unsaved"), Device::cpu());
    let x = Tensor::full(&device, [16, 16], 1.0f32).unwrap();
    let scaled: AnyTensor = x.quantize::<ferrocerium::format::Nvfp4>().unwrap().into();
    let error = npy::save(folder.path().join("x.npy"), &scaled).unwrap_err();
    assert!(matches!(error, Error::DType { .. }), "{error}");
    assert!(error.to_string().contains("[16, 16] nvfp4"), "{error}");
    let nowhere = folder.path().join("no/such/x.npy");
    let error = npy::save(nowhere, &x.into()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_wrong_type_or_rank_names_both() {
    let (folder, device) = (Folder::new("npy-wrong"), Device::cpu());
    let path = folder.write("x.npy", file(1, &header("<f4", false, "(2,)"), &[0; 8]));
    let array = Npy::open(path).unwrap();
    let error = array.get::<f64, 1>(&device).unwrap_err();
    assert!(matches!(error, Error::DType { .. }), "{error}");
    for part in ["x.npy", "[2]", "\"<f4\"", "f64"] {
        assert!(error.to_string().contains(part), "no {part:?} in {error}");
    }
    let error = array.read::<f32, 2>(&device).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    let deep = folder.write("d.npy", file(1, &header("<f4", false, "(1,1,1,1,1,1,1,)"), &[0; 4]));
    let error = Npy::open(deep).unwrap().any(&device).unwrap_err();
    assert!(error.to_string().contains("7 dimensions"), "{error}");
}

#[test]
fn what_can_not_be_used_in_place_says_so_and_is_read() {
    let (folder, device) = (Folder::new("npy-place"), Device::cpu());
    let big = folder.write("b.npy", file(1, &header(">u2", false, "(1,)"), &[1, 2]));
    let odd = header("<u2", false, "(1,)");
    let odd = with_length(1, odd.len() as u32 | 1, &format!("{odd:0$}", odd.len() | 1), &[2, 1]);
    for path in [big, folder.write("o.npy", odd)] {
        let array = Npy::open(path).unwrap();
        let error = array.any(&device).unwrap_err();
        assert!(matches!(error, Error::Layout { .. }), "{error}");
        assert!(error.to_string().contains("use read()"), "{error}");
        assert_eq!(array.read::<u16, 1>(&device).unwrap().to_vec().unwrap(), [0x0102]);
    }
}

#[test]
fn headers_that_numpy_reads_are_read() {
    let texts = [
        "{'descr':'<f4','fortran_order':False,'shape':(2,)}",
        "{ \"shape\" : ( 2 , ) , \"descr\" : \"<f4\" , \"fortran_order\" : False , } \n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }",
    ];
    for text in texts {
        let found = parse(&file(1, text, &[0; 8])).unwrap();
        assert_eq!((found.shape.as_slice(), found.dtype), (&[2][..], Some(DType::F32)), "{text}");
    }
    // A second array behind the first is not this one's.
    let found = parse(&file(1, &header("|b1", false, "()"), &[1, 2, 3])).unwrap();
    assert_eq!((found.dtype, found.data.len()), (Some(DType::U8), 1));
}

#[test]
fn files_cut_off_anywhere_are_refused() {
    let folder = Folder::new("npy-cut");
    for version in [1, 2] {
        let whole = file(version, &header("<f4", false, "(2, 3)"), &[0; 24]);
        assert!(parse(&whole).is_ok());
        for len in 0..whole.len() {
            refused(&folder, &whole[..len], &["npy"]);
        }
    }
    let whole = file(1, &header("<f4", false, "(2, 3)"), &[0; 23]);
    refused(&folder, &whole, &["[2, 3]", "24 bytes", "23 follow", "truncated"]);
}

#[test]
fn a_file_that_shrinks_after_it_was_opened_is_an_error() {
    let (folder, device) = (Folder::new("npy-shrinks"), Device::cpu());
    let path: PathBuf = folder.write("x.npy", file(1, &header("<f4", false, "(8,)"), &[0; 32]));
    let array = Npy::open(&path).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
    let error = array.read::<f32, 1>(&device).unwrap_err();
    assert!(error.to_string().contains("cut off"), "{error}");
    assert_eq!(device.memory().used, 0);
}

#[test]
fn hostile_headers_are_refused_in_words() {
    let folder = Folder::new("npy-hostile");
    let f4 = |shape: &str| header("<f4", false, shape);
    let cases: [(String, &[&str]); 26] = [
        (String::new(), &["expected '{'", "the end"]),
        ("(1, 2)".into(), &["expected '{'", "'('"]),
        ("{".into(), &["expected a string", "the end"]),
        ("{}".into(), &["lacks", "'fortran_order'"]),
        ("{'descr': '<f4', 'shape': (1,)}".into(), &["lacks"]),
        ("{'x': 1}".into(), &["\"x\"", "'descr'"]),
        (f4("(1,)").replace("'shape'", "'descr'"), &["records"]),
        (f4("(1,), 'shape': (2,)"), &["\"shape\" twice"]),
        (f4("(1,)") + "x", &["expected the end", "'x'"]),
        (f4("(1,"), &["expected a size"]),
        (f4("(1 2)"), &["expected ')'", "'2'"]),
        (f4("(1)"), &["is a number", "(2,)"]),
        (f4("(-1,)"), &["expected a size", "'-'"]),
        (f4("(1.5,)"), &["expected ')'", "'.'"]),
        (f4("(99999999999999999999,)"), &["99999999999999999999", "can not be addressed"]),
        (f4("(4611686018427387904, 2)"), &["4611686018427387904", "can not be addressed"]),
        (f4("(0, 9223372036854775807, 2)"), &["can not be addressed"]),
        (f4("(1000000,)"), &["4000000 bytes", "8 follow"]),
        (f4(&format!("({})", "1, ".repeat(65))), &["more than 64 sizes"]),
        (f4("(1,)").replace("False", "Maybe"), &["True or False", "'M'"]),
        (f4("(1,)").replace("'<f4'", "[('a', '<f4')]"), &["records", "each field"]),
        (f4("(1,)").replace("'<f4'", "'<f4"), &["expected"]),
        (f4("(1,)").replace("<f4", "<\\x664"), &["an escape"]),
        (f4("(1,)").replace("'<f4'", "__import__('os')"), &["expected a string", "'_'"]),
        ("{'descr': 'é".into(), &["has no end"]),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': __len__}".into(), &["expected '('"]),
    ];
    for (text, parts) in cases {
        refused(&folder, &file(1, &text, &[0; 8]), parts);
    }
    let descrs = [
        ("|O", "pickles"),
        ("O", "pickles"),
        ("<c8", "complex"),
        ("<U4", "texts"),
        ("|S3", "texts"),
        ("<M8[ns]", "int64"),
        ("<f16", "of that size"),
        ("<f3", "of that size"),
        ("<b2", "of that size"),
        ("<i0", "no size"),
        ("<i+4", "no size"),
        ("<f", "no size"),
        ("<f99999999999999999999", "no size"),
        ("<V0", "no size"),
        ("", "no type"),
        ("<", "no type"),
        ("<é4", "no type"),
        ("float32", "no size"),
        ("=f4", "'<' or '>'"),
    ];
    for (descr, part) in descrs {
        let text = header(descr, false, "(1,)");
        refused(&folder, &file(3, &text, &[0; 16]), &[&format!("{descr:?}"), part]);
    }
    let text = header("<V4294967296", false, "(4294967296, 4294967296)");
    refused(&folder, &file(1, &text, &[]), &["can not be addressed"]);
}

#[test]
fn other_files_versions_and_lengths_are_refused() {
    let folder = Folder::new("npy-other");
    refused(&folder, b"", &["not a .npy file"]);
    refused(&folder, b"PK\x03\x04 an .npz is a zip", &["50", "not a .npy file"]);
    for version in [[0, 0], [1, 1], [4, 0], [255, 255]] {
        let mut bytes = file(1, &header("<f4", false, "(1,)"), &[0; 4]);
        bytes[6..8].copy_from_slice(&version);
        let found = format!("version {}.{}", version[0], version[1]);
        refused(&folder, &bytes, &[&found, "1.0, 2.0 and 3.0"]);
    }
    let text = header("<f4", false, "(1,)");
    let huge = with_length(2, u32::MAX, &text, &[0; 4]);
    refused(&folder, &huge, &["4294967295", &MAX_HEADER.to_string()]);
    let long = with_length(1, 60_000, &text, &[0; 4]);
    refused(&folder, &long, &["bytes up to 60010", "truncated"]);
    assert!(matches!(Npy::open(folder.path()), Err(Error::File { .. } | Error::Io { .. })));
}
