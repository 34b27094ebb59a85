//! Block-scaled weights of safetensors models.

use super::{Source, Weights};
use crate::error::{Error, Result};
use crate::format::{BlockFormat, BlockLayout, Dequantizer, ScaleLayout};
use crate::io::entry::Entry;
use crate::io::safetensors::{ScaledParts, TensorScale};
use crate::memory::Region;
use crate::num::Scalar;
use crate::op::ScaledData;
use crate::tensor::ScaledTensor;

impl Weights {
    pub(super) fn parts(&self, name: &str) -> Result<Option<ScaledParts<'_>>> {
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
        let (code_guard, scale_guard) =
            (codes.region.buffer().read()?, scales.region.buffer().read()?);
        let values = Dequantizer::new(
            &layout,
            &code_guard[codes.region.range()],
            &scale_guard[scales.region.range()],
            self.tensor_scale(parts)?,
        )?;
        let mut row = vec![0.0f32; *k];
        for (i, out) in out.chunks_mut((*k).max(1)).enumerate() {
            values.row(i / rows, i % rows, 0, &mut row)?;
            E::from_f32_slice(&row, out);
        }
        Ok(())
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
        let (codes, scales) = (self.part(&parts.codes.name)?, self.part(&parts.scales.name)?);
        let align = parts.format.spec().scale.size();
        if !scales.region.offset().is_multiple_of(align) {
            return Err(Error::layout(
                "scaled",
                "name",
                format!(
                    "{} and begins at byte {}, not a multiple of {align}; use decode() and \
                     quantize",
                    scales.describe(),
                    scales.region.offset()
                ),
            ));
        }
        let tensor_scale = match parts.tensor_scale {
            Some(_) => {
                let label = format!("{name} tensor scale");
                let buffer = self.device.allocate(size_of::<f32>(), label)?;
                let scale = self.tensor_scale(parts)?;
                buffer.write()?.copy_from_slice(&scale.to_ne_bytes());
                Some(Region::whole(buffer))
            }
            None => None,
        };
        let data =
            ScaledData { codes: codes.region.clone(), scales: scales.region.clone(), tensor_scale };
        ScaledTensor::from_parts(&self.device, shape, ScaleLayout::RowMajor, data)
    }
}
