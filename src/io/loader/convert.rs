//! Weights converted while they are read, a piece at a time.

use std::ops::Range;

use half::{bf16, f16};

use super::decoder::Decoder;
use super::plan::Step;
use super::run::Run;
use super::target::layout;
use super::weight::Weight;
use crate::error::{Error, Result};
use crate::format::{
    BlockLayout, Format, Quantized, Quantizer, RowQuantizer, ScaleLayout, WHOLE, quantize,
};
use crate::memory::{Filling, Piece, SourceFile, scratch};
use crate::num::{DType, F8E4M3, F8E5M2, Scalar};
use crate::tensor::AnyTensor;

impl Run<'_> {
    pub(super) fn convert(
        &mut self,
        step: &Step,
        weight: &Weight<'_>,
        dtype: DType,
    ) -> Result<AnyTensor> {
        let bytes = usize::try_from(step.bytes).unwrap_or(usize::MAX);
        let buffer = self.device.allocate(bytes, weight.name)?;
        let decoder = Decoder::new(self.weights, weight)?;
        let mut filling = Filling::new(&buffer)?;
        let out = filling.whole();
        match dtype {
            DType::F32 => self.convert_to::<f32>(step, &decoder, out),
            DType::BF16 => self.convert_to::<bf16>(step, &decoder, out),
            DType::F16 => self.convert_to::<f16>(step, &decoder, out),
            DType::F64 => self.convert_to::<f64>(step, &decoder, out),
            DType::F8E4M3 => self.convert_to::<F8E4M3>(step, &decoder, out),
            DType::F8E5M2 => self.convert_to::<F8E5M2>(step, &decoder, out),
            other => {
                let problem = format!("{}: nothing is converted to {other}", weight.name);
                Err(Error::dtype("load", "target", problem))
            }
        }?;
        drop(filling);
        AnyTensor::from_buffer(self.device, dtype, &weight.shape, buffer, 0)
    }

    fn convert_to<E: Scalar>(
        &mut self,
        step: &Step,
        decoder: &Decoder<'_>,
        out: Piece<'_>,
    ) -> Result<()> {
        let pieces = out.chunks(step.piece * size_of::<E>()).enumerate();
        let mut jobs: Vec<_> = pieces.map(|(i, piece)| (i * step.piece, piece)).collect();
        let place = position(step, decoder);
        self.jobs(step, place, 1, &mut jobs, |[bounce, _], (at, piece)| {
            piece.fill(bounce, |bytes| {
                let out: &mut [E] = bytemuck::cast_slice_mut(bytes);
                decoder.decode(*at..*at + out.len(), out)
            })
        })
    }

    pub(super) fn quantize(
        &mut self,
        step: &Step,
        weight: &Weight<'_>,
        format: Format,
    ) -> Result<AnyTensor> {
        let layout = layout(format, &weight.shape)?;
        let quantizer = step.quantizer.unwrap_or(Quantizer::default_for(format));
        let decoder = Decoder::new(self.weights, weight)?;
        let (scaled, data) = self.scaled(weight, format)?;
        let mut codes_filling = Filling::new(data.codes.buffer())?;
        let mut scales_filling = Filling::new(data.scales.buffer())?;
        let (codes, scales) = (codes_filling.whole(), scales_filling.whole());
        if layout.spec().block_rows == WHOLE && quantizer != Quantizer::Mse {
            // One scale a matrix, known from its amax: rows can then be quantised apart.
            let matrix = layout.rows() * layout.k();
            let width = layout.scale_cols() * layout.spec().scale.size();
            let code_bytes = (layout.rows() * layout.row_bytes()).max(1);
            let mut bounce = self.device.bounce();
            for (i, (codes, mut out)) in
                codes.chunks(code_bytes).zip(scales.chunks(width)).enumerate()
            {
                let values = i * matrix..(i + 1) * matrix;
                let amax = self.amax(step, &decoder, values.clone())?;
                let scale = out.fill(&mut bounce, |scale| {
                    scale_of(format, quantizer, amax, scale)?;
                    Ok([scale[0], scale[1], scale[2], scale[3]])
                })?;
                let fixed = f32::from_ne_bytes(scale);
                self.quantize_rows(step, &decoder, &layout, values.start, codes, |rows| {
                    let rows = BlockLayout::new(format, ScaleLayout::RowMajor, 1, rows, layout.k());
                    RowQuantizer::new(&rows?, quantizer.with_tensor_scale(fixed), amax)
                })?;
            }
        } else {
            let amax = match layout.spec().tensor_scale {
                true => self.amax(step, &decoder, 0..decoder.values())?,
                false => 0.0,
            };
            let quantizer = RowQuantizer::new(&layout, quantizer, amax)?;
            if let Some(scale) = &data.tensor_scale {
                scale.buffer().copy_from_host(0, &quantizer.tensor_scale().to_ne_bytes())?;
            }
            self.quantize_bands(step, &decoder, &layout, &quantizer, codes, scales)?;
        }
        drop((codes_filling, scales_filling));
        self.any(scaled)
    }

    /// The largest magnitude of a range of values.
    fn amax(&mut self, step: &Step, decoder: &Decoder<'_>, values: Range<usize>) -> Result<f32> {
        let starts = values.clone().step_by(step.piece.max(1));
        let mut jobs: Vec<(usize, f32)> = starts.map(|at| (at, 0.0)).collect();
        self.jobs(step, position(step, decoder), 2, &mut jobs, |_, (at, amax)| {
            let mut piece = scratch(step.piece.min(values.end - *at), 0.0f32)?;
            decoder.decode(*at..*at + piece.len(), &mut piece)?;
            *amax = crate::format::amax(&piece).map_err(|found| {
                let index = *at + found.index;
                let problem =
                    format!("value {index} is {}, which no block format holds", found.value);
                Error::value("load", "weight", problem)
            })?;
            Ok(())
        })?;
        Ok(jobs.iter().fold(0.0, |amax, job| job.1.max(amax)))
    }

    /// Quantises rows that share a scale which is known, from value `first` on.
    fn quantize_rows(
        &mut self,
        step: &Step,
        decoder: &Decoder<'_>,
        layout: &BlockLayout,
        first: usize,
        codes: Piece<'_>,
        quantizer: impl Fn(usize) -> Result<RowQuantizer> + Sync,
    ) -> Result<()> {
        let (k, row_bytes) = (layout.k().max(1), layout.row_bytes().max(1));
        let rows = (step.piece / k).max(1);
        let pieces = codes.chunks(rows * row_bytes).enumerate();
        let mut jobs: Vec<_> = pieces.map(|(i, codes)| (first + i * rows * k, codes)).collect();
        let place = position(step, decoder);
        self.jobs(step, place, 2, &mut jobs, |[bounce, _], (at, codes)| {
            let rows = codes.len() / row_bytes;
            let mut values = scratch(rows * k, 0.0f32)?;
            decoder.decode(*at..*at + values.len(), &mut values)?;
            let quantizer = quantizer(rows)?;
            let mut scale = scratch(layout.scale_cols() * layout.spec().scale.size(), 0)?;
            codes.fill(bounce, |codes| quantizer.quantize_band(0, &values, codes, &mut scale))
        })
    }

    fn quantize_bands(
        &mut self,
        step: &Step,
        decoder: &Decoder<'_>,
        layout: &BlockLayout,
        quantizer: &RowQuantizer,
        mut codes: Piece<'_>,
        mut scales: Piece<'_>,
    ) -> Result<()> {
        struct Bands<'a> {
            bands: Range<usize>,
            codes: Piece<'a>,
            scales: Piece<'a>,
        }
        let k = layout.k().max(1);
        let width = layout.scale_cols() * layout.spec().scale.size();
        let band_values = layout.band_rows().saturating_mul(k);
        let bands = (step.piece / band_values).max(1);
        let rows_of = |band: usize| layout.band(band).1.len();
        let mut jobs = Vec::new();
        for first in (0..layout.bands()).step_by(bands) {
            let bands = first..(first + bands).min(layout.bands());
            let rows: usize = bands.clone().map(rows_of).sum();
            let (now, later) = codes.split_at(rows * layout.row_bytes());
            let (now_scales, later_scales) = scales.split_at(bands.len() * width);
            (codes, scales) = (later, later_scales);
            jobs.push(Bands { bands, codes: now, scales: now_scales });
        }
        let passes = if layout.spec().tensor_scale { 2 } else { 1 };
        let place = position(step, decoder);
        self.jobs(step, place, passes, &mut jobs, |[first_bounce, second_bounce], these| {
            let first = layout.band(these.bands.start);
            let first = (first.0 * layout.rows() + first.1.start) * layout.k();
            let rows: usize = these.bands.clone().map(rows_of).sum();
            let mut values = scratch(rows * layout.k(), 0.0f32)?;
            decoder.decode(first..first + values.len(), &mut values)?;
            these.codes.fill(first_bounce, |codes| {
                these.scales.fill(second_bounce, |scales| {
                    let (mut codes, mut scales, mut values) = (codes, scales, &values[..]);
                    for band in these.bands.clone() {
                        let rows = rows_of(band);
                        let (now, later) = values.split_at(rows * layout.k());
                        let (now_codes, later_codes) =
                            codes.split_at_mut(rows * layout.row_bytes());
                        let (now_scales, later_scales) = scales.split_at_mut(width);
                        quantizer.quantize_band(band, now, now_codes, now_scales)?;
                        (codes, scales, values) = (later_codes, later_scales, later);
                    }
                    Ok(())
                })
            })
        })
    }
}

/// Where in its file a weight begins, and the bytes of a piece.
fn position<'a>(step: &Step, decoder: &Decoder<'a>) -> (&'a SourceFile, u64, u64) {
    let entry = decoder.entry;
    let share = entry.region.len() as u128 * step.piece as u128 / decoder.values().max(1) as u128;
    (&entry.file, entry.region.offset() as u64, u64::try_from(share).unwrap_or(0))
}

/// The scale of a matrix with that largest magnitude, in a format that has one a matrix.
fn scale_of(format: Format, quantizer: Quantizer, amax: f32, scale: &mut [u8]) -> Result<()> {
    let one = BlockLayout::new(format, ScaleLayout::RowMajor, 1, 1, 1)?;
    let mut code = scratch(one.codes_len(), 0)?;
    let out = Quantized { codes: &mut code, scales: scale, tensor_scale: None };
    quantize(&one, quantizer, &[amax], out)
}
