//! Rounding at every boundary and midpoint, against the definition: the nearest value, ties to
//! even, nothing in between.

use ferrocerium::num::{E2M1, E8M0, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, f16};

use crate::{NARROW, Narrow, Random};

/// The code nearest to `x ≥ 0` by comparing with the midpoints, which are exact in `f64`.
fn nearest(format: &Narrow, x: f64) -> u8 {
    let value = |code: u8| {
        if code > format.max_code { format.next } else { (format.to_f64)(code) }
    };
    for code in 0..format.max_code {
        let (low, high) = (value(code), value(code + 1));
        let middle = low + (high - low) / 2.0;
        // E8M0 has significand 1 only: the even neighbour of a tie is 2, the upper one.
        let tie_stays = format.name != "e8m0" && code % 2 == 0;
        if x < middle || x == middle && tie_stays {
            return code;
        }
    }
    format.max_code
}

fn signed(format: &Narrow, code: u8) -> u8 {
    match format.name {
        "ue4m3" => 0,
        _ => code | format.sign,
    }
}

fn check_f64(format: &Narrow, x: f64) {
    let want = nearest(format, x);
    assert_eq!((format.from_f64)(x), want, "{} {x:e}", format.name);
    assert_eq!((format.from_f64)(-x), signed(format, want), "{} -{x:e}", format.name);
}

fn check_f32(format: &Narrow, x: f32) {
    let want = nearest(format, x.into());
    assert_eq!((format.from_f32)(x), want, "{} {x:e}", format.name);
    assert_eq!((format.from_f32)(-x), signed(format, want), "{} -{x:e}", format.name);
}

#[test]
fn every_boundary_and_midpoint_rounds_right_and_so_do_both_neighbours() {
    for format in NARROW {
        let mut points: Vec<f64> = (0..=format.max_code).map(format.to_f64).collect();
        points.push(format.next);
        let middles: Vec<f64> = points.windows(2).map(|w| w[0] + (w[1] - w[0]) / 2.0).collect();
        for x in points.into_iter().chain(middles) {
            for x in [x, x.next_up(), x.next_down().abs()] {
                check_f64(&format, x);
            }
            let x = x as f32;
            for x in [x, x.next_up(), x.next_down().abs()] {
                check_f32(&format, x);
            }
        }
    }
}

#[test]
fn random_bit_patterns_round_to_the_nearest_value() {
    let mut random = Random::fresh();
    for format in NARROW {
        for _ in 0..20_000 {
            let bits = random.bits();
            let x = f32::from_bits(bits as u32 >> 1);
            if !x.is_nan() {
                check_f32(&format, x);
            }
            // Exponents near the format's range: most f64 patterns are far outside of it.
            let x = f64::from_bits(bits >> 12 | (1023 - 40 + (bits % 60)) << 52);
            check_f64(&format, x);
        }
    }
}

/// `from_f32` has its own fast path; all 2^32 inputs are run through both with
/// `cargo test --release --test num -- --ignored`.
#[test]
#[ignore = "takes 100 s"]
fn fast_and_general_rounding_agree_on_every_f32() {
    for format in NARROW {
        for bits in 0..=u32::MAX {
            let x = f32::from_bits(bits);
            // As f64, a NaN keeps its sign and a subnormal becomes normal.
            assert_eq!((format.from_f32)(x), (format.from_f64)(x.into()), "{} {x:e}", format.name);
        }
    }
}

#[test]
fn every_code_round_trips() {
    for format in NARROW {
        let all = if format.name == "e2m1" { 15 } else { 255 };
        for code in 0..=all {
            let x = (format.to_f32)(code);
            if x.is_finite() && !(format.name == "ue4m3" && code > 0x7f) {
                assert_eq!((format.from_f32)(x), code, "{} {code:#x}", format.name);
                assert_eq!((format.from_f64)(x.into()), code, "{} {code:#x}", format.name);
            }
        }
    }
}

#[test]
fn conversion_keeps_order() {
    let mut random = Random::fresh();
    for format in NARROW.iter().filter(|f| f.sign != 0) {
        for _ in 0..20_000 {
            let (a, b) = (random.bits(), random.bits());
            let a = f32::from_bits(a as u32);
            let b = f32::from_bits((a.to_bits() & 0xff80_0000) | (b as u32 >> 9));
            if a <= b {
                let low = (format.to_f32)((format.from_f32)(a));
                let high = (format.to_f32)((format.from_f32)(b));
                assert!(low <= high, "{}: {a:e} ≤ {b:e}, {low} > {high}", format.name);
            }
        }
    }
}

