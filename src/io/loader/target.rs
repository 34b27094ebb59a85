//! What a weight becomes, and how it gets there.

use std::fmt;

use super::weight::{Source, Weight};
use crate::error::{Error, Result};
use crate::format::{BlockLayout, Format, Quantizer, ScaleLayout};
#[cfg(feature = "gguf")]
use crate::io::Entry;
use crate::io::Stored;
#[cfg(feature = "gguf")]
use crate::io::gguf::repacked_format;
use crate::num::DType;

/// What is asked of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Target {
    /// As it is stored: elements, block-scaled weights, and the FP4 blocks of GGUF (taken apart
    /// into codes and scales). Other blocks of ggml become the f32 they decode to.
    Keep,
    /// Elements of that type, rounded once.
    Elements(DType),
    /// A block format, with scales by that rule.
    Blocks(Format, Quantizer),
    /// Not loaded.
    Skip,
}

/// What a weight is held as once it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Elements of that type.
    Elements(DType),
    /// A block format.
    Blocks(Format),
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Held::Elements(dtype) => dtype.fmt(f),
            Held::Blocks(format) => format.fmt(f),
        }
    }
}

/// How a weight gets from its file to where it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// The mapped file's own bytes.
    Map,
    /// Read straight into the final buffer.
    Read,
    /// Read a piece at a time and converted into the final buffer.
    Convert,
    /// Blocks read a piece at a time and taken apart into codes and scales; no value changes.
    Repack,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Strategy::Map => "map",
            Strategy::Read => "read",
            Strategy::Convert => "convert",
            Strategy::Repack => "repack",
        })
    }
}

/// What [`resolve`] found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolved {
    pub held: Held,
    pub strategy: Strategy,
    pub quantizer: Option<Quantizer>,
}

/// Types that elements are converted to.
pub(super) const ELEMENTS: [DType; 6] =
    [DType::F32, DType::BF16, DType::F16, DType::F64, DType::F8E4M3, DType::F8E5M2];

/// How `weight` becomes `target`; `None` when it is skipped. `in_place` allows mapping.
pub(super) fn resolve(
    weight: &Weight<'_>,
    target: Target,
    in_place: bool,
) -> Result<Option<Resolved>> {
    if let Target::Blocks(format, quantizer) = target
        && !quantizer.supports(format)
    {
        return Err(Error::value(
            "load",
            "target",
            format!("{}: {quantizer} does not make {format}", weight.name),
        ));
    }
    let as_stored = |held, mappable: bool| {
        let strategy = if in_place && mappable { Strategy::Map } else { Strategy::Read };
        Resolved { held, strategy, quantizer: None }
    };
    let (stored, can_map) = match &weight.source {
        Source::Entry(entry) => match entry.stored {
            Stored::Elements(dtype) => (Held::Elements(dtype), entry.is_aligned(dtype)),
            #[cfg(feature = "gguf")]
            Stored::Blocks(block) => {
                let one_scale = !matches!(weight.shape.len(), 3..);
                let format = repacked_format(block).filter(|_| one_scale);
                return blocks(entry, format, target);
            }
            Stored::Other(_) if target == Target::Skip => return Ok(None),
            Stored::Other(_) => return Err(entry.unreadable("load")),
        },
        #[cfg(feature = "safetensors")]
        Source::Scaled(parts) => (Held::Blocks(parts.format), true),
    };
    Ok(Some(match target {
        Target::Skip => return Ok(None),
        Target::Keep => as_stored(stored, can_map),
        Target::Elements(dtype) if stored == Held::Elements(dtype) => as_stored(stored, can_map),
        Target::Blocks(format, _) if stored == Held::Blocks(format) => as_stored(stored, can_map),
        _ if stored == Held::Elements(DType::E2M1x2) => {
            return Err(Error::dtype(
                "load",
                "target",
                format!(
                    "{} is FP4 codes without scales, which are only kept as they are",
                    weight.name
                ),
            ));
        }
        other => converted(weight.name, other)?,
    }))
}

#[cfg(feature = "gguf")]
fn blocks(entry: &Entry, format: Option<Format>, target: Target) -> Result<Option<Resolved>> {
    let Stored::Blocks(block) = entry.stored else { return Ok(None) };
    let repacked = |format| Resolved {
        held: Held::Blocks(format),
        strategy: Strategy::Repack,
        quantizer: None,
    };
    Ok(Some(match (target, format) {
        (Target::Skip, _) => return Ok(None),
        _ if !block.is_decodable() => return Err(entry.unreadable("load")),
        (Target::Keep, Some(format)) => repacked(format),
        (Target::Blocks(wanted, _), Some(format)) if wanted == format => repacked(format),
        (Target::Keep, None) => converted(&entry.name, Target::Elements(DType::F32))?,
        _ => converted(&entry.name, target)?,
    }))
}

fn converted(name: &str, target: Target) -> Result<Resolved> {
    let (held, quantizer) = match target {
        Target::Blocks(format, quantizer) => (Held::Blocks(format), Some(quantizer)),
        Target::Elements(dtype) if ELEMENTS.contains(&dtype) => (Held::Elements(dtype), None),
        other => {
            return Err(Error::dtype(
                "load",
                "target",
                format!(
                    "{name} was asked for as {other:?}; weights are converted to {}, or a block \
                     format",
                    ELEMENTS.map(|dtype| dtype.to_string()).join(", ")
                ),
            ));
        }
    };
    Ok(Resolved { held, strategy: Strategy::Convert, quantizer })
}

/// The layout of a weight in a block format: the last two sizes are rows and k.
pub(super) fn layout(format: Format, shape: &[usize]) -> Result<BlockLayout> {
    let (outer, rows, k) = match shape {
        [outer @ .., rows, k] => (outer, *rows, *k),
        [k] => (&[][..], 1, *k),
        [] => (&[][..], 1, 1),
    };
    let batch = outer.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
    BlockLayout::new(format, ScaleLayout::RowMajor, batch, rows, k)
}

impl Held {
    /// Bytes that values of that shape take.
    pub(super) fn bytes(self, shape: &[usize]) -> Result<u64> {
        let bytes = match self {
            Held::Elements(dtype) => {
                let bytes = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d));
                bytes.filter(|&n| isize::try_from(n).is_ok()).ok_or_else(|| {
                    Error::shape("load", "shape", format!("{shape:?} can not be addressed"))
                })?
            }
            Held::Blocks(format) => {
                let layout = layout(format, shape)?;
                let tensor_scale = layout.tensor_scale_len() * size_of::<f32>();
                layout.codes_len() + layout.scales_bytes() + tensor_scale
            }
        };
        Ok(bytes as u64)
    }
}
