//! Block-scaled outputs.
//!
//! Quantisers are defined by exact arithmetic on values rounded to f32, so of *exact* values there
//! is one right result: codes, scales, tensor scale and zeroed padding are compared to the bit.
//!
//! Values that a kernel computes, each off by `e` at most, may round to other codes. Then each
//! part is held to what some values within their bounds would give, from the largest part down: a
//! tensor scale between those of the least and the largest possible amax; with the tensor scale
//! found, each block scale between those that its rule can choose for the block's least and largest
//! amax; with the scales found, each code between those of the ends `x − e` and `x + e`. Scales
//! and codes are monotone in what they are made of, so nothing in between is left out; and where
//! `e` does not reach across a rounding border, but one result is right.

use super::bounds::{TINY_F32, U_F32};
use super::output::Parts;
use crate::error::Result;
use crate::format::{
    BlockLayout, QuantizeOptions, Quantized, Quantizer, RowQuantizer, ScaleLayout, quantize,
};
use crate::num::{DType, E2M1, E2M1x2, E8M0, F8E4M3, F8E5M2, Scalar, UE4M3};
use crate::op::Scaled;

/// Compares a block-scaled output with what quantising `values` must give. The share of the error
/// that was used can not be told: 0.
pub(super) fn compare_blocks(
    scaled: &Scaled,
    options: QuantizeOptions,
    parts: &Parts,
    values: &[f64],
    errors: &[f64],
) -> Result<f64, String> {
    let layout = scaled.layout().map_err(|e| e.to_string())?;
    let exact = errors.iter().all(|&e| e == 0.0);
    if exact {
        let due = quantized(&layout, options, values).map_err(|e| e.to_string())?;
        for ((found, due), part) in parts.iter().zip(&due).zip(["code", "scale", "tensor scale"]) {
            if let Some(at) = found.iter().zip(due).position(|(a, b)| a != b) {
                let (found, due) = (found[at], due[at]);
                return Err(format!(
                    "{part} byte {at} of {scaled} is {found:#04x}, not {due:#04x}"
                ));
            }
        }
        return Ok(0.0);
    }
    Bounded { layout, options, parts, values, errors }
        .check()
        .map_err(|e| format!("{scaled}: {e}"))?;
    Ok(0.0)
}

/// Codes, scales and tensor scale of exact values.
fn quantized(layout: &BlockLayout, options: QuantizeOptions, values: &[f64]) -> Result<Parts> {
    let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    let (mut codes, mut scales) = (vec![0; layout.codes_len()], vec![0; layout.scales_bytes()]);
    let mut tensor_scale = 1.0;
    let out =
        Quantized { codes: &mut codes, scales: &mut scales, tensor_scale: Some(&mut tensor_scale) };
    quantize(layout, options, &values, out)?;
    let mut parts = vec![codes, scales];
    if layout.tensor_scale_len() > 0 {
        parts.push(tensor_scale.to_ne_bytes().to_vec());
    }
    Ok(parts)
}

struct Bounded<'a> {
    layout: BlockLayout,
    options: QuantizeOptions,
    parts: &'a Parts,
    values: &'a [f64],
    errors: &'a [f64],
}

/// The least and largest that an amax may be.
#[derive(Clone, Copy)]
struct Amax {
    least: f64,
    most: f64,
}

impl Amax {
    /// An amax of 0 has a scale out of the order of others, 1.
    fn least_above_zero(self) -> f64 {
        self.least.max(TINY_F32).min(self.most)
    }
}

