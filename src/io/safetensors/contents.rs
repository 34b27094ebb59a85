//! What a file that is to be written will hold: names, types, sizes, places.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value, json};

use super::Naming;
use crate::error::{Error, Result};
use crate::format::{BlockLayout, Format, ScaleLayout, WHOLE};
use crate::num::DType;

/// The data begins at a multiple of this, and each tensor at a multiple of its element's size.
const DATA_ALIGNMENT: usize = 256;

/// What a safetensors file will hold, weight by weight. Data follows when its header is complete:
/// see [`Writer`](super::Writer).
///
/// ```
/// use ferrocerium::io::safetensors::{Contents, Naming};
/// use ferrocerium::{DType, format::Format};
///
/// let mut contents = Contents::new();
/// contents.metadata("format", "pt");
/// contents.elements("norm.weight", DType::BF16, &[64])?;
/// contents.scaled("up.weight", Format::Nvfp4, &[32, 64], Naming::ModelOpt)?;
/// assert_eq!(contents.data_len(), 2 * 64 + 32 * 64 / 2 + 32 * 64 / 16 + 4);
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Contents {
    metadata: BTreeMap<String, String>,
    pub(super) weights: Vec<Planned>,
    names: HashSet<String>,
    data_len: usize,
}

/// A weight of a file that is to be written.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub name: String,
    pub kind: Kind,
    pub parts: Vec<Part>,
}

/// What a weight must be to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Elements { dtype: DType, shape: Vec<usize> },
    Scaled { format: Format, shape: Vec<usize>, naming: Naming },
}

/// A tensor of the file.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub name: String,
    pub dtype_name: &'static str,
    pub shape: Vec<usize>,
    /// Size of an element, by which it is aligned.
    pub align: usize,
    pub len: usize,
}

impl Contents {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A text in the header's `__metadata__`.
    pub fn metadata(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.metadata.insert(key.into(), text.into());
    }

    /// Bytes of all tensors.
    pub fn data_len(&self) -> usize {
        self.data_len
    }

