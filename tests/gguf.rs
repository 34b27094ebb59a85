//! GGUF: what is read is what was written, and nothing a file says can do harm.
#![cfg(feature = "gguf")]
#![allow(missing_docs)]

#[path = "common/gguf_file.rs"]
mod gguf_file;

use std::path::Path;

use ferrocerium::io::gguf::{Array, BlockType, Header, Value};
use ferrocerium::{Error, Result};
use gguf_file::{ARRAY, GgufFile, STRING, U32, string};
use proptest::prelude::*;

const F32: u32 = 0;
const Q8_0: u32 = 8;

fn parse(file: &[u8]) -> Result<Header> {
    Header::parse(file, Path::new("test.gguf"))
}

/// The message of a refusal, which is always [`Error::File`] and names the file.
fn refusal(file: &[u8]) -> String {
    match parse(file) {
        Err(e @ Error::File { .. }) => e.to_string(),
        Err(e) => panic!("refused with another kind of error: {e:?}"),
        Ok(h) => panic!("accepted: {h:?}"),
    }
}

fn assert_refused(file: &GgufFile, expected: &str) {
    let message = refusal(&file.bytes());
    assert!(message.starts_with("test.gguf: ") && message.contains(expected), "{message}");
}

fn two_tensors() -> GgufFile {
    GgufFile::default()
        .str("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .f32("llama.eps", 1e-5)
        .bool("tokenizer.ggml.add_bos_token", false)
        .strs("tokenizer.ggml.tokens", &["a", "ü", ""])
        .tensor("a", &[3, 2], F32, &[1; 24])
        .tensor("b", &[64], Q8_0, &[2; 68])
}

fn golden() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf_blocks.gguf");
    std::fs::read(path).unwrap()
}

#[test]
fn header_of_versions_2_and_3_is_read() {
    for version in [2, 3] {
        let bytes = GgufFile { version, ..two_tensors() }.bytes();
        let header = parse(&bytes).unwrap();
        assert_eq!(header.version(), version);
        assert_eq!(header.alignment(), 32);
        let meta = header.metadata();
        assert_eq!(meta.len(), 5);
        assert_eq!(meta.str("general.architecture").unwrap(), Some("llama"));
        assert_eq!(meta.u64("llama.block_count").unwrap(), Some(2));
        assert_eq!(meta.f64("llama.eps").unwrap(), Some(f64::from(1e-5f32)));
        assert_eq!(meta.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(false));
        assert_eq!(meta.strings("tokenizer.ggml.tokens").unwrap().unwrap(), ["a", "ü", ""]);
        assert_eq!(meta.u64("not.there").unwrap(), None);
        let [a, b] = header.tensors() else { panic!("two tensors") };
        assert_eq!((&a.name[..], &a.shape[..], a.block), ("a", &[2, 3][..], BlockType::F32));
        assert_eq!(&bytes[a.bytes.clone()], &[1; 24]);
        assert_eq!((&b.name[..], &b.shape[..], b.block), ("b", &[64][..], BlockType::Q8_0));
        assert_eq!(&bytes[b.bytes.clone()], &[2; 68]);
        assert_eq!(header.tensor("b"), Some(b));
        assert_eq!(header.tensor("c"), None);
    }
}

#[test]
fn alignment_of_the_file_is_followed() {
    let file = GgufFile { alignment: 256, ..two_tensors() }.u32("general.alignment", 256);
    let bytes = file.bytes();
    let header = parse(&bytes).unwrap();
    assert!(header.tensors().iter().all(|t| t.bytes.start % 256 == 0));
    assert_eq!(&bytes[header.tensors()[1].bytes.clone()], &[2; 68]);
}

#[test]
fn every_metadata_type_of_an_independent_writer_is_read() {
    let header = parse(&golden()).unwrap();
    let meta = header.metadata();
    assert_eq!(meta.get("test.u8"), Some(&Value::U8(250)));
    assert_eq!(meta.get("test.i8"), Some(&Value::I8(-5)));
    assert_eq!(meta.get("test.i64"), Some(&Value::I64(-(1 << 40))));
    assert_eq!(meta.get("test.f64"), Some(&Value::F64(0.1)));
    assert_eq!(meta.get("test.bool"), Some(&Value::Bool(true)));
    assert_eq!(meta.get("test.ints"), Some(&Value::Array(Array::I32(vec![1, -2, 3]))));
    assert_eq!(meta.strings("test.strings").unwrap().unwrap(), ["a", "", "ü"]);
}

