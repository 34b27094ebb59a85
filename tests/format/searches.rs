//! Rules that search never do worse, block by block, than the rules they start from.

use ferrocerium::format::{Format, QuantizeOptions, Quantizer};
use proptest::prelude::*;

use crate::support::{Case, Packed, case_of, cases, rules};

fn errors(case: &Case, options: impl Into<QuantizeOptions>) -> Vec<f64> {
    Packed::new(case.layout, options, &case.values).unwrap().errors(&case.values)
}

fn never_worse(better: &[f64], worse: &[f64]) -> Result<(), TestCaseError> {
    for (block, (b, w)) in better.iter().zip(worse).enumerate() {
        prop_assert!(b <= w, "block {}: squared error {} exceeds {}", block, b, w);
    }
    Ok(())
}

proptest! {
    #[test]
    fn mse_never_has_more_block_error_than_any_other_rule(case in cases()) {
        let mse = errors(&case, Quantizer::Mse);
        for rule in rules(case.layout.format()) {
            never_worse(&mse, &errors(&case, rule))?;
        }
    }

    #[test]
    fn four_over_six_never_has_more_block_error_than_amax(case in case_of(Format::Nvfp4)) {
        let amax = errors(&case, Quantizer::Amax);
        never_worse(&errors(&case, Quantizer::FourOverSix), &amax)?;
    }

    #[test]
    fn searches_never_do_worse_under_a_given_tensor_scale_either(
        case in case_of(Format::Nvfp4), g in prop_oneof![1e-6..1e3f32, 1e-44..1e-38f32, 1e35..3e38f32],
    ) {
        let amax = errors(&case, Quantizer::Amax.with_tensor_scale(g));
        let four_over_six = errors(&case, Quantizer::FourOverSix.with_tensor_scale(g));
        never_worse(&four_over_six, &amax)?;
        never_worse(&errors(&case, Quantizer::Mse.with_tensor_scale(g)), &four_over_six)?;
    }

    #[test]
    fn no_candidate_scale_beats_four_over_six_or_mse(case in case_of(Format::Nvfp4)) {
        // All 127 scale codes by brute force: Mse's range loses only where clipping amax to less
        // than three quarters pays, which bounds how much.
        let mse = Packed::new(case.layout, Quantizer::Mse, &case.values).unwrap();
        let found = mse.errors(&case.values);
        for (block, found) in mse.blocks().iter().zip(found) {
            let amax = block.iter().map(|&i| case.values[i].abs()).fold(0.0, f32::max);
            for code in 0..=0x7Eu32 {
                let mut probe = mse.clone();
                let (b, r, c) = probe.position(block[0]);
                let at = probe.layout.scale_of(b, r, c);
                probe.scales[at] = code as u8;
                let unit = probe.unit(block[0]);
                if 8.0 * unit < f64::from(amax) || unit == 0.0 {
                    continue;
                }
                let grid = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
                let nearest = |x: f32| {
                    let x = f64::from(x).abs();
                    grid.iter().map(|g| (x - g * unit).abs()).fold(f64::INFINITY, f64::min)
                };
                let error = block.iter().map(|&i| nearest(case.values[i]).powi(2)).fold(0.0, |a, e| a + e);
                prop_assert!(found <= error, "scale {:#x} has {} < {}", code, error, found);
            }
        }
    }
}
