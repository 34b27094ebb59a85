//! What holds for every format and rule.

use ferrocerium::Error;
use ferrocerium::format::{
    BlockLayout, Dequantizer, Format, Quantizer, RowQuantizer, WHOLE, amax, quantize,
};
use proptest::prelude::*;

use crate::support::{
    Case, Packed, bits, cases, cases_and_rules, formats, row_major, rules, values,
};

/// Magnitudes of the codes of a format, ascending, from the definition of its fields.
fn grid(format: Format) -> Vec<f64> {
    let (mantissa, bias, codes) = match format.spec().code.name() {
        "e2m1x2" => (1, 1, 8),
        "f8e4m3" => (3, 7, 127),
        _ => (2, 15, 124),
    };
    let steps = 1 << mantissa;
    let value = |code: i32| match (code / steps, code % steps) {
        (0, m) => f64::from(m) * 2f64.powi(1 - bias - mantissa),
        (e, m) => f64::from(steps + m) * 2f64.powi(e - bias - mantissa),
    };
    (0..codes).map(value).collect()
}

/// The largest `|x| / (s·g)` that a rule lets occur. Beyond the largest code values saturate.
///
/// A scale rounded to nearest in E4M3 is at most 1/17 too small (normal scales; subnormal ones can
/// be a third too small, and zero is any amount), an f32 one 2^-24. A power of two is chosen
/// exactly. The scale that maps amax to 8 instead of 6 lets it reach 8/6 of what `Amax` does.
fn reach(format: Format, rule: Quantizer, scale_bits: u32) -> f64 {
    let max = f64::from(format.spec().code_max);
    let binade = 2f64.powi(max.log2().floor() as i32 + 1);
    match (format, rule) {
        (Format::Nvfp4, _) if scale_bits < 8 => f64::INFINITY,
        (Format::Nvfp4, Quantizer::Mse) => 8.0 * 17.0 / 16.0,
        (Format::Nvfp4, _) => 6.0 * 17.0 / 16.0,
        (Format::Mxfp4 | Format::Mxfp8E4M3 | Format::Mxfp8E5M2, rule) => {
            let emax = max.log2().floor() as u32;
            // At the upper clamp the amax of any f32 tensor is below twice 2^127.
            let clamped = scale_bits == 254 - emax;
            match rule {
                Quantizer::Mse if !clamped => 2.0 * binade,
                Quantizer::Amax | Quantizer::OcpCeil if !clamped => max,
                _ => binade,
            }
        }
        _ => max * (1.0 + 2f64.powi(-23)),
    }
}