#[test]
fn values_that_would_round_twice_through_16_bits_round_once() {
    // 1 + 2^-4 is a tie of E4M3 and goes down to 1; a little more must go up, though f16 and bf16
    // both round it to the tie.
    let x = 1.0 + 2f32.powi(-4) + 2f32.powi(-13);
    assert_eq!(F8E4M3::from_f32(f16::from_f32(x).to_f32()).to_f32(), 1.0);
    assert_eq!(F8E4M3::from_f32(bf16::from_f32(x).to_f32()).to_f32(), 1.0);
    assert_eq!(F8E4M3::from_f32(x).to_f32(), 1.125);
    assert_eq!(UE4M3::from_f32(x).to_f32(), 1.125);
    let x = 1.0 + 2f32.powi(-3) + 2f32.powi(-13);
    assert_eq!(F8E5M2::from_f32(bf16::from_f32(x).to_f32()).to_f32(), 1.0);
    assert_eq!(F8E5M2::from_f32(x).to_f32(), 1.25);
    let x = 1.25 + 2f32.powi(-13);
    assert_eq!(E2M1::from_f32(bf16::from_f32(x).to_f32()).to_f32(), 1.0);
    assert_eq!(E2M1::from_f32(x).to_f32(), 1.5);
    // The same from f64, through f32.
    let x = 1.0 + 2f64.powi(-4) + 2f64.powi(-40);
    assert_eq!(F8E4M3::from_f32(x as f32).to_f32(), 1.0);
    assert_eq!(F8E4M3::from_f64(x).to_f32(), 1.125);
}

#[test]
fn infinities_saturate_and_nan_stays_where_the_format_has_it() {
    for (x, sign) in [(f32::INFINITY, 0), (f32::NEG_INFINITY, 0x80)] {
        assert_eq!(F8E4M3::from_f32(x).to_bits(), 0x7e | sign);
        assert_eq!(F8E5M2::from_f32(x).to_bits(), 0x7b | sign);
        assert_eq!(F8E5M2::from_f64(x.into()).to_bits(), 0x7b | sign);
        assert_eq!(F8E4M3::from_f32_non_saturating(x).to_bits(), 0x7f | sign);
        assert_eq!(F8E5M2::from_f32_non_saturating(x).to_bits(), 0x7c | sign);
        assert_eq!(E2M1::from_f32(x).to_bits(), 0x7 | sign >> 4);
        assert_eq!(E8M0::from_f32_floor(x), E8M0::MAX);
    }
    // Quiet and signalling, of both signs, whatever the payload.
    for bits in [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0xff80_0001, 0x7fff_ffff] {
        let nan = f32::from_bits(bits);
        assert!(F8E4M3::from_f32(nan).is_nan() && F8E4M3::from_f64(nan.into()).is_nan());
        assert!(F8E5M2::from_f32(nan).is_nan() && F8E5M2::from_f64(nan.into()).is_nan());
        assert!(F8E4M3::from_f32_non_saturating(nan).is_nan());
        assert!(F8E5M2::from_f32_non_saturating(nan).is_nan());
        assert!(F8E4M3::from_f32_stochastic(nan, 7).is_nan());
        assert!(F8E5M2::from_f32_stochastic(nan, 7).is_nan());
        assert!(UE4M3::from_f32(nan).is_nan() && UE4M3::from_f64(nan.into()).is_nan());
        for convert in [E8M0::from_f32_floor, E8M0::from_f32_ceil, E8M0::from_f32_nearest] {
            assert!(convert(nan).is_nan());
        }
        assert_eq!(E2M1::from_f32(nan), E2M1::MAX);
        assert_eq!(E2M1::from_f64(nan.into()), E2M1::MAX);
        assert_eq!(E2M1::from_f32_stochastic(nan, 7), E2M1::MAX);
    }
}

#[test]
fn powers_of_two_bracket_every_scale() {
    let mut random = Random::fresh();
    for _ in 0..100_000 {
        let x = f32::from_bits(random.bits() as u32 & 0x7fff_ffff);
        if x.is_finite() && (E8M0::MIN.to_f32()..=E8M0::MAX.to_f32()).contains(&x) {
            let (floor, ceil) = (E8M0::from_f32_floor(x), E8M0::from_f32_ceil(x));
            assert!(floor.to_f32() <= x && x <= ceil.to_f32(), "{x:e}");
            let exact = u8::from(floor.to_f32() != x);
            assert_eq!(ceil.to_bits() - floor.to_bits(), exact, "{x:e}");
            let nearest = E8M0::from_f32_nearest(x);
            assert!(nearest == floor || nearest == ceil, "{x:e}");
            assert_eq!(E8M0::from_f32_floor(-x), floor, "the sign is discarded");
            assert_eq!(E8M0::try_from_f32(x).is_ok(), exact == 0);
        }
    }
    for exponent in -300..300 {
        let code = E8M0::from_exponent(exponent);
        assert_eq!(code.exponent(), Some(exponent.clamp(-127, 127)));
        assert_eq!(code.to_f64(), 2f64.powi(exponent.clamp(-127, 127)));
    }
    assert_eq!(E8M0::NAN.exponent(), None);
    for tiny in [0.0, -0.0, f32::from_bits(1), 2f32.powi(-128)] {
        for convert in [E8M0::from_f32_floor, E8M0::from_f32_ceil, E8M0::from_f32_nearest] {
            assert_eq!(convert(tiny), E8M0::MIN, "{tiny:e}");
        }
    }
    assert_eq!(E8M0::from_f32_ceil(f32::MAX), E8M0::MAX);
}