#[test]
fn metadata_of_another_type_than_asked_for_is_an_error_that_names_both() {
    let header = parse(&two_tensors().bytes()).unwrap();
    let e = header.metadata().u64("general.architecture").unwrap_err().to_string();
    assert!(e.contains("string \"llama\"") && e.contains("expected a whole number"), "{e}");
    assert!(header.metadata().str("llama.eps").is_err());
    assert!(header.metadata().f64("llama.block_count").is_err());
    assert!(header.metadata().strings("llama.eps").is_err());
}

#[test]
fn blocks_decode_to_the_values_of_an_independent_implementation() {
    let file = golden();
    let header = parse(&file).unwrap();
    let mut checked = 0;
    for t in header.tensors().iter().filter(|t| !t.name.ends_with(".values")) {
        let expected = header.tensor(&format!("{}.values", t.name)).unwrap();
        assert_eq!(t.block.name(), t.name);
        assert_eq!(t.shape, expected.shape, "{}", t.name);
        let mut got = vec![0.0; t.len()];
        t.block.decode(&file[t.bytes.clone()], &mut got).unwrap();
        let (expected, _) = file[expected.bytes.clone()].as_chunks();
        for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
            let expected = f32::from_le_bytes(*expected);
            // The independent implementation has +0 where E2M1 has -0, and overflows alike.
            assert!(
                got.to_bits() == expected.to_bits() || (*got == 0.0 && expected == 0.0),
                "{} value {i}: {got:e}, expected {expected:e}",
                t.name
            );
        }
        checked += 1;
    }
    let decodable = BlockType::ALL.iter().filter(|b| b.is_decodable()).count();
    const PLAIN_WITHOUT_GOLDEN: usize = 5;
    assert_eq!(checked, decodable - PLAIN_WITHOUT_GOLDEN);
}

#[test]
fn plain_integers_and_f64_decode_to_nearest() {
    let mut out = [0.0; 2];
    BlockType::I8.decode(&[0xFF, 0x7F], &mut out).unwrap();
    assert_eq!(out, [-1.0, 127.0]);
    BlockType::I16.decode(bytemuck::cast_slice(&[-2i16, 300]), &mut out).unwrap();
    assert_eq!(out, [-2.0, 300.0]);
    BlockType::I32.decode(bytemuck::cast_slice(&[-3i32, (1 << 24) + 1]), &mut out).unwrap();
    assert_eq!(out, [-3.0, 16777216.0]);
    BlockType::I64.decode(bytemuck::cast_slice(&[-4i64, 1 << 40]), &mut out).unwrap();
    assert_eq!(out, [-4.0, (1u64 << 40) as f32]);
    BlockType::F64.decode(bytemuck::cast_slice(&[0.1f64, 1e300]), &mut out).unwrap();
    assert_eq!(out, [0.1, f32::INFINITY]);
}

#[test]
fn nan_scale_codes_make_the_block_nan() {
    let mut out = [0.0; 32];
    let block: Vec<u8> = [&[0xFF][..], &[0x11; 16]].concat();
    BlockType::MXFP4.decode(&block, &mut out).unwrap();
    assert!(out.iter().all(|x| x.is_nan()));
    let mut out = [0.0; 64];
    let block: Vec<u8> = [&[0x7F, 0xFF, 0x38, 0xB8][..], &[0x22; 32]].concat();
    BlockType::NVFP4.decode(&block, &mut out).unwrap();
    assert!(out[..32].iter().all(|x| x.is_nan()));
    assert!(out[32..].iter().all(|x| *x == 1.0));
}

#[test]
fn decode_refuses_lengths_that_do_not_fit_and_types_it_cannot_read() {
    let mut out = [0.0; 32];
    for (bytes, len) in [(33, 32), (34, 31), (34, 0), (0, 32), (68, 32)] {
        let e = BlockType::Q8_0.decode(&vec![0; bytes], &mut out[..len]).unwrap_err();
        assert!(matches!(e, Error::Shape { .. }), "{e:?}");
    }
    BlockType::Q8_0.decode(&[], &mut []).unwrap();
    let e = BlockType::IQ4_NL.decode(&[0; 18], &mut out).unwrap_err();
    assert!(matches!(e, Error::DType { .. }) && e.to_string().contains("Q4_K"), "{e}");
}

