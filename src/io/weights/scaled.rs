//! Block-scaled weights of safetensors models.

use super::{Source, Weights};
use crate::caps::MemoryKind;
use crate::error::{Error, Result};
use crate::format::{BlockFormat, BlockLayout, Dequantizer, ScaleLayout};
use crate::io::entry::{Entry, Stored};
use crate::io::safetensors::{ScaledParts, TensorScale};
use crate::memory::{Region, scratch};
use crate::num::{DType, Scalar};
use crate::op::ScaledData;
use crate::tensor::ScaledTensor;

impl Weights {
    pub(in crate::io) fn parts(&self, name: &str) -> Result<Option<ScaledParts<'_>>> {
        match &self.source {
            Source::SafeTensors(model) => model.scaled_parts(name),
            #[cfg(feature = "gguf")]
            Source::Gguf(_) => Ok(None),
        }
    }

    /// The entry of a part, which recognition has found in this very model.
    fn part(&self, name: &str) -> Result<&Entry> {
        self.find("scaled", name)
    }

    /// `g` of the format's formula.
    fn tensor_scale(&self, parts: &ScaledParts<'_>) -> Result<f32> {
        Ok(match parts.tensor_scale {
            Some(TensorScale::Multiplies(t)) => self.part(&t.name)?.scalar()?,
            Some(TensorScale::Divides(t)) => 1.0 / self.part(&t.name)?.scalar()?,
            None => 1.0,
        })
    }

    pub(super) fn dequantize<E: Scalar>(
        &self,
        parts: &ScaledParts<'_>,
        out: &mut [E],
    ) -> Result<()> {
        let [outer @ .., rows, k] = &parts.shape[..] else { return Ok(()) };
        let batch: usize = outer.iter().product();
        let layout = BlockLayout::new(parts.format, ScaleLayout::RowMajor, batch, *rows, *k)?;
        let (codes, scales) = (self.part(&parts.codes.name)?, self.part(&parts.scales.name)?);
        let wanted = parts.format.spec().scale;
        let scales = self.scales_in_place_or_widened(scales, wanted, MemoryKind::Host)?;
        let (code_guard, scale_guard) = (codes.region.buffer().read()?, scales.buffer().read()?);
        let values = Dequantizer::new(
            &layout,
            &code_guard[codes.region.range()],
            &scale_guard[scales.range()],
            self.tensor_scale(parts)?,
        )?;
        let mut row = scratch(*k, 0.0f32)?;
        for (i, out) in out.chunks_mut((*k).max(1)).enumerate() {
            values.row(i / rows, i % rows, 0, &mut row)?;
            E::from_f32_slice(&row, out);
        }
        Ok(())
    }

    /// The file's own bytes where they are what the format wants; else f32 scales that are BF16,
    /// F16 or misaligned in the file, as new aligned ones.
    fn scales_in_place_or_widened(
        &self,
        scales: &Entry,
        wanted: DType,
        kind: MemoryKind,
    ) -> Result<Region> {
        let in_place = match scales.stored {
            _ if wanted != DType::F32 => true,
            Stored::Elements(DType::F32) => {
                scales.region.offset().is_multiple_of(align_of::<f32>())
            }
            _ => false,
        };
        if in_place {
            return Ok(scales.region.clone());
        }
        let len: usize = scales.shape.iter().product();
        let buffer = self.device.allocate_kind(kind, len * size_of::<f32>(), &scales.name)?;
        buffer.fill(|out| scales.decode_into::<f32>(&[1.0], bytemuck::cast_slice_mut(out)))?;
        Ok(Region::whole(buffer))
    }

    pub(super) fn bind_scaled<F: BlockFormat, const R: usize>(
        &self,
        name: &str,
        parts: &ScaledParts<'_>,
    ) -> Result<ScaledTensor<F, R>> {
        if parts.format != F::FORMAT {
            return Err(Error::dtype(
                "scaled",
                "F",
                format!(
                    "{name:?} is {}, not {}; use decode() and quantize",
                    parts.format,
                    F::FORMAT
                ),
            ));
        }
        let shape = <[usize; R]>::try_from(&parts.shape[..]).map_err(|_| {
            let (shape, rank) = (&parts.shape, parts.shape.len());
            let problem = format!("{name:?} is {shape:?}, of {rank} dimensions, not {R}");
            Error::shape("scaled", "R", problem)
        })?;
        let data = self.scaled_in_place(name, parts)?;
        ScaledTensor::from_parts(&self.device, shape, ScaleLayout::RowMajor, data)
    }

    /// Codes and scales in the mapped files, where that can be.
    pub(in crate::io) fn scaled_in_place(
        &self,
        name: &str,
        parts: &ScaledParts<'_>,
    ) -> Result<ScaledData> {
        let (codes, scales) = (self.part(&parts.codes.name)?, self.part(&parts.scales.name)?);
        let (wanted, kind) = (parts.format.spec().scale, self.device.memory_kind());
        let scales = self.scales_in_place_or_widened(scales, wanted, kind)?;
        let tensor_scale = match parts.tensor_scale {
            Some(_) => {
                let label = format!("{name} tensor scale");
                let buffer = self.device.allocate(size_of::<f32>(), label)?;
                let scale = self.tensor_scale(parts)?;
                buffer.copy_from_host(0, &scale.to_ne_bytes())?;
                Some(Region::whole(buffer))
            }
            None => None,
        };
        Ok(ScaledData { codes: codes.region.clone(), scales, tensor_scale })
    }

    /// Fills `out` with the block scales as the format wants them, read from the file.
    pub(in crate::io) fn read_scales(&self, parts: &ScaledParts<'_>, out: &mut [u8]) -> Result<()> {
        match self.scales_as_held(parts)? {
            Some(scales) => scales.read_at(0, out),
            None => {
                let scales = self.part(&parts.scales.name)?.read_f32s()?;
                out.copy_from_slice(bytemuck::cast_slice(&scales));
                Ok(())
            }
        }
    }

    /// The block scales, where they are stored as the format wants them.
    pub(in crate::io) fn scales_as_held(&self, parts: &ScaledParts<'_>) -> Result<Option<&Entry>> {
        let (scales, wanted) = (self.part(&parts.scales.name)?, parts.format.spec().scale);
        let widened = wanted == DType::F32 && scales.stored != Stored::Elements(wanted);
        Ok(Some(scales).filter(|_| !widened))
    }

    /// Bytes of the block scales as the format wants them.
    pub(in crate::io) fn scales_bytes(parts: &ScaledParts<'_>) -> usize {
        parts.scales.shape.iter().product::<usize>() * parts.format.spec().scale.size()
    }

    /// As [`tensor_scale`](Self::tensor_scale), read from the file.
    pub(in crate::io) fn read_tensor_scale(&self, parts: &ScaledParts<'_>) -> Result<f32> {
        let Some(scale) = parts.tensor_scale else { return Ok(1.0) };
        let value = self.part(&scale.tensor().name)?.read_f32s()?;
        let value = value.first().copied().unwrap_or(1.0);
        Ok(if let TensorScale::Divides(_) = scale { 1.0 / value } else { value })
    }
}