#[test]
fn checked_conversions_name_what_they_refuse() {
    let text = |e: ferrocerium::Error| e.to_string();
    assert!(text(E2M1::try_from_f32(f32::NAN).unwrap_err()).contains("NaN"));
    assert_eq!(E2M1::try_from_f32(f32::INFINITY).unwrap(), E2M1::MAX);
    for bad in [f32::NAN, f32::INFINITY, -1.0, f32::NEG_INFINITY, -f32::from_bits(1)] {
        assert!(text(UE4M3::try_from_f32(bad).unwrap_err()).contains(&bad.to_string()));
    }
    assert_eq!(UE4M3::try_from_f32(-0.0).unwrap().to_bits(), 0);
    for bad in [0.0, 3.0, -2.0, f32::NAN, f32::INFINITY, f32::from_bits(1)] {
        assert!(text(E8M0::try_from_f32(bad).unwrap_err()).contains(&bad.to_string()));
    }
    assert_eq!(E8M0::try_from_f32(0.25).unwrap().exponent(), Some(-2));
}

/// The nearest 16-bit code to `x ≥ 0` by bisection over the codes' values.
fn nearest_half(to_f64: fn(u16) -> f64, infinity: u16, x: f64) -> u16 {
    let (mut low, mut high) = (0, infinity);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if to_f64(middle) <= x { low = middle } else { high = middle }
    }
    let top = 2.0 * to_f64(infinity - 1) - to_f64(infinity - 2);
    let value = |c: u16| if c == infinity { top } else { to_f64(c) };
    let middle = value(low) + (value(high) - value(low)) / 2.0;
    if x < middle || x == middle && low % 2 == 0 { low } else { high }
}

#[test]
fn bf16_and_f16_round_once_from_f32_and_f64() {
    let mut random = Random::fresh();
    let check = |x: f64| {
        let (b, h) = (<bf16 as Scalar>::from_f64(x), <f16 as Scalar>::from_f64(x));
        let b_want = nearest_half(|c| bf16::from_bits(c).to_f64(), 0x7f80, x);
        let h_want = nearest_half(|c| f16::from_bits(c).to_f64(), 0x7c00, x);
        assert_eq!((b.to_bits(), h.to_bits()), (b_want, h_want), "{x:e}");
        let x = x as f32;
        let b_want = nearest_half(|c| bf16::from_bits(c).to_f64(), 0x7f80, x.into());
        let h_want = nearest_half(|c| f16::from_bits(c).to_f64(), 0x7c00, x.into());
        assert_eq!(<bf16 as Scalar>::from_f32(x).to_bits(), b_want, "{x:e}");
        assert_eq!(<f16 as Scalar>::from_f32(x).to_bits(), h_want, "{x:e}");
        // Without the processor's conversion, as on machines that have none.
        assert_eq!(f16::from_f32_const(x).to_bits(), h_want, "{x:e} in software");
    };
    for _ in 0..20_000 {
        let bits = random.bits();
        let exponent = 1023 - 140 + bits % 270;
        let f16_exponent = 1023 - 30 + bits % 50;
        for exponent in [exponent, f16_exponent] {
            check(f64::from_bits(bits >> 12 | exponent << 52));
            // Near ties: the kept bits of bf16 or f16, then 1000…0 or so.
            for keep in [7, 10] {
                let tie = (bits >> 12 | exponent << 52) >> (51 - keep) << (51 - keep);
                for near in [tie - 1, tie, tie + 1] {
                    check(f64::from_bits(near));
                }
            }
        }
    }
    for x in [0.0, f64::MAX, f64::INFINITY, f64::from_bits(1), 65504.0, 65519.9, 65520.0] {
        check(x);
    }
    // Payloads too: one that only the low bits of an f64 hold must not become infinity.
    for x in [f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001)] {
        assert!(<bf16 as Scalar>::from_f64(x).is_nan() && <f16 as Scalar>::from_f64(x).is_nan());
    }
    assert_eq!(<bf16 as Scalar>::from_f64(-0.0).to_bits(), 0x8000);
    assert_eq!(<f16 as Scalar>::from_f64(-1e9).to_bits(), 0xfc00);
}
