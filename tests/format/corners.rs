//! The edges of the rules, one by one.

use ferrocerium::Error;
use ferrocerium::format::{Format, Quantizer, dequantize};

use crate::support::{Packed, row_major, rules};

const MX: [(Format, i32); 3] =
    [(Format::Mxfp4, 2), (Format::Mxfp8E4M3, 8), (Format::Mxfp8E5M2, 15)];

fn pack(format: Format, rule: Quantizer, row: &[f32]) -> Packed {
    Packed::new(row_major(format, 1, 1, row.len()), rule, row).unwrap()
}

#[test]
fn the_element_with_the_lower_index_is_in_the_low_nibble() {
    let packed = pack(Format::Mxfp4, Quantizer::Ocp, &[4.0, -1.0, 6.0]);
    assert_eq!(packed.codes[..3], [0xA6, 0x07, 0x00]);
}

#[test]
fn all_zero_tensors_have_the_documented_scales_and_zero_codes() {
    for format in Format::ALL {
        for rule in rules(format) {
            let packed = pack(format, rule, &[0.0; 40]);
            assert_eq!(packed.tensor_scale, 1.0, "{format} {rule}");
            assert!(packed.codes.iter().all(|&c| c == 0), "{format} {rule}");
            match format.spec().scale.size() {
                1 => assert!(packed.scales.iter().all(|&s| s == 0), "{format} {rule}"),
                _ => assert_eq!(packed.scales, 1f32.to_ne_bytes(), "{format} {rule}"),
            }
            let negative = pack(format, rule, &[-0.0; 40]).values();
            assert!(negative.iter().all(|x| x.to_bits() == (-0f32).to_bits()), "{format} {rule}");
        }
    }
}

#[test]
fn tensor_and_f32_scales_are_never_subnormal_or_zero() {
    for amax in [f32::from_bits(1), f32::from_bits(1000), 1e-40, f32::MIN_POSITIVE, 1e-36] {
        for rule in rules(Format::Nvfp4) {
            let packed = pack(Format::Nvfp4, rule, &[amax, -amax / 2.0]);
            assert_eq!(packed.tensor_scale, f32::MIN_POSITIVE, "{amax} {rule}");
            let y = packed.values();
            assert!((y[0] - amax).abs() <= amax.max(2f32.powi(-136)), "{amax} {rule}: {y:?}");
        }
        for format in Format::ALL.into_iter().filter(|f| f.spec().scale.size() == 4) {
            for rule in rules(format) {
                let unit = pack(format, rule, &[amax]).unit(0);
                assert!(unit >= f64::from(f32::MIN_POSITIVE), "{format} {rule} {amax}: {unit}");
            }
        }
    }
}

#[test]
fn values_at_the_largest_f32_stay_finite() {
    let below = f32::MAX.next_down();
    for format in Format::ALL {
        for rule in rules(format) {
            for row in [[f32::MAX, 1.0], [-f32::MAX, f32::MAX], [below, 3e38], [1.9e38, -2.9e38]] {
                let y = pack(format, rule, &row).values();
                for (x, y) in row.iter().zip(&y) {
                    assert!(y.is_finite(), "{format} {rule}: {x} became {y}");
                }
                // 25% is MXFP4's worst, saturated from just below 8 to 6.
                assert!((y[0] / row[0] - 1.0).abs() <= 0.25, "{format} {rule}: {row:?} {y:?}");
            }
        }
    }
}

#[test]
fn a_whole_tensor_at_the_largest_f32_survives_exactly_in_formats_with_fine_scales() {
    for format in [Format::Nvfp4, Format::Fp8TensorE4M3, Format::Fp8TensorE5M2, Format::Fp8Row] {
        assert_eq!(pack(format, Quantizer::Amax, &[f32::MAX; 3]).values(), [f32::MAX; 3]);
    }
}

