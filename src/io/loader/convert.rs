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
use crate::memory::scratch;
use crate::memory::{SourceFile, WriteGuard, prefer_huge_pages};
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
        let mut guard = buffer.write()?;
        prefer_huge_pages(&mut guard);
        match dtype {
            DType::F32 => self.convert_to::<f32>(step, &decoder, &mut guard),
            DType::BF16 => self.convert_to::<bf16>(step, &decoder, &mut guard),
            DType::F16 => self.convert_to::<f16>(step, &decoder, &mut guard),
            DType::F64 => self.convert_to::<f64>(step, &decoder, &mut guard),
            DType::F8E4M3 => self.convert_to::<F8E4M3>(step, &decoder, &mut guard),
            DType::F8E5M2 => self.convert_to::<F8E5M2>(step, &decoder, &mut guard),
            other => {
                let problem = format!("{}: nothing is converted to {other}", weight.name);
                Err(Error::dtype("load", "target", problem))
            }
        }?;
        drop(guard);
        AnyTensor::from_buffer(self.device, dtype, &weight.shape, buffer, 0)
    }

    fn convert_to<E: Scalar>(
        &mut self,
        step: &Step,
        decoder: &Decoder<'_>,
        out: &mut WriteGuard<'_>,
    ) -> Result<()> {
        let out: &mut [E] = bytemuck::cast_slice_mut(out);
        let pieces = out.chunks_mut(step.piece).enumerate();
        let mut jobs: Vec<(usize, &mut [E])> = pieces.map(|(i, p)| (i * step.piece, p)).collect();
        self.jobs(step, position(step, decoder), 1, &mut jobs, |(at, out)| {
            decoder.decode(*at..*at + out.len(), out)
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
        let mut codes = data.codes.buffer().write()?;
        let mut scales = data.scales.buffer().write()?;
        prefer_huge_pages(&mut codes);
        if layout.spec().block_rows == WHOLE && quantizer != Quantizer::Mse {
            // One scale a matrix, known from its amax: rows can then be quantised apart.
            let matrix = layout.rows() * layout.k();
            let width = layout.scale_cols() * layout.spec().scale.size();
            let code_bytes = (layout.rows() * layout.row_bytes()).max(1);
            let outputs = codes.chunks_mut(code_bytes).zip(scales.chunks_mut(width));
            for (i, (codes, scale)) in outputs.enumerate() {
                let values = i * matrix..(i + 1) * matrix;
                let amax = self.amax(step, &decoder, values.clone())?;
                scale_of(format, quantizer, amax, scale)?;
                let fixed = f32::from_ne_bytes([scale[0], scale[1], scale[2], scale[3]]);
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
                scale.buffer().write()?.copy_from_slice(&quantizer.tensor_scale().to_ne_bytes());
            }
            self.quantize_bands(step, &decoder, &layout, &quantizer, &mut codes, &mut scales)?;
        }
        drop((codes, scales));
        self.any(scaled)
    }

    /// The largest magnitude of a range of values.
    fn amax(&mut self, step: &Step, decoder: &Decoder<'_>, values: Range<usize>) -> Result<f32> {
        let starts = values.clone().step_by(step.piece.max(1));
        let mut jobs: Vec<(usize, f32)> = starts.map(|at| (at, 0.0)).collect();
        self.jobs(step, position(step, decoder), 2, &mut jobs, |(at, amax)| {
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
        codes: &mut [u8],
        quantizer: impl Fn(usize) -> Result<RowQuantizer> + Sync,
    ) -> Result<()> {
        let (k, row_bytes) = (layout.k().max(1), layout.row_bytes().max(1));
        let rows = (step.piece / k).max(1);
        let pieces = codes.chunks_mut(rows * row_bytes).enumerate();
        let mut jobs: Vec<(usize, &mut [u8])> =
            pieces.map(|(i, codes)| (first + i * rows * k, codes)).collect();
        self.jobs(step, position(step, decoder), 2, &mut jobs, |(at, codes)| {
            let rows = codes.len() / row_bytes;
            let mut values = scratch(rows * k, 0.0f32)?;
            decoder.decode(*at..*at + values.len(), &mut values)?;
            let quantizer = quantizer(rows)?;
            let mut scale = vec![0; layout.scale_cols() * layout.spec().scale.size()];
            quantizer.quantize_band(0, &values, codes, &mut scale)
        })
    }

    fn quantize_bands(
        &mut self,
        step: &Step,
        decoder: &Decoder<'_>,
        layout: &BlockLayout,
        quantizer: &RowQuantizer,
        mut codes: &mut [u8],
        mut scales: &mut [u8],
    ) -> Result<()> {
        struct Piece<'a> {
            bands: Range<usize>,
            codes: &'a mut [u8],
            scales: &'a mut [u8],
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
            let (now, later) = codes.split_at_mut(rows * layout.row_bytes());
            let (now_scales, later_scales) = scales.split_at_mut(bands.len() * width);
            (codes, scales) = (later, later_scales);
            jobs.push(Piece { bands, codes: now, scales: now_scales });
        }
        let passes = if layout.spec().tensor_scale { 2 } else { 1 };
        self.jobs(step, position(step, decoder), passes, &mut jobs, |piece| {
            let first = layout.band(piece.bands.start);
            let first = (first.0 * layout.rows() + first.1.start) * layout.k();
            let rows: usize = piece.bands.clone().map(rows_of).sum();
            let mut values = scratch(rows * layout.k(), 0.0f32)?;
            decoder.decode(first..first + values.len(), &mut values)?;
            let (mut codes, mut scales, mut values) =
                (&mut piece.codes[..], &mut piece.scales[..], &values[..]);
            for band in piece.bands.clone() {
                let rows = rows_of(band);
                let (these, later) = values.split_at(rows * layout.k());
                let (these_codes, later_codes) = codes.split_at_mut(rows * layout.row_bytes());
                let (these_scales, later_scales) = scales.split_at_mut(width);
                quantizer.quantize_band(band, these, these_codes, these_scales)?;
                (codes, scales, values) = (later_codes, later_scales, later);
            }
            Ok(())
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
    let mut code = vec![0; one.codes_len()];
    let out = Quantized { codes: &mut code, scales: scale, tensor_scale: None };
    quantize(&one, quantizer, &[amax], out)
}
