//! Constants, comparison, text, bytes and generic numeric traits.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use ferrocerium::num::{
    DType, E2M1, E2M1x2, E8M0, Element, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, f16,
};
use num_traits::{Bounded, FromPrimitive, ToPrimitive};

use crate::NARROW;

fn all<T>(from_bits: fn(u8) -> T) -> impl Iterator<Item = T> {
    (0..=u8::MAX).map(from_bits)
}

#[test]
fn constants_have_their_values() {
    for (got, want) in [
        (F8E4M3::MAX.to_f64(), 448.0),
        (F8E4M3::MIN.to_f64(), -448.0),
        (F8E4M3::MIN_POSITIVE.to_f64(), 2f64.powi(F8E4M3::MIN_EXP - 1)),
        (F8E4M3::MIN_POSITIVE_SUBNORMAL.to_f64(), 2f64.powi(-9)),
        (F8E4M3::MAX_SUBNORMAL.to_f64(), 7.0 * 2f64.powi(-9)),
        (F8E4M3::EPSILON.to_f64(), 2f64.powi(1 - F8E4M3::MANTISSA_DIGITS as i32)),
        (F8E5M2::MAX.to_f64(), 57344.0),
        (F8E5M2::MIN.to_f64(), -57344.0),
        (F8E5M2::MIN_POSITIVE.to_f64(), 2f64.powi(F8E5M2::MIN_EXP - 1)),
        (F8E5M2::MIN_POSITIVE_SUBNORMAL.to_f64(), 2f64.powi(-16)),
        (F8E5M2::MAX_SUBNORMAL.to_f64(), 3.0 * 2f64.powi(-16)),
        (F8E5M2::EPSILON.to_f64(), 2f64.powi(1 - F8E5M2::MANTISSA_DIGITS as i32)),
        (F8E5M2::INFINITY.to_f64(), f64::INFINITY),
        (F8E5M2::NEG_INFINITY.to_f64(), f64::NEG_INFINITY),
        (E2M1::MAX.to_f64(), 6.0),
        (E2M1::MIN.to_f64(), -6.0),
        (E2M1::MIN_POSITIVE.to_f64(), 1.0),
        (E2M1::MIN_POSITIVE_SUBNORMAL.to_f64(), 0.5),
        (E2M1::EPSILON.to_f64(), 0.5),
        (UE4M3::MAX.to_f64(), 448.0),
        (UE4M3::MIN.to_f64(), 0.0),
        (UE4M3::MIN_POSITIVE_SUBNORMAL.to_f64(), 2f64.powi(-9)),
        (E8M0::MAX.to_f64(), 2f64.powi(127)),
        (E8M0::MIN.to_f64(), 2f64.powi(-127)),
        (F8E4M3::NEG_ONE.to_f64(), -F8E4M3::ONE.to_f64()),
        (F8E5M2::NEG_ONE.to_f64(), -F8E5M2::ONE.to_f64()),
        (E2M1::NEG_ONE.to_f64(), -E2M1::ONE.to_f64()),
        (F8E4M3::ONE.to_f64() + F8E5M2::ONE.to_f64() + E2M1::ONE.to_f64(), 3.0),
        (UE4M3::ONE.to_f64() + E8M0::ONE.to_f64() + E8M0::default().to_f64(), 3.0),
    ] {
        assert_eq!(got, want);
    }
    assert!(F8E4M3::NAN.is_nan() && F8E5M2::NAN.is_nan());
    assert!(UE4M3::NAN.is_nan() && E8M0::NAN.is_nan());
    assert_eq!(E2M1::VALUES[..8], [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    assert!(F8E4M3::MAX.to_f64() < 2f64.powi(F8E4M3::MAX_EXP));
    assert!(F8E5M2::MAX.to_f64() < 2f64.powi(F8E5M2::MAX_EXP));
}

#[test]
fn classification_agrees_with_the_value() {
    for x in all(F8E4M3::from_bits) {
        let v = x.to_f32();
        assert_eq!((x.is_nan(), x.is_infinite(), x.is_finite()), (v.is_nan(), false, !v.is_nan()));
        assert_eq!(x.is_subnormal(), v != 0.0 && v.abs() < 2f32.powi(-6));
        assert_eq!(x.is_sign_negative(), x.to_bits() >= 0x80);
        assert_eq!(x.abs().to_bits(), x.to_bits() & 0x7f);
        assert_eq!((-x).to_bits(), x.to_bits() ^ 0x80);
    }
    for x in all(F8E5M2::from_bits) {
        let v = x.to_f32();
        assert_eq!(x.is_nan(), v.is_nan());
        assert_eq!((x.is_infinite(), x.is_finite()), (v.is_infinite(), v.is_finite()));
        assert_eq!(x.is_subnormal(), v != 0.0 && v.abs() < 2f32.powi(-14));
        assert_eq!((-x).to_bits(), x.to_bits() ^ 0x80);
    }
    for x in all(E2M1::from_bits) {
        assert_eq!((-x).to_f32().to_bits(), (-x.to_f32()).to_bits());
        assert_eq!(x.abs().to_f32(), x.to_f32().abs());
        assert_eq!(x.is_sign_negative(), x.to_f32().is_sign_negative());
    }
}

#[test]
fn comparison_is_of_values_as_ieee_754_has_it() {
    fn check<T: Scalar>(values: Vec<T>) {
        for &a in &values {
            for &b in &values {
                assert_eq!(a == b, a.to_f32() == b.to_f32());
                assert_eq!(a.partial_cmp(&b), a.to_f32().partial_cmp(&b.to_f32()));
            }
        }
    }
    check(all(F8E4M3::from_bits).collect());
    check(all(F8E5M2::from_bits).collect());
    check(all(UE4M3::from_bits).collect());
    check(all(E8M0::from_bits).collect());
    assert_eq!(E2M1::ZERO, E2M1::NEG_ZERO);
    assert_eq!(F8E4M3::ZERO, F8E4M3::NEG_ZERO);
    assert_ne!(F8E4M3::NAN, F8E4M3::NAN);
    let state = RandomState::new();
    assert_eq!(state.hash_one(E2M1::ZERO), state.hash_one(E2M1::NEG_ZERO));
    assert_eq!(state.hash_one(F8E5M2::ZERO), state.hash_one(F8E5M2::NEG_ZERO));
}

#[test]
fn total_order_is_total_and_ieee_754s() {
    fn check<T: Copy>(from_bits: fn(u8) -> T, cmp: fn(&T, &T) -> Ordering, to_f32: fn(T) -> f32) {
        let mut codes: Vec<u8> = (0..=u8::MAX).collect();
        codes.sort_by(|&a, &b| cmp(&from_bits(a), &from_bits(b)));
        for pair in codes.windows(2) {
            let (a, b) = (to_f32(from_bits(pair[0])), to_f32(from_bits(pair[1])));
            assert!(a.is_nan() || b.is_nan() || a <= b, "{a} before {b}");
            assert!(!(a == 0.0 && b == 0.0) || a.is_sign_negative() >= b.is_sign_negative());
        }
        let (first, last) = (from_bits(codes[0]), from_bits(codes[255]));
        assert_eq!(cmp(&first, &last), Ordering::Less);
        assert_eq!(cmp(&last, &last), Ordering::Equal);
        assert!(to_f32(last).is_nan());
    }
    check(F8E4M3::from_bits, F8E4M3::total_cmp, F8E4M3::to_f32);
    check(F8E5M2::from_bits, F8E5M2::total_cmp, F8E5M2::to_f32);
    check(UE4M3::from_bits, UE4M3::total_cmp, UE4M3::to_f32);
    check(E8M0::from_bits, E8M0::total_cmp, E8M0::to_f32);
    assert_eq!(F8E4M3::from_bits(0xff).total_cmp(&F8E4M3::MIN), Ordering::Less);
    assert_eq!(E2M1::NEG_ZERO.total_cmp(&E2M1::ZERO), Ordering::Less);
}

#[test]
fn text_round_trips() {
    for format in NARROW {
        let codes = if format.name == "e2m1" { 16 } else { 256 };
        for code in (0..codes).map(|c| c as u8) {
            let text = (format.print)(code);
            let back = (format.parse)(&text).unwrap_or_else(|| panic!("{text}"));
            let (want, got) = ((format.to_f32)(code), (format.to_f32)(back));
            assert!(want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan(), "{text}");
        }
        for bad in ["", "x", "1e400", "-1e400", "1,5"] {
            assert_eq!((format.parse)(bad), None, "{} {bad}", format.name);
        }
    }
}

#[test]
fn text_is_rounded_but_not_saturated() {
    assert_eq!("0.3".parse::<F8E4M3>().unwrap().to_f32(), 0.3125);
    assert_eq!("464".parse::<F8E4M3>().unwrap(), F8E4M3::MAX);
    let error = "465".parse::<F8E4M3>().unwrap_err().to_string();
    assert!(error.contains("465") && error.contains("448"), "{error}");
    assert!("inf".parse::<F8E4M3>().is_err());
    assert_eq!("-inf".parse::<F8E5M2>().unwrap(), F8E5M2::NEG_INFINITY);
    assert!("1e6".parse::<F8E5M2>().is_err());
    assert!("nan".parse::<F8E5M2>().unwrap().is_nan());
    assert!("nan".parse::<E2M1>().is_err() && "7.1".parse::<E2M1>().is_err());
    assert!("-1".parse::<UE4M3>().is_err() && "-1".parse::<E8M0>().is_err());
    assert!("0".parse::<E8M0>().is_err());
    assert_eq!("0.25".parse::<E8M0>().unwrap().exponent(), Some(-2));
    assert_eq!(format!("{:>6.1}|{:e}", F8E4M3::ONE, F8E4M3::MAX), "   1.0|4.48e2");
    assert_eq!(format!("{:?} {}", F8E4M3::ONE, E2M1x2::from_bits(0xf1)), "1.0 (0.5, -6)");
}

#[test]
fn widening_is_lossless() {
    for x in all(F8E4M3::from_bits) {
        let same = |v: f32| v.to_bits() == x.to_f32().to_bits() || x.is_nan() && v.is_nan();
        assert!(same(f16::from(x).to_f32()) && same(bf16::from(x).to_f32()) && same(f32::from(x)));
    }
    for x in all(F8E5M2::from_bits) {
        let same = |v: f32| v.to_bits() == x.to_f32().to_bits() || x.is_nan() && v.is_nan();
        assert!(same(f16::from(x).to_f32()) && same(bf16::from(x).to_f32()));
        assert!(same(f64::from(x) as f32));
    }
}

#[test]
fn num_traits_round_or_decline() {
    assert_eq!(<F8E4M3 as FromPrimitive>::from_i32(17).unwrap().to_f32(), 16.0);
    assert!(<F8E4M3 as FromPrimitive>::from_u64(465).is_none());
    assert!(<E2M1 as FromPrimitive>::from_f32(f32::NAN).is_none());
    assert!(<UE4M3 as FromPrimitive>::from_i8(-1).is_none());
    assert_eq!(ToPrimitive::to_i32(&F8E5M2::MIN), Some(-57344));
    assert_eq!(ToPrimitive::to_u8(&F8E4M3::MAX), None);
    assert_eq!(ToPrimitive::to_i32(&F8E4M3::NAN), None);
    assert_eq!(<E8M0 as Bounded>::min_value().exponent(), Some(-127));
    assert_eq!(<E2M1 as Bounded>::max_value(), E2M1::MAX);
}

#[test]
fn bytes_are_values_and_only_nibbles_are_fp4_values() {
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    let values: &[F8E4M3] = bytemuck::cast_slice(&bytes);
    assert_eq!(values[0x38], F8E4M3::ONE);
    let pairs: &[E2M1x2] = bytemuck::cast_slice(&bytes);
    assert_eq!(pairs[0x21].hi(), E2M1::ONE);
    assert!(bytemuck::checked::try_cast_slice::<u8, E2M1>(&bytes[..16]).is_ok());
    assert!(bytemuck::checked::try_cast_slice::<u8, E2M1>(&bytes[16..17]).is_err());
    for bits in 0..=u8::MAX {
        let x = E2M1::from_bits(bits);
        assert_eq!(x.to_bits(), bits & 0xf);
        assert_eq!(bytemuck::bytes_of(&x), [bits & 0xf]);
    }
}

#[test]
fn a_data_type_knows_its_range_and_precision() {
    fn check<T: Scalar>(epsilon: f64) {
        let t = T::DTYPE;
        assert_eq!(t.size(), size_of::<T>());
        assert_eq!(t.unit_roundoff().unwrap(), epsilon / 2.0, "{t}");
        let (max, min) = (t.max_finite(), t.min_positive());
        assert_eq!(T::from_f64(max).to_f64(), max, "{t}");
        assert_eq!(T::from_f64(min).to_f64(), min, "{t}");
        // Nothing between the smallest value and what half of it rounds to.
        assert!([0.0, min].contains(&T::from_f64(min / 2.0).to_f64()), "{t}");
    }
    check::<f64>(f64::EPSILON);
    check::<f32>(f32::EPSILON.into());
    check::<bf16>(bf16::EPSILON.to_f64());
    check::<f16>(f16::EPSILON.to_f64());
    check::<F8E4M3>(F8E4M3::EPSILON.to_f64());
    check::<F8E5M2>(F8E5M2::EPSILON.to_f64());
    check::<UE4M3>(UE4M3::EPSILON.to_f64());
    check::<E8M0>(1.0);
    assert_eq!(E2M1x2::DTYPE.max_finite(), 6.0);
    assert_eq!(E2M1x2::DTYPE.min_positive(), 0.5);
    assert_eq!(E2M1x2::DTYPE.unit_roundoff(), Some(0.25));
    assert_eq!(DType::I8.max_finite(), 127.0);
    assert_eq!((DType::U8.mantissa_bits(), DType::U8.unit_roundoff()), (None, None));
    let names: HashSet<&str> = DType::ALL.iter().map(|t| t.name()).collect();
    assert_eq!(names.len(), DType::ALL.len());
    for t in DType::ALL {
        assert_eq!(t.to_string().parse::<DType>().unwrap(), t);
        assert!(!(t.is_float() && t.is_int()));
    }
    let error = "f7".parse::<DType>().unwrap_err().to_string();
    assert!(error.contains("f7") && error.contains("f8e4m3"), "{error}");
}

#[test]
fn integers_truncate_and_saturate() {
    assert_eq!(<i8 as Scalar>::from_f32(-300.0), -128);
    assert_eq!(<u8 as Scalar>::from_f32(-1.0), 0);
    assert_eq!(<i32 as Scalar>::from_f64(-1.9), -1);
    assert_eq!(<u16 as Scalar>::from_f32(f32::NAN), 0);
    assert_eq!(<u64 as Scalar>::from_f32(f32::INFINITY), u64::MAX);
    assert_eq!(Scalar::to_f32(16_777_217i32), 16_777_216.0);
}
