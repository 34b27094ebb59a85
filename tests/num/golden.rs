//! Agreement with the tables of `tests/golden/generate_num.py`.

use std::path::Path;

use ferrocerium::num::{F8E4M3, F8E5M2, Scalar, bf16, f16};

use crate::NARROW;

fn read(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/num").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Records of a little-endian source of `S` bytes and a code of `C` bytes.
fn records<const S: usize, const C: usize>(name: &str) -> Vec<([u8; S], [u8; C])> {
    let data = read(name);
    assert!(data.len() > 1000 && data.len().is_multiple_of(S + C), "{name}: {} bytes", data.len());
    let record = |r: &[u8]| (r[..S].try_into().unwrap(), r[S..].try_into().unwrap());
    data.chunks(S + C).map(record).collect()
}

#[test]
fn every_code_has_its_golden_value() {
    for format in NARROW {
        let data = read(&format!("{}.values", format.name));
        assert_eq!(data.len(), if format.name == "e2m1" { 64 } else { 1024 });
        for (code, value) in data.chunks(4).enumerate() {
            let want = f32::from_le_bytes(value.try_into().unwrap());
            let (code, name) = (code as u8, format.name);
            let (got, got64) = ((format.to_f32)(code), (format.to_f64)(code));
            if want.is_nan() {
                assert!(got.is_nan() && got64.is_nan(), "{name} {code:#x}");
            } else {
                assert_eq!(got.to_bits(), want.to_bits(), "{name} {code:#x}");
                assert_eq!(got64.to_bits(), f64::from(want).to_bits(), "{name} {code:#x}");
            }
        }
    }
}

#[test]
fn f32_rounds_to_the_golden_codes() {
    for format in NARROW {
        for (bits, [want]) in records::<4, 1>(&format!("{}.f32", format.name)) {
            let x = f32::from_le_bytes(bits);
            assert_eq!((format.from_f32)(x), want, "{} {x:e}", format.name);
            if !x.is_nan() {
                assert_eq!((format.from_f64)(x.into()), want, "{} {x:e} as f64", format.name);
            }
        }
    }
}

#[test]
fn f64_rounds_once_to_the_golden_codes() {
    for format in NARROW {
        for (bits, [want]) in records::<8, 1>(&format!("{}.f64", format.name)) {
            let x = f64::from_le_bytes(bits);
            assert_eq!((format.from_f64)(x), want, "{} {x:e}", format.name);
        }
    }
}

#[test]
fn overflow_without_saturation_gives_nan_or_infinity_as_golden() {
    for (bits, [want]) in records::<4, 1>("e4m3.f32ns") {
        let x = f32::from_le_bytes(bits);
        assert_eq!(F8E4M3::from_f32_non_saturating(x).to_bits(), want, "{x:e}");
    }
    for (bits, [want]) in records::<4, 1>("e5m2.f32ns") {
        let x = f32::from_le_bytes(bits);
        assert_eq!(F8E5M2::from_f32_non_saturating(x).to_bits(), want, "{x:e}");
    }
}

#[test]
fn f64_rounds_once_to_bf16_and_f16() {
    fn check<T: Scalar>(file: &str, bits_of: fn(T) -> u16) {
        for (bits, code) in records::<8, 2>(file) {
            let x = f64::from_le_bytes(bits);
            assert_eq!(bits_of(T::from_f64(x)), u16::from_le_bytes(code), "{file} {x:e}");
        }
    }
    check::<bf16>("bf16.f64", bf16::to_bits);
    check::<f16>("f16.f64", f16::to_bits);
}