#[test]
fn ocp_scales_follow_the_exponent_of_amax_and_saturate_above_the_largest_code() {
    for (format, emax) in MX {
        let max = format.spec().code_max;
        for exponent in -100..100 {
            let scale = 2f32.powi(exponent);
            let top = 2f32.powi(emax + 1).next_down();
            for (rule, amax, code, decoded) in [
                (Quantizer::Ocp, 2f32.powi(emax), 0, 2f32.powi(emax)),
                (Quantizer::Ocp, max, 0, max),
                (Quantizer::Ocp, top, 0, max),
                (Quantizer::Amax, max, 0, max),
                (Quantizer::Amax, max.next_up(), 1, max),
                (Quantizer::Amax, top, 1, top.next_up()),
                (Quantizer::OcpCeil, 2f32.powi(emax), 0, 2f32.powi(emax)),
                (Quantizer::OcpCeil, 2f32.powi(emax).next_up(), 1, 2f32.powi(emax)),
                (Quantizer::OcpCeil, top, 1, top.next_up()),
            ] {
                let packed = pack(format, rule, &[amax * scale]);
                let what = format!("{format} {rule} {amax} at 2^{exponent}");
                assert_eq!(i32::from(packed.scales[0]), exponent + code + 127, "{what}");
                // Half of max, rounded, under the doubled scale is max again for E2M1 only.
                let off = (packed.values()[0] / scale - decoded).abs();
                assert!(off <= f32::EPSILON * max, "{what}: {off}");
            }
        }
    }
}

#[test]
fn mx_scales_are_clamped_at_both_ends() {
    for (format, emax) in MX {
        for rule in rules(format) {
            let low = pack(format, rule, &[f32::from_bits(1)]);
            assert_eq!(low.scales[0], 0, "{format} {rule}");
            let high = pack(format, rule, &[f32::MAX]);
            assert_eq!(i32::from(high.scales[0]), 254 - emax, "{format} {rule}");
            assert_eq!(high.exact()[0], f64::from(format.spec().code_max) * 2f64.powi(127 - emax));
        }
    }
}

#[test]
fn nvfp4_block_scales_that_round_to_zero_make_the_block_zero() {
    // 448·1024 = 458752: half the smallest scale is a tie and goes to zero.
    let g = 1.0;
    let amax = 2688f32;
    let mut row = vec![0.0; 48];
    row[0] = amax;
    row[16] = amax / 458752.0;
    row[32] = -(amax / 458752.0).next_up();
    let packed = pack(Format::Nvfp4, Quantizer::Amax, &row);
    assert_eq!((packed.tensor_scale, &packed.scales[..]), (g, &[0x7E, 0, 1][..]));
    let y = packed.values();
    assert_eq!((y[0], y[16], y[32]), (2688.0, 0.0, -3.0 / 512.0));
}

#[test]
fn four_over_six_maps_to_four_where_that_is_closer() {
    // Three quarters of amax fall between 4 and 6 on the one scale, on 3 on the other.
    let row = [12.0, 9.0, 9.0, -9.0];
    let fix = |rule: Quantizer| {
        let layout = row_major(Format::Nvfp4, 1, 1, row.len());
        Packed::new(layout, rule.with_tensor_scale(1.0), &row).unwrap()
    };
    assert_eq!(fix(Quantizer::Amax).unit(0), 2.0);
    assert_eq!(fix(Quantizer::FourOverSix).unit(0), 3.0);
    assert_eq!(fix(Quantizer::FourOverSix).values(), row);
    // A tie (both exact) keeps 6.
    let layout = row_major(Format::Nvfp4, 1, 1, 2);
    let tie = Packed::new(layout, Quantizer::FourOverSix.with_tensor_scale(1.0), &[12.0, 6.0]);
    assert_eq!(tie.unwrap().unit(0), 2.0);
}