    /// A tensor of plain elements.
    ///
    /// # Errors
    /// [`Error::Value`] for a name that is empty, has a zero byte or is there already;
    /// [`Error::Shape`] for a size that can not be addressed.
    pub fn elements(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<()> {
        let mut sizes = shape.to_vec();
        if dtype == DType::E2M1x2 {
            // The file counts codes, of which an element has two.
            match sizes.last_mut().map(|k| (k.checked_mul(2), k)) {
                Some((Some(codes), k)) => *k = codes,
                _ => return Err(too_large(name, shape)),
            }
        }
        let part = Part {
            name: name.to_owned(),
            dtype_name: dtype_name(dtype),
            shape: sizes,
            align: dtype.size(),
            len: product(name, shape)?
                .checked_mul(dtype.size())
                .ok_or_else(|| too_large(name, shape))?,
        };
        let kind = Kind::Elements { dtype, shape: shape.to_vec() };
        self.add(Planned { name: name.to_owned(), kind, parts: vec![part] })
    }

    /// A block-scaled weight, in as many tensors as the naming has for it (see
    /// [`ScaledParts`](super::ScaledParts)):
    ///
    /// | format | naming | tensors beside the codes |
    /// |---|---|---|
    /// | NVFP4 | ModelOpt | `_scale`, `_scale_2` |
    /// | NVFP4 | compressed-tensors | `_scale`, `_global_scale`: 1/g rounded, so that g may come back one unit in the last place off |
    /// | MXFP4 | ModelOpt, compressed-tensors | `_scale` U8 |
    /// | MXFP4 | gpt-oss | `_scales` U8 |
    /// | MXFP8 | ModelOpt, compressed-tensors | `_scale` U8 |
    /// | FP8 per tensor, per row, per group | ModelOpt, compressed-tensors | `_scale` F32 |
    /// | FP8 block 128 | any but gpt-oss | `_scale_inv` F32, as DeepSeek names it |
    ///
    /// # Errors
    /// As [`elements`](Self::elements); [`Error::Value`] for a format that the naming has no name
    /// for; [`Error::Shape`] for rows that are no whole number of blocks, or several matrices
    /// under one scale each, for which no reader has a shape.
    pub fn scaled(
        &mut self,
        name: &str,
        format: Format,
        shape: &[usize],
        naming: Naming,
    ) -> Result<()> {
        let [outer @ .., rows, k] = shape else {
            return Err(Error::shape(
                "save",
                "shape",
                format!("{name} is {shape:?}, not [rows, k]"),
            ));
        };
        let batch = product(name, outer)?;
        let layout = BlockLayout::new(format, ScaleLayout::RowMajor, batch, *rows, *k)?;
        let spec = layout.spec();
        if spec.block_k != WHOLE && !k.is_multiple_of(spec.block_k) {
            return Err(Error::shape(
                "save",
                "shape",
                format!(
                    "{name} is {shape:?} in {format}: files hold whole blocks, and {k} is no \
                     multiple of {}; save it as elements",
                    spec.block_k
                ),
            ));
        }
        if spec.block_rows == WHOLE && batch != 1 {
            return Err(Error::shape(
                "save",
                "shape",
                format!("{name} is {batch} matrices with one scale each in {format}: save each"),
            ));
        }
        let with = |last: &[usize]| outer.iter().chain([rows]).chain(last).copied().collect();
        let codes_shape: Vec<usize> = with(&[k / spec.codes_per_byte]);
        let scales_shape: Vec<usize> = with(&[layout.scale_cols()]);
        let (codes_type, scales_type) = match spec.scale {
            DType::UE4M3 => ("U8", "F8_E4M3"),
            DType::E8M0 if spec.code == DType::E2M1x2 => ("U8", "U8"),
            DType::E8M0 => (dtype_name(spec.code), "U8"),
            _ => (dtype_name(spec.code), "F32"),
        };
        let fp4 = spec.code == DType::E2M1x2;
        let (codes, scales, outer_scale) = match naming {
            Naming::CompressedTensors if fp4 => ("_packed", "_scale", Some("_global_scale")),
            Naming::GptOss if format == Format::Mxfp4 => ("_blocks", "_scales", None),
            Naming::ModelOpt | Naming::CompressedTensors | Naming::DeepSeek
                if format == Format::Fp8Block128 =>
            {
                ("", "_scale_inv", None)
            }
            Naming::ModelOpt | Naming::CompressedTensors => ("", "_scale", Some("_scale_2")),
            Naming::GptOss | Naming::DeepSeek => {
                return Err(Error::value(
                    "save",
                    "naming",
                    format!("{naming:?} has no names for {format} ({name}); ModelOpt has"),
                ));
            }
        };
        let (codes_shape, scales_shape) = match (naming, spec.block_rows) {
            (Naming::GptOss, _) => (with(&[layout.scale_cols(), spec.block_k / 2]), scales_shape),
            (_, WHOLE) => (codes_shape, Vec::new()),
            (_, 1) => (codes_shape, scales_shape),
            _ => {
                let blocks = [layout.scale_rows(), layout.scale_cols()];
                (codes_shape, outer.iter().copied().chain(blocks).collect())
            }
        };
        let part = |suffix: &str, dtype_name, shape, align, len| Part {
            name: format!("{name}{suffix}"),
            dtype_name,
            shape,
            align,
            len,
        };
        let mut parts = vec![
            part(codes, codes_type, codes_shape, 1, layout.codes_len()),
            part(scales, scales_type, scales_shape, spec.scale.size(), layout.scales_bytes()),
        ];
        if let (Some(suffix), true) = (outer_scale, spec.tensor_scale) {
            // As llm-compressor has it, its scale is a vector of one.
            let shape = if naming == Naming::CompressedTensors { vec![1] } else { Vec::new() };
            parts.push(part(suffix, "F32", shape, size_of::<f32>(), size_of::<f32>()));
        }
        let kind = Kind::Scaled { format, shape: shape.to_vec(), naming };
        self.add(Planned { name: name.to_owned(), kind, parts })
    }

    fn add(&mut self, weight: Planned) -> Result<()> {
        let mut data_len = self.data_len;
        for part in &weight.parts {
            let name = &part.name;
            let problem = match name.as_str() {
                "" | "__metadata__" => "is no name for a tensor",
                name if name.contains('\0') => "has a zero byte",
                name if self.names.contains(name) => "is there already",
                _ => {
                    data_len = data_len.checked_add(part.len).ok_or_else(|| {
                        Error::shape("save", "shape", format!("{name} makes the file too large"))
                    })?;
                    continue;
                }
            };
            return Err(Error::value("save", "name", format!("{name:?} {problem}")));
        }
        self.data_len = data_len;
        self.names.extend(weight.parts.iter().map(|part| part.name.clone()));
        self.weights.push(weight);
        Ok(())
    }

    /// The file up to its data, and where each part of each weight begins in the data. Parts of
    /// wider elements come first, so that all are aligned without gaps.
    pub(super) fn header(&self) -> (Vec<u8>, Vec<Vec<usize>>) {
        let mut places: Vec<Vec<usize>> =
            self.weights.iter().map(|weight| vec![0; weight.parts.len()]).collect();
        let mut order: Vec<(usize, usize)> = (0..self.weights.len())
            .flat_map(|w| (0..self.weights[w].parts.len()).map(move |p| (w, p)))
            .collect();
        order.sort_by_key(|&(w, p)| std::cmp::Reverse(self.weights[w].parts[p].align));
        let mut header = Map::new();
        if !self.metadata.is_empty() {
            header.insert("__metadata__".to_owned(), json!(self.metadata));
        }
        let mut at = 0;
        for (w, p) in order {
            let part = &self.weights[w].parts[p];
            places[w][p] = at;
            let entry = json!({
                "dtype": part.dtype_name,
                "shape": part.shape,
                "data_offsets": [at, at + part.len],
            });
            header.insert(part.name.clone(), entry);
            at += part.len;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        let start = (size_of::<u64>() + text.len()).next_multiple_of(DATA_ALIGNMENT);
        text.resize(start - size_of::<u64>(), b' ');
        ([&(text.len() as u64).to_le_bytes(), &text[..]].concat(), places)
    }
}

fn product(name: &str, shape: &[usize]) -> Result<usize> {
    let product = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
    product.ok_or_else(|| too_large(name, shape))?;
    Ok(shape.iter().product())
}

fn too_large(name: &str, shape: &[usize]) -> Error {
    Error::shape("save", "shape", format!("{name} is {shape:?}, more than can be addressed"))
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::U8 => "U8",
        DType::I8 => "I8",
        DType::U16 => "U16",
        DType::I16 => "I16",
        DType::U32 => "U32",
        DType::I32 => "I32",
        DType::U64 => "U64",
        DType::I64 => "I64",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::F32 => "F32",
        DType::F64 => "F64",
        DType::F8E4M3 | DType::UE4M3 => "F8_E4M3",
        DType::F8E5M2 => "F8_E5M2",
        DType::E8M0 => "F8_E8M0",
        DType::E2M1x2 => "F4",
    }
}
