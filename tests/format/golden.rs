//! Codes and scales against `tests/golden/generate_format.py`, which computes with fractions.

use std::collections::{BTreeSet, HashMap};

use ferrocerium::format::{Format, QuantizeOptions, Quantizer};

use crate::support::{Packed, row_major, rules};

const VECTORS: &str = include_str!("../golden/format/vectors.txt");

fn f32s(hex: &str) -> Vec<f32> {
    let words = (0..hex.len()).step_by(8).map(|i| u32::from_str_radix(&hex[i..i + 8], 16).unwrap());
    words.map(f32::from_bits).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn codes_and_scales_are_those_of_exact_arithmetic() {
    let mut sources = HashMap::new();
    let mut seen = BTreeSet::new();
    for line in VECTORS.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["source", name, rows, k, hex] => {
                let shape: (usize, usize) = (rows.parse().unwrap(), k.parse().unwrap());
                sources.insert(name, (shape, f32s(hex)));
            }
            ["case", format, rule, source, fixed, tensor_scale, scales, codes] => {
                let format: Format = format.parse().unwrap();
                let quantizer: Quantizer = rule.parse().unwrap();
                let tensor_scale = (tensor_scale != "-").then(|| f32s(tensor_scale)[0]);
                let fixed = (fixed != "-").then(|| f32s(fixed)[0]);
                let ((rows, k), values) = &sources[source];
                let layout = row_major(format, 1, *rows, *k);
                let options = QuantizeOptions { quantizer, tensor_scale: fixed };
                let found = Packed::new(layout, options, values).unwrap();

                let what = format!("{format} {rule} of {source} with tensor scale {fixed:?}");
                assert_eq!(found.tensor_scale, tensor_scale.unwrap_or(1.0), "{what}");
                let scales = match layout.spec().scale.size() {
                    1 => bytes(scales),
                    _ => f32s(scales).iter().flat_map(|s| s.to_ne_bytes()).collect(),
                };
                assert_eq!(found.scales, scales, "{what}");
                let visible = k.div_ceil(layout.spec().codes_per_byte);
                let codes = bytes(codes);
                for row in 0..*rows {
                    let (data, padding) = found.codes[layout.row_offset(0, row)..]
                        [..layout.row_bytes()]
                        .split_at(visible);
                    assert_eq!(data, &codes[row * visible..][..visible], "{what}, row {row}");
                    assert!(padding.iter().all(|&b| b == 0), "{what}: padding of row {row}");
                }
                seen.insert((format, quantizer));
            }
            _ => panic!("golden line {line:.40}"),
        }
    }
    for format in Format::ALL {
        for rule in rules(format) {
            assert!(seen.contains(&(format, rule)), "no golden vectors for {format} {rule}");
        }
    }
}