impl Bounded<'_> {
    fn check(&self) -> Result<(), String> {
        let g = self.tensor_scale()?;
        let layout = &self.layout;
        let mut seen = vec![false; layout.scales_len()];
        for batch in 0..layout.batch() {
            for row in 0..layout.scale_rows() {
                for col in 0..layout.scale_cols() {
                    seen[layout.scale_index(batch, row, col)] = true;
                    self.block(batch, row, col, g)?;
                }
            }
        }
        let scale_size = layout.spec().scale.size();
        let padding = seen.iter().enumerate().filter(|(_, seen)| !**seen).map(|(i, _)| i);
        let mut bytes = padding.flat_map(|i| i * scale_size..(i + 1) * scale_size);
        match bytes.find(|&i| self.parts[1][i] != 0) {
            None => self.code_padding(),
            Some(i) => Err(format!("scale byte {i} is padding, but not zero")),
        }
    }

    fn code_padding(&self) -> Result<(), String> {
        let layout = &self.layout;
        for (row, codes) in self.parts[0].chunks(layout.row_bytes().max(1)).enumerate() {
            for col in layout.k()..layout.row_bytes() * layout.spec().codes_per_byte {
                if self.code(codes, col) != 0 {
                    return Err(format!("code {col} of row {row} is padding, but not zero"));
                }
            }
        }
        Ok(())
    }

    /// The code at a column of a row.
    fn code(&self, row: &[u8], col: usize) -> u8 {
        if self.layout.spec().codes_per_byte == 1 {
            return row[col];
        }
        let pair = E2M1x2::from_bits(row[col / 2]);
        if col.is_multiple_of(2) { pair.lo().to_bits() } else { pair.hi().to_bits() }
    }

    fn amax(&self, positions: impl Iterator<Item = usize>) -> Amax {
        positions.fold(Amax { least: 0.0, most: 0.0 }, |amax, i| {
            let (size, error) = (self.values[i].abs(), self.errors[i]);
            let most = (size + error).min(f64::from(f32::MAX));
            Amax { least: amax.least.max(size - error), most: amax.most.max(most) }
        })
    }

    /// The tensor scale found, if it may be that.
    fn tensor_scale(&self) -> Result<f32, String> {
        let Some(bytes) = self.parts.get(2).and_then(|b| b.first_chunk()) else { return Ok(1.0) };
        let found = f32::from_ne_bytes(*bytes);
        let amax = self.amax(0..self.values.len());
        let due = |amax: f64| {
            let quantizer = RowQuantizer::new(&self.layout, self.options, amax as f32);
            quantizer.map(|q| q.tensor_scale()).map_err(|e| e.to_string())
        };
        let (low, high) = (due(amax.least_above_zero())?, due(amax.most)?);
        if low <= found && found <= high || amax.least == 0.0 && found == due(0.0)? {
            return Ok(found);
        }
        Err(format!("the tensor scale is {found:e}, not {low:e} to {high:e}"))
    }

    fn block(&self, batch: usize, row: usize, col: usize, g: f32) -> Result<(), String> {
        let layout = &self.layout;
        let first = row * layout.band_rows();
        let rows = first..(first + layout.band_rows()).min(layout.rows());
        let start = col * layout.block_cols();
        let cols = start..(start + layout.block_cols()).min(layout.k());
        let position = |row: usize, col: usize| (batch * layout.rows() + row) * layout.k() + col;
        let positions = rows.clone().flat_map(|r| cols.clone().map(move |c| (r, c)));

        let bytes =
            &self.parts[1][layout.scale_index(batch, row, col) * layout.spec().scale.size()..];
        let scale = self.scale_value(bytes);
        let amax = self.amax(positions.clone().map(|(r, c)| position(r, c)));
        let (low, high) = self.scales(amax.least_above_zero(), amax.most, g)?;
        let zero = amax.least == 0.0 && scale == self.scales(0.0, 0.0, g)?.0;
        if !(zero || low <= scale && scale <= high) {
            return Err(format!(
                "the scale of block [{batch}, {row}, {col}] is {scale:e}, not {low:e} to {high:e}"
            ));
        }
        let unit = scale * f64::from(g);
        for (r, c) in positions {
            let at = position(r, c);
            let codes = &self.parts[0][layout.row_offset(batch, r)..][..layout.row_bytes()];
            let found = self.code_value(self.code(codes, c));
            let error = self.errors[at] + 8.0 * f64::EPSILON * self.values[at].abs();
            let (low, high) = (
                self.nearest(self.values[at] - error, unit),
                self.nearest(self.values[at] + error, unit),
            );
            if !(low <= found && found <= high) {
                return Err(format!(
                    "the code of element {at}, {:e} ± {error:e} in units of {unit:e}, is {found}, not \
                     {low} to {high}",
                    self.values[at]
                ));
            }
        }
        Ok(())
    }

    /// The least and largest scale that the rule can choose for a block of such amax, under a
    /// tensor scale.
    fn scales(&self, least: f64, most: f64, g: f32) -> Result<(f64, f64), String> {
        let format = self.layout.format();
        let mut options = self.options;
        if self.layout.spec().tensor_scale {
            options.tensor_scale = Some(g);
        }
        // Rules that search do so among the scales that map amax from 8 to 3, from 6 to 4, from
        // half to double of OCP's, or on the codes of the top binade (448 to 256): see `Quantizer`.
        let (rule, down, up) = match (options.quantizer, self.layout.spec().scale) {
            (Quantizer::FourOverSix, _) => (Quantizer::Amax, 1.0, 6.0 / 4.0),
            (Quantizer::Mse, DType::UE4M3) => (Quantizer::Amax, 6.0 / 8.0, 6.0 / 3.0),
            (Quantizer::Mse, DType::E8M0) => (Quantizer::Ocp, 0.5, 2.0),
            // Both the product and the quotient below round to f32, as amax did before.
            (Quantizer::Mse, _) => (Quantizer::Amax, 1.0, 1.75 * (1.0 + 4.0 * U_F32)),
            (rule, _) => (rule, 1.0, 1.0),
        };
        options.quantizer = rule;
        let one = BlockLayout::new(format, ScaleLayout::RowMajor, 1, 1, 1);
        let one = one.map_err(|e| e.to_string())?;
        let scale = |amax: f64| {
            let parts = quantized(&one, options, &[amax.min(f64::from(f32::MAX))]);
            parts.map(|parts| self.scale_value(&parts[1])).map_err(|e| e.to_string())
        };
        Ok((scale(least * down)?, scale(most * up)?))
    }

    fn scale_value(&self, bytes: &[u8]) -> f64 {
        match self.layout.spec().scale {
            DType::E8M0 => E8M0::from_bits(bytes[0]).to_f64(),
            DType::UE4M3 => UE4M3::from_bits(bytes[0]).to_f64(),
            _ => bytes.first_chunk().map_or(f64::NAN, |b| f64::from(f32::from_ne_bytes(*b))),
        }
    }

    fn code_value(&self, code: u8) -> f64 {
        match self.layout.spec().code {
            DType::E2M1x2 => E2M1::from_bits(code).to_f64(),
            DType::F8E5M2 => F8E5M2::from_bits(code).to_f64(),
            _ => F8E4M3::from_bits(code).to_f64(),
        }
    }

    /// The value of the code nearest to `x / unit`.
    fn nearest(&self, x: f64, unit: f64) -> f64 {
        if unit == 0.0 {
            return 0.0;
        }
        match self.layout.spec().code {
            DType::E2M1x2 => E2M1::from_f64(x / unit).to_f64(),
            DType::F8E5M2 => <F8E5M2 as Scalar>::from_f64(x / unit).to_f64(),
            _ => <F8E4M3 as Scalar>::from_f64(x / unit).to_f64(),
        }
    }
}

/// Whether block formats can hold every value, rounded to f32.
pub(super) fn all_finite(mut values: impl Iterator<Item = f64>) -> bool {
    values.all(|x| (x as f32).is_finite())
}
