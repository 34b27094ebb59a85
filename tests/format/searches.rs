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

    /// By brute force over all scale codes. Left out are those that clip amax below three quarters,
    /// and those that stay coarser than amax at 3 however often they are halved exactly.
    #[test]
    fn mse_finds_the_best_scale_that_clips_amax_by_at_most_a_quarter(
        case in case_of(Format::Nvfp4)
    ) {
        const GRID: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        let mse = Packed::new(case.layout, Quantizer::Mse, &case.values).unwrap();
        for (block, found) in mse.blocks().iter().zip(mse.errors(&case.values)) {
            let values = block.iter().map(|&i| f64::from(case.values[i].abs()));
            let amax = values.clone().fold(0.0, f64::max);
            let mut probe = mse.clone();
            let (b, r, c) = probe.position(block[0]);
            let at = probe.layout.scale_of(b, r, c);
            for code in 1..=0x7Eu8 {
                let mut unit_of = |code: u8| {
                    probe.scales[at] = code;
                    probe.unit(block[0])
                };
                let unit = unit_of(code);
                let mut finest = code;
                while amax < 3.0 * unit_of(finest) && (finest >= 16 || finest % 2 == 0) {
                    finest = if finest >= 16 { finest - 8 } else { finest / 2 };
                }
                if 8.0 * unit < amax || amax < 3.0 * unit_of(finest) {
                    continue;
                }
                let square = |x: f64| {
                    let off = GRID.iter().map(|g| (x - g * unit).abs());
                    off.fold(f64::INFINITY, f64::min).powi(2)
                };
                let error = values.clone().map(square).fold(0.0, |sum, e| sum + e);
                prop_assert!(found <= error, "scale {:#x}: {} < {}", code, error, found);
            }
        }
    }
}