#[test]
fn codes_and_types_correspond() {
    for b in BlockType::ALL {
        assert_eq!(BlockType::from_code(b.code()), Some(*b));
        if let Some(dtype) = b.dtype() {
            assert_eq!((b.block_len(), b.block_bytes()), (1, dtype.size()));
        }
    }
    // Types that ggml removed, and the first one past the last.
    for code in [4, 5, 31, 32, 33, 36, 37, 38, 42, u32::MAX] {
        assert_eq!(BlockType::from_code(code), None);
    }
}

#[test]
fn load_refuses_a_file_that_is_not_gguf() {
    assert!(refusal(b"GGML\x03\0\0\0").contains("not a GGUF file"));
    assert!(refusal(b"GG").contains("truncated"));
    assert!(refusal(b"").contains("truncated"));
}

#[test]
fn load_refuses_old_future_and_big_endian_versions() {
    for version in [0, 1, 4, 77777] {
        assert_refused(&GgufFile { version, ..two_tensors() }, "versions 2 and 3 are read");
    }
    for version in [2u32, 3] {
        let version = version.swap_bytes();
        assert_refused(&GgufFile { version, ..two_tensors() }, "big-endian");
    }
}

#[test]
fn load_refuses_every_truncation() {
    let bytes = two_tensors().bytes();
    for len in 0..bytes.len() {
        refusal(&bytes[..len]);
    }
}

#[test]
fn load_refuses_counts_beyond_the_file() {
    for count in [3, 1 << 19, 1 << 40, u64::MAX] {
        refusal(&GgufFile { tensor_count: Some(count), ..two_tensors() }.bytes());
        refusal(&GgufFile { metadata_count: Some(count.max(6)), ..two_tensors() }.bytes());
    }
}

#[test]
fn load_refuses_lengths_beyond_the_file() {
    for len in [100u64, 1 << 20, 1 << 62, u64::MAX] {
        let huge = [&len.to_le_bytes()[..], b"x"].concat();
        refusal(&GgufFile::default().raw("s", STRING, &huge).bytes());
        for code in [U32, STRING, ARRAY] {
            let array = [&code.to_le_bytes()[..], &huge].concat();
            refusal(&GgufFile::default().raw("a", ARRAY, &array).bytes());
        }
        // A key or name of that length: the value is what follows.
        let mut bytes = GgufFile::default().u32("k", 1).bytes();
        bytes[24..32].copy_from_slice(&len.to_le_bytes());
        refusal(&bytes);
    }
}

#[test]
fn load_refuses_arrays_nested_without_end() {
    let mut value = Vec::new();
    for _ in 0..100_000 {
        value.extend(ARRAY.to_le_bytes());
        value.extend(1u64.to_le_bytes());
    }
    assert_refused(&GgufFile::default().raw("a", ARRAY, &value), "deeper than 4");
}

#[test]
fn nested_arrays_are_read() {
    let inner = [&U32.to_le_bytes()[..], &1u64.to_le_bytes(), &7u32.to_le_bytes()].concat();
    let header = parse(&GgufFile::default().array("a", ARRAY, &[inner]).bytes()).unwrap();
    let expected = Value::Array(Array::Array(vec![Array::U32(vec![7])]));
    assert_eq!(header.metadata().get("a"), Some(&expected));
}

#[test]
fn load_refuses_unknown_value_types_and_odd_bools() {
    assert_refused(&GgufFile::default().raw("k", 13, &[0; 8]), "type code 13");
    assert_refused(&GgufFile::default().raw("k", gguf_file::BOOL, &[2]), "bool of value 2");
}

#[test]
fn load_refuses_text_that_is_not_utf8() {
    assert_refused(&GgufFile::default().raw("k", STRING, &string([0xC3, 0x28])), "UTF-8");
    let file = GgufFile::default().tensor_at([0xFF], &[1], F32, None, &[0; 4]);
    assert_refused(&file, "UTF-8");
}

#[test]
fn load_refuses_names_that_are_empty_too_long_or_twice_there() {
    assert_refused(&GgufFile::default().u32("", 1), "key is empty");
    assert_refused(&GgufFile::default().u32("k", 1).u32("k", 2), "twice");
    assert_refused(&GgufFile::default().tensor("", &[1], F32, &[0; 4]), "is empty");
    assert_refused(&GgufFile::default().tensor("a\0b", &[1], F32, &[0; 4]), "zero byte");
    let long = "x".repeat(1025);
    assert_refused(&GgufFile::default().tensor(&long, &[1], F32, &[0; 4]), "at most 1024");
    assert_refused(&GgufFile::default().u32(&"k".repeat(1 << 16), 1), "at most 65535");
    assert_refused(&two_tensors().tensor("a", &[1], F32, &[0; 4]), "twice");
}

