//! Weights in ggml's blocks: what decoding and rearranging them needs.

use super::Weights;
use crate::error::{Error, Result};
use crate::format::BlockFormat;
use crate::io::entry::{Entry, Stored};
use crate::io::gguf::{BlockType, repack, repacked_format};
use crate::tensor::ScaledTensor;

impl Weights {
    /// The MXFP4 or NVFP4 blocks of a GGUF file, rearranged into codes and scales in memory of
    /// the device. No value changes.
    ///
    /// # Errors
    /// [`Error::Value`] when there is no such tensor, [`Error::DType`] when it is not stored in
    /// `F`'s blocks, [`Error::Shape`] for another rank, [`Error::OutOfMemory`].
    pub fn repack<F: BlockFormat, const R: usize>(&self, name: &str) -> Result<ScaledTensor<F, R>> {
        let entry = self.find("repack", name)?;
        let Stored::Blocks(block) = entry.stored else {
            return Err(self.not_repacked::<F>(entry));
        };
        if repacked_format(block) != Some(F::FORMAT) {
            return Err(self.not_repacked::<F>(entry));
        }
        let outer = match self.outer_scale(entry)? {
            Some((scale, 1)) => scale.scalar()?,
            Some((scale, n)) => {
                return Err(Error::layout(
                    "repack",
                    "name",
                    format!(
                        "{} has {n} tensor scales ({:?}); one tensor can carry one: decode() it",
                        entry.describe(),
                        scale.name
                    ),
                ));
            }
            None => 1.0,
        };
        let out = ScaledTensor::<F, R>::zeros(&self.device, entry.shape("repack")?)?;
        let source = entry.region.buffer().read()?;
        let mut regions = out.buffers().map(|(_, region)| region);
        if let (Some(codes), Some(scales)) = (regions.next(), regions.next()) {
            codes.buffer().fill(|codes| {
                scales.buffer().fill(|scales| {
                    repack(block, &source[entry.region.range()], codes, scales);
                    Ok(())
                })
            })?;
        }
        if let Some(scale) = regions.next() {
            scale.buffer().copy_from_host(0, &outer.to_ne_bytes())?;
        }
        drop(regions);
        Ok(out)
    }

    fn not_repacked<F: BlockFormat>(&self, entry: &Entry) -> Error {
        Error::dtype(
            "repack",
            "name",
            format!(
                "{}, not {} blocks of GGUF; use decode() and quantize",
                entry.describe(),
                F::FORMAT
            ),
        )
    }

    /// The scale beside an NVFP4 tensor of a GGUF file (`x.scale` for `x.weight`): one, or one
    /// for each outermost slice.
    pub(in crate::io) fn outer_scale(&self, entry: &Entry) -> Result<Option<(&Entry, usize)>> {
        let Stored::Blocks(BlockType::NVFP4) = entry.stored else { return Ok(None) };
        let Some(base) = entry.name.strip_suffix(".weight") else { return Ok(None) };
        let Some(scale) = self.entry(&format!("{base}.scale")) else { return Ok(None) };
        let n: usize = scale.shape.iter().product();
        let slices = if entry.shape.len() > 2 { entry.shape[0] } else { 1 };
        if n != 1 && n != slices {
            return Err(Error::file(
                &self.path,
                format!("{}; expected one value, or {slices} for {}", scale.describe(), entry.name),
            ));
        }
        Ok(Some((scale, n)))
    }

    /// The scales that the blocks' values are multiplied by: one for each of as many slices.
    pub(super) fn outer_scales(&self, entry: &Entry) -> Result<Vec<f32>> {
        let Some((scale, n)) = self.outer_scale(entry)? else { return Ok(vec![1.0]) };
        let mut scales = vec![0.0f32; n];
        scale.decode_into(&[1.0], &mut scales)?;
        Ok(scales)
    }
}