proptest! {
    /// `|x − e·s·g| ≤ half the distance of the codes around x/(s·g), times s·g`; saturated values
    /// err by exactly what they exceed the largest code by, and by no more than the rule admits.
    #[test]
    fn error_is_at_most_half_a_step_of_the_scale((case, rule) in cases_and_rules()) {
        let format = case.layout.format();
        let grid = grid(format);
        let packed = Packed::new(case.layout, rule, &case.values).unwrap();
        for (i, (&x, y)) in case.values.iter().zip(packed.exact()).enumerate() {
            let (x, y, unit) = (f64::from(x).abs(), y.abs(), packed.unit(i));
            let error = (x - y).abs();
            let max = grid[grid.len() - 1] * unit;
            if x >= max {
                prop_assert_eq!(y, max, "value {} by {}", x, rule);
                prop_assert!(x <= reach(format, rule, packed.scale_bits(i)) * unit || unit == 0.0);
                continue;
            }
            let above = grid.partition_point(|v| v * unit <= x);
            let half_step = (grid[above] - grid[above - 1]) * unit / 2.0;
            prop_assert!(error <= half_step, "{x} became {y} by {rule}: more than {half_step} off");
        }
    }

    #[test]
    fn relative_error_of_unsaturated_normal_codes_is_at_most_that_of_the_widest_midpoint(
        (case, rule) in cases_and_rules()
    ) {
        // Halfway between significands 2^m and 2^m + 1: half a step in 2^m + 1/2 of them.
        let format = case.layout.format();
        let (smallest_normal, bound) = match format.spec().code.name() {
            "e2m1x2" => (1.0, 1.0 / 5.0),
            "f8e4m3" => (2f64.powi(-6), 1.0 / 17.0),
            _ => (2f64.powi(-14), 1.0 / 9.0),
        };
        let packed = Packed::new(case.layout, rule, &case.values).unwrap();
        for (i, (&x, y)) in case.values.iter().zip(packed.exact()).enumerate() {
            let (x, unit) = (f64::from(x), packed.unit(i));
            let max = f64::from(format.spec().code_max) * unit;
            if unit > 0.0 && x.abs() >= smallest_normal * unit && x.abs() <= max {
                // 2^-50 for the division by the test itself.
                prop_assert!((x - y).abs() / x.abs() <= bound * (1.0 + 2f64.powi(-50)));
            }
        }
    }

    #[test]
    fn order_within_a_block_and_signs_are_kept((case, rule) in cases_and_rules()) {
        let packed = Packed::new(case.layout, rule, &case.values).unwrap();
        let found = packed.values();
        for (x, y) in case.values.iter().zip(&found) {
            prop_assert_eq!(x.is_sign_negative(), y.is_sign_negative());
            prop_assert!(y.is_finite());
        }
        for mut block in packed.blocks() {
            block.sort_by(|&i, &j| case.values[i].total_cmp(&case.values[j]));
            for pair in block.windows(2) {
                prop_assert!(found[pair[0]] <= found[pair[1]]);
            }
        }
    }

    /// What was decoded encodes to the same values again, to the bit. Why, by format:
    ///
    /// *MX.* Codes count in powers of two, so decoding is exact, and all that matters is whether
    /// the second scale can express the first one's codes. `Ocp`: amax/s lies in
    /// [2^emax, 2^(emax+1)) and so does its rounded or saturated code, so the scale is the same.
    /// `Amax` and `OcpCeil`: the code of amax can be exactly half of the largest (of 2^emax); then
    /// the second scale is half the first, under which all codes, at most half of the largest,
    /// double without rounding. `Mse` finds a scale without error among its candidates: the one
    /// chosen is within a factor of two of the second pass's OCP scale, by the same count, and a
    /// candidate without error reproduces its input whichever it is. Clamping moves both passes
    /// alike.
    ///
    /// *f32 scales, `Amax`.* With n = 7·2^j the largest code, s = rn(amax/n), y = rn(n·s): then
    /// rn(y/n) = s. Count in units of s's last place, let u be n·s's last place in them (a power
    /// of two) and m = n/2^j = 7. If u < 7, rounding y moved n·s by at most u/2, so y/n is
    /// within u/14 < 1/2 of s. If u > 7, amax is a multiple of u within m/2 = 3.5 < u/2 of n·s,
    /// hence y = amax. The other codes decode to e·s(1 + δ), |δ| ≤ 2^-14 even where that is
    /// subnormal in f32, far from any midpoint. Scales raised to 2^-126 stay there. (The same
    /// holds for any integer m, used for `Mse` below.)
    ///
    /// *NVFP4.* The largest block has s = 448 and code 6 for amax, so g repeats by the argument
    /// above with m = 21, unless `Mse` clipped it: there the tensor scale has to be passed on.
    /// Given g: a scale code above 3 is at most 1/8 from amax/(t·g), t = 6 or 4, so that amax gets
    /// code t again (for t = 6 from [5.25, 6.75], for t = 4 from [3.5, 4.5]), and the second pass
    /// has the same scale among its candidates. `Mse`'s scales give amax a code of 3, 4 or 6 and
    /// so lie between the scales for 8 and 3 again. Among candidates only those that
    /// express all decoded values have errors at the level of f32's rounding; they
    /// stand for the same exact products, so any of them decodes to the same values. Scale codes 1
    /// to 3 are left out: so close to zero the rounded scale can be far enough off for amax to get
    /// code 3 by `Amax`, which then asks for another scale.
    #[test]
    fn quantising_decoded_values_again_gives_the_same_values((case, rule) in cases_and_rules()) {
        let format = case.layout.format();
        let f32_scales = format.spec().scale.size() == 4;
        if f32_scales && rule == Quantizer::Mse {
            return Ok(());
        }
        let first = Packed::new(case.layout, rule, &case.values).unwrap();
        let once = first.values();
        let second = if format == Format::Nvfp4 && rule == Quantizer::Mse {
            Packed::new(case.layout, rule.with_tensor_scale(first.tensor_scale), &once).unwrap()
        } else {
            Packed::new(case.layout, rule, &once).unwrap()
        };
        let twice = second.values();
        for i in 0..once.len() {
            if format == Format::Nvfp4 && (1..4).contains(&first.scale_bits(i)) {
                continue;
            }
            prop_assert_eq!(
                once[i].to_bits(), twice[i].to_bits(),
                "value {}: {} then {} by {}; scales {:#x} then {:#x}, g {} then {}",
                i, once[i], twice[i], rule, first.scale_bits(i), second.scale_bits(i),
                first.tensor_scale, second.tensor_scale
            );
        }
    }

    /// `Mse` on f32 scales compares candidates whose products round differently, so another scale
    /// that fits as well may win the second time; it has no more error than the first scale has
    /// by rounding to f32.
    #[test]
    fn quantising_again_by_mse_with_f32_scales_moves_values_by_rounding_only(
        case in cases().prop_filter("f32 scales", |c| c.layout.spec().scale.size() == 4)
    ) {
        let once = Packed::new(case.layout, Quantizer::Mse, &case.values).unwrap().values();
        let again = Packed::new(case.layout, Quantizer::Mse, &once).unwrap();
        for (block, error) in again.blocks().iter().zip(again.errors(&once)) {
            let half_ulp = |&i: &usize| {
                let x = once[i].abs();
                f64::from(x.next_up() - x).max(f64::from(x - x.next_down().max(0.0))) / 2.0
            };
            let rounding: f64 = block.iter().map(|i| half_ulp(i).powi(2)).sum();
            prop_assert!(error <= rounding * (1.0 + 1e-9), "{error} > {rounding}");
        }
    }

    #[test]
    fn decoding_in_f32_rounds_the_exact_value_once((case, rule) in cases_and_rules()) {
        let packed = Packed::new(case.layout, rule, &case.values).unwrap();
        for (f, d) in packed.values().iter().zip(packed.exact()) {
            prop_assert_eq!(f.to_bits(), (d as f32).to_bits());
        }
    }

    #[test]
    fn nan_and_infinity_are_refused_by_place_and_value(
        (case, rule) in cases_and_rules(), at: prop::sample::Index,
        bad in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ) {
        if case.values.is_empty() {
            return Ok(());
        }
        let mut values = case.values.clone();
        let i = at.index(values.len());
        values[i] = bad;
        let (b, r, c) = (
            i / case.layout.k() / case.layout.rows(),
            i / case.layout.k() % case.layout.rows(),
            i % case.layout.k(),
        );
        match Packed::new(case.layout, rule, &values) {
            Err(Error::Value { arg: "src", problem, .. }) => {
                let start = format!("value {i} ([{b}, {r}, {c}] of [batch, row, column]) is {bad},");
                prop_assert!(problem.starts_with(&start), "{}", problem);
            }
            other => prop_assert!(false, "{other:?}"),
        }
        prop_assert_eq!(amax(&values).unwrap_err().index, i);
    }

    #[test]
    fn permuting_blocks_permutes_results(
        (format, grid, values) in formats().prop_flat_map(|format| {
            let down = if format.spec().block_rows == WHOLE { 1..2usize } else { 1..4usize };
            let across = if format.spec().block_k == WHOLE { 1..2usize } else { 1..4usize };
            // 128-row blocks are big: few of them.
            let cap = if format.spec().block_rows == 128 { 2 } else { 3 };
            (down, across).prop_map(move |(d, a)| (d.min(cap), a.min(cap)))
                .prop_flat_map(move |grid| {
                    let (rows, cols) = block_size(format);
                    (Just(format), Just(grid), values(grid.0 * rows * grid.1 * cols))
                })
        }),
        seed: u64,
    ) {
        let (rows, cols) = block_size(format);
        let layout = row_major(format, 1, grid.0 * rows, grid.1 * cols);
        let n = grid.0 * grid.1;
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|i| (*i as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
        // Where block i's element e lies.
        let index = |i: usize, e: usize| {
            let (r, c) = (i / grid.1 * rows + e / cols, i % grid.1 * cols + e % cols);
            r * layout.k() + c
        };
        let mut moved = values.clone();
        for (to, &from) in order.iter().enumerate() {
            for e in 0..rows * cols {
                moved[index(to, e)] = values[index(from, e)];
            }
        }
        for rule in rules(format) {
            let a = Packed::new(layout, rule, &values).unwrap();
            let b = Packed::new(layout, rule, &moved).unwrap();
            let (x, y) = (a.values(), b.values());
            for (to, &from) in order.iter().enumerate() {
                prop_assert_eq!(a.scale_bits(index(from, 0)), b.scale_bits(index(to, 0)));
                for e in 0..rows * cols {
                    prop_assert_eq!(x[index(from, e)].to_bits(), y[index(to, e)].to_bits());
                }
            }
        }
    }

    #[test]
    fn a_tail_is_a_whole_block_padded_with_zeros((case, rule) in cases_and_rules()) {
        let l = case.layout;
        let wide = row_major(l.format(), l.batch(), l.rows(), l.k_padded());
        let mut padded = vec![0.0; wide.values_len()];
        if l.k() > 0 {
            for (to, from) in
                padded.chunks_exact_mut(l.k_padded()).zip(case.values.chunks_exact(l.k()))
            {
                to[..l.k()].copy_from_slice(from);
            }
        }
        let a = Packed::new(l, rule, &case.values).unwrap();
        let b = Packed::new(wide, rule, &padded).unwrap();
        prop_assert_eq!((a.codes, a.scales, a.tensor_scale), (b.codes, b.scales, b.tensor_scale));
    }

    #[test]
    fn bands_in_any_order_make_the_whole((case, rule) in cases_and_rules(), turn: usize) {
        let l = case.layout;
        let whole = Packed::new(l, rule, &case.values).unwrap();
        let rows = RowQuantizer::new(&l, rule, amax(&case.values).unwrap()).unwrap();
        prop_assert_eq!(rows.tensor_scale(), whole.tensor_scale);
        let width = l.scale_cols() * l.spec().scale.size();
        let n = l.bands();
        for i in 0..n {
            let band = n - 1 - (i + turn % n) % n;
            let (batch, range) = l.band(band);
            let first = batch * l.rows() + range.start;
            let src = &case.values[first * l.k()..][..range.len() * l.k()];
            let mut codes = vec![0xA5; range.len() * l.row_bytes()];
            let mut scales = vec![0xA5; width];
            rows.quantize_band(band, src, &mut codes, &mut scales).unwrap();
            prop_assert_eq!(&codes, &whole.codes[first * l.row_bytes()..][..codes.len()]);
            prop_assert_eq!(&scales, &whole.scales[band * width..][..width]);
        }
    }

    #[test]
    fn any_stretch_of_a_row_decodes_to_what_the_whole_does(
        case in cases(), start: prop::sample::Index, end: prop::sample::Index,
    ) {
        let l = case.layout;
        let packed = Packed::new(l, Quantizer::Amax, &case.values).unwrap();
        let (values, exact) = (packed.values(), packed.exact());
        let rows =
            Dequantizer::new(&l, &packed.codes, &packed.scales, packed.tensor_scale).unwrap();
        let (a, b) = (start.index(l.k() + 1), end.index(l.k() + 1));
        let (a, b) = (a.min(b), a.max(b));
        for batch in 0..l.batch() {
            for row in 0..l.rows() {
                let at = (batch * l.rows() + row) * l.k();
                let mut dst = vec![f32::NAN; b - a];
                rows.row(batch, row, a, &mut dst).unwrap();
                prop_assert_eq!(bits(&dst), bits(&values[at + a..at + b]));
                let mut dst = vec![f64::NAN; b - a];
                rows.row_f64(batch, row, a, &mut dst).unwrap();
                prop_assert_eq!(&dst, &exact[at + a..at + b]);
            }
        }
    }

    #[test]
    fn slices_of_wrong_lengths_are_shape_errors(case in cases(), more: bool) {
        let Case { layout, values } = case;
        let other = |len: usize| if more { len + 1 } else { len.saturating_sub(1) };
        let packed = Packed::new(layout, Quantizer::Amax, &values).unwrap();
        let short = |v: &[u8]| { let mut v = v.to_vec(); v.resize(other(v.len()), 0); v };
        let g = packed.tensor_scale;
        if other(packed.codes.len()) != packed.codes.len() {
            let found = Dequantizer::new(&layout, &short(&packed.codes), &packed.scales, g).err();
            prop_assert_eq!(shape_error(found), Some("codes"));
        }
        if other(packed.scales.len()) != packed.scales.len() {
            let found = Dequantizer::new(&layout, &packed.codes, &short(&packed.scales), g).err();
            prop_assert_eq!(shape_error(found), Some("scales"));
        }
        if other(values.len()) != values.len() {
            let mut src = values.clone();
            src.resize(other(src.len()), 0.0);
            let found = Packed::new(layout, Quantizer::Amax, &src).err();
            prop_assert_eq!(shape_error(found), Some("src"));
        }
        let rows = Dequantizer::new(&layout, &packed.codes, &packed.scales, g).unwrap();
        let mut dst = vec![0.0; layout.k() + 1];
        prop_assert!(rows.row(0, 0, 0, &mut dst).is_err());
        prop_assert!(rows.row(layout.batch(), 0, 0, &mut []).is_err());
        prop_assert!(rows.row(0, layout.rows(), 0, &mut []).is_err());
        prop_assert!(rows.row(0, 0, usize::MAX, &mut dst).is_err());
        prop_assert!(rows.scale(0, layout.scale_rows(), 0).is_err());
    }
}

/// The argument that a shape error names.
fn shape_error(found: Option<Error>) -> Option<&'static str> {
    match found {
        Some(Error::Shape { arg, .. }) => Some(arg),
        _ => None,
    }
}

/// The block of a format in a test that needs several: 6 stands for "all".
fn block_size(format: Format) -> (usize, usize) {
    let side = |n: usize| if n == WHOLE { 6 } else { n };
    (side(format.spec().block_rows), side(format.spec().block_k))
}

/// `quantize` without a place for the tensor scale.
#[test]
fn a_tensor_scale_needs_a_place() {
    let layout: BlockLayout = row_major(Format::Nvfp4, 1, 1, 16);
    let out = ferrocerium::format::Quantized {
        codes: &mut [0; 8],
        scales: &mut [0; 1],
        tensor_scale: None,
    };
    let error = quantize(&layout, Quantizer::Amax, &[1.0; 16], out).unwrap_err();
    assert!(matches!(error, Error::Value { arg: "tensor_scale", .. }), "{error}");
}
