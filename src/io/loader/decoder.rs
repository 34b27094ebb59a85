//! Stretches of a weight's values, read from its file and decoded.

use std::ops::Range;

use super::weight::{Source, Weight};
#[cfg(feature = "safetensors")]
use crate::error::Error;
use crate::error::Result;
#[cfg(feature = "safetensors")]
use crate::format::{BlockLayout, Dequantizer, Format, ScaleLayout};
use crate::io::Weights;
use crate::io::entry::{Entry, Stored};
use crate::memory::scratch;
use crate::num::Scalar;

/// Reads and decodes a weight piece by piece. Scales that lie apart are held.
pub(super) struct Decoder<'a> {
    /// The tensor with the elements, blocks or codes.
    pub(super) entry: &'a Entry,
    kind: Kind,
    values: usize,
}

enum Kind {
    /// Elements or blocks; as many equal slices as there are scales.
    Plain { unit: usize, scales: Vec<f32> },
    #[cfg(feature = "safetensors")]
    Scaled { format: Format, rows: usize, k: usize, scales: Vec<u8>, tensor_scale: f32 },
}

impl<'a> Decoder<'a> {
    /// A decoder that has read the scales.
    pub(super) fn new(weights: &'a Weights, weight: &Weight<'a>) -> Result<Self> {
        let values = weight.shape.iter().product();
        match &weight.source {
            Source::Entry(entry) => {
                #[cfg(feature = "gguf")]
                let scales = match weights.outer_scale(entry)? {
                    Some((scale, _)) => scale.read_f32s()?,
                    None => vec![1.0],
                };
                #[cfg(not(feature = "gguf"))]
                let scales = vec![1.0];
                let kind = Kind::Plain { unit: unit(entry), scales };
                Ok(Self { entry, kind, values })
            }
            #[cfg(feature = "safetensors")]
            Source::Scaled(parts) => {
                let entry = weights.find("load", &parts.codes.name)?;
                let [.., rows, k] = parts.shape[..] else {
                    return Err(Error::file(weights.path(), "a scaled weight without rows"));
                };
                let format = parts.format;
                let mut scales = scratch(Weights::scales_bytes(parts), 0u8)?;
                weights.read_scales(parts, &mut scales)?;
                let tensor_scale = weights.read_tensor_scale(parts)?;
                let kind = Kind::Scaled { format, rows, k, scales, tensor_scale };
                Ok(Self { entry, kind, values })
            }
        }
    }

    /// Number of values.
    pub(super) fn values(&self) -> usize {
        self.values
    }

    /// Decodes the values of a range that begins and ends with a whole unit (see [`unit_of`]).
    pub(super) fn decode<E: Scalar>(&self, range: Range<usize>, out: &mut [E]) -> Result<()> {
        let mut bytes = scratch(range_bytes(self.entry, self.values, &range), 0u8)?;
        let first = byte_of(self.entry, self.values, range.start);
        self.entry.read_at(first, &mut bytes)?;
        match &self.kind {
            Kind::Plain { scales, .. } if scales.len() <= 1 => {
                self.entry.decode_bytes(&bytes, scales, out)
            }
            Kind::Plain { unit, scales } => {
                let slice = (self.values / scales.len()).max(1);
                let unit_bytes = range_bytes(self.entry, self.values, &(0..*unit));
                let units = bytes.chunks(unit_bytes.max(1)).zip(out.chunks_mut(*unit));
                for (i, (bytes, out)) in units.enumerate() {
                    let at = (range.start + i * unit) / slice;
                    self.entry.decode_bytes(bytes, &scales[at..=at], out)?;
                }
                Ok(())
            }
            #[cfg(feature = "safetensors")]
            Kind::Scaled { format, rows, k, scales, tensor_scale } => {
                let batch = self.values / (rows * k).max(1);
                let whole = BlockLayout::new(*format, ScaleLayout::RowMajor, batch, *rows, *k)?;
                let one = BlockLayout::new(*format, ScaleLayout::RowMajor, 1, 1, *k)?;
                let mut values = scratch(*k, 0.0f32)?;
                let codes = bytes.chunks(one.row_bytes().max(1));
                for (i, (codes, out)) in codes.zip(out.chunks_mut((*k).max(1))).enumerate() {
                    let row = range.start / k + i;
                    let band = row % rows / whole.band_rows();
                    let first = whole.scale_index(row / rows, band, 0) * whole.spec().scale.size();
                    let scales = &scales[first..first + one.scales_bytes()];
                    let row = Dequantizer::new(&one, codes, scales, *tensor_scale)?;
                    row.row(0, 0, 0, &mut values)?;
                    E::from_f32_slice(&values, out);
                }
                Ok(())
            }
        }
    }
}

/// Values that can only be decoded together: 1 of elements, a block, a row of scaled codes.
pub(super) fn unit_of(weight: &Weight<'_>) -> usize {
    match &weight.source {
        Source::Entry(entry) => unit(entry),
        #[cfg(feature = "safetensors")]
        Source::Scaled(_) => weight.shape.last().copied().unwrap_or(1).max(1),
    }
}

fn unit(entry: &Entry) -> usize {
    match entry.stored {
        #[cfg(feature = "gguf")]
        Stored::Blocks(block) => block.block_len(),
        Stored::Elements(_) | Stored::Other(_) => 1,
    }
}

/// Where value `at`, the first of a unit, begins in the tensor.
fn byte_of(entry: &Entry, values: usize, at: usize) -> usize {
    // In 128 bits: the product of two sizes that fit may not.
    let byte = at as u128 * entry.region.len() as u128 / values.max(1) as u128;
    usize::try_from(byte).unwrap_or(usize::MAX)
}

fn range_bytes(entry: &Entry, values: usize, range: &Range<usize>) -> usize {
    byte_of(entry, values, range.end) - byte_of(entry, values, range.start)
}