#[test]
fn load_refuses_alignments_that_are_no_power_of_two_or_huge() {
    for alignment in [0, 3, 24, 1 << 21, u32::MAX] {
        assert_refused(&two_tensors().u32("general.alignment", alignment), "power of two");
    }
    assert_refused(&two_tensors().str("general.alignment", "32"), "expected a whole number");
}

#[test]
fn load_refuses_shapes_that_overflow() {
    let huge = 1u64 << 32;
    for dims in [
        &[u64::MAX][..],
        &[huge, huge],
        &[1 << 62],
        &[0, u64::MAX, 2],
        &[huge, 0, huge],
        &[huge, huge, 0],
    ] {
        refusal(&GgufFile::default().tensor("t", dims, F32, &[0; 8]).bytes());
    }
    let message = refusal(&GgufFile::default().tensor("t", &[1; 5], F32, &[0; 4]).bytes());
    assert!(message.contains("5 dimensions"), "{message}");
}

#[test]
fn load_refuses_rows_that_are_not_whole_blocks() {
    assert_refused(&GgufFile::default().tensor("t", &[33], Q8_0, &[0; 68]), "multiple of the 32");
    assert_refused(&GgufFile::default().tensor("t", &[], Q8_0, &[0; 34]), "multiple of the 32");
}

#[test]
fn load_refuses_unknown_storage_types() {
    assert_refused(&GgufFile::default().tensor("t", &[32], 4, &[0; 64]), "ggml type 4");
}

#[test]
fn load_refuses_tensors_that_leave_the_file() {
    for offset in [32, 1 << 40, u64::MAX - 31] {
        refusal(&GgufFile::default().tensor_at("t", &[8], F32, Some(offset), &[0; 32]).bytes());
    }
}

#[test]
fn load_refuses_misaligned_offsets() {
    let file = GgufFile::default().tensor_at("t", &[1], F32, Some(4), &[0; 64]);
    assert_refused(&file, "not a multiple of the alignment 32");
}

#[test]
fn load_refuses_overlapping_tensors() {
    let file = GgufFile::default().tensor("a", &[16], F32, &[0; 64]).tensor_at(
        "b",
        &[8],
        F32,
        Some(32),
        &[0; 32],
    );
    assert_refused(&file, "overlap");
    let same = GgufFile::default().tensor("a", &[8], F32, &[0; 32]).tensor_at(
        "b",
        &[8],
        F32,
        Some(0),
        &[0; 32],
    );
    assert_refused(&same, "overlap");
}

#[test]
fn empty_tensors_and_scalars_are_read() {
    let file = GgufFile::default().tensor("scalar", &[], F32, &1f32.to_le_bytes()).tensor(
        "empty",
        &[32, 0],
        Q8_0,
        &[],
    );
    let header = parse(&file.bytes()).unwrap();
    assert_eq!((header.tensors()[0].shape.len(), header.tensors()[0].len()), (0, 1));
    assert!(header.tensors()[1].is_empty() && header.tensors()[1].bytes.is_empty());
}

/// Every tensor of an accepted header can be read and decoded without a further check.
fn use_everything(file: &[u8]) {
    let Ok(header) = parse(file) else { return };
    for t in header.tensors() {
        let bytes = &file[t.bytes.clone()];
        // A mutated size that was accepted lies within the file, so this stays small.
        let mut out = vec![0.0; t.len()];
        if t.block.is_decodable() {
            t.block.decode(bytes, &mut out).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = two_tensors().bytes();
        // The header is where a mutation matters; the data begins 96 bytes before the end.
        let header_len = bytes.len() - 96;
        for (at, value) in edits {
            bytes[at.index(header_len)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        use_everything(&bytes);
    }

    #[test]
    fn numbers_of_all_sizes_anywhere_in_the_header_never_panic(
        at in any::<prop::sample::Index>(),
        number in prop_oneof![
            any::<u64>(), Just(u64::MAX), Just(0), (0u32..64).prop_map(|b| 1 << b), 0u64..300,
        ],
    ) {
        let mut bytes = two_tensors().bytes();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        use_everything(&bytes);
    }

    #[test]
    fn any_bytes_after_the_magic_never_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        use_everything(&[b"GGUF\x03\0\0\0", &tail[..]].concat());
    }
}