#[test]
fn a_given_tensor_scale_is_used_as_it_is() {
    let row = [1.0, -2.0, 600.0, 1e-9];
    for (format, g) in [
        (Format::Nvfp4, 0.5),
        (Format::Nvfp4, 1e-3),
        (Format::Fp8TensorE4M3, 1.0),
        (Format::Fp8TensorE5M2, 0.25),
    ] {
        let layout = row_major(format, 1, 1, row.len());
        let packed = Packed::new(layout, Quantizer::Amax.with_tensor_scale(g), &row).unwrap();
        let y = packed.values();
        match format {
            Format::Nvfp4 => assert_eq!(packed.tensor_scale, g),
            _ => assert_eq!(packed.scales, g.to_ne_bytes()),
        }
        match format {
            // Beyond 6·448·g.
            Format::Nvfp4 if g == 1e-3 => assert_eq!(y[2], 2688.0 * g),
            Format::Fp8TensorE4M3 => assert_eq!(y[..3], [1.0, -2.0, 448.0]),
            _ => assert!((y[2] / 600.0 - 1.0).abs() < 0.2, "{format}: {y:?}"),
        }
    }
}

#[test]
fn any_positive_tensor_scale_gives_finite_values() {
    let row = [f32::MAX, -1e38, 1.0, 1e-38, f32::from_bits(1), 0.0];
    for format in [Format::Nvfp4, Format::Fp8TensorE4M3, Format::Fp8TensorE5M2] {
        for rule in rules(format) {
            for g in [f32::from_bits(1), 1e-41, f32::MIN_POSITIVE, 1.0, 1e36, f32::MAX] {
                let layout = row_major(format, 1, 1, row.len());
                let packed = Packed::new(layout, rule.with_tensor_scale(g), &row).unwrap();
                assert!(packed.values().iter().all(|y| y.is_finite()), "{format} {rule} {g}");
            }
        }
    }
}

#[test]
fn tensor_scales_that_cannot_be_are_value_errors() {
    for g in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let layout = row_major(Format::Nvfp4, 1, 1, 16);
        let found = Packed::new(layout, Quantizer::Amax.with_tensor_scale(g), &[1.0; 16]);
        assert!(matches!(found, Err(Error::Value { arg: "tensor_scale", .. })), "{g}: {found:?}");
    }
    for format in [Format::Mxfp4, Format::Fp8Row, Format::Fp8Block128] {
        let layout = row_major(format, 1, 1, 16);
        let found = Packed::new(layout, Quantizer::Amax.with_tensor_scale(1.0), &[1.0; 16]);
        assert!(matches!(found, Err(Error::Value { arg: "tensor_scale", .. })), "{found:?}");
        let (codes, scales) = (vec![0; layout.codes_len()], vec![0; layout.scales_bytes()]);
        let found = dequantize(&layout, &codes, &scales, 0.5, &mut [0.0; 16]);
        assert!(matches!(found, Err(Error::Value { arg: "tensor_scale", .. })), "{found:?}");
    }
}

#[test]
fn a_nan_scale_makes_its_block_nan() {
    for (format, nan) in [(Format::Nvfp4, 0x7F), (Format::Mxfp4, 0xFF), (Format::Mxfp8E5M2, 0xFF)] {
        let block = format.spec().block_k;
        let layout = row_major(format, 1, 1, 2 * block);
        let mut packed = Packed::new(layout, Quantizer::Amax, &vec![0.0; 2 * block]).unwrap();
        packed.scales[1] = nan;
        let y = packed.values();
        assert!(y[..block].iter().all(|&y| y == 0.0) && y[block..].iter().all(|y| y.is_nan()));
    }
}

#[test]
fn rules_that_a_format_lacks_are_refused_with_those_it_has() {
    for format in Format::ALL {
        for rule in Quantizer::ALL {
            let layout = row_major(format, 1, 1, 4);
            match Packed::new(layout, rule, &[1.0; 4]) {
                Ok(_) => assert!(rule.supports(format)),
                Err(Error::Value { arg: "quantizer", problem, .. }) => {
                    assert!(!rule.supports(format));
                    for other in rules(format) {
                        assert!(problem.contains(other.name()), "{problem}");
                    }
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert!(Quantizer::default_for(format).supports(format));
    }
}

#[test]
fn names_of_rules_and_formats_parse_back() {
    for rule in Quantizer::ALL {
        assert_eq!(rule.to_string().parse::<Quantizer>().unwrap(), rule);
    }
    for format in Format::ALL {
        assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
    }
    assert!(matches!("best".parse::<Quantizer>(), Err(Error::Parse { what: "quantizer", .. })));
}
