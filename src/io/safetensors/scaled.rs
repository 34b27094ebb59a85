//! Block-scaled weights, as the tools that write them name their parts.

use super::TensorInfo;
use crate::format::{BlockLayout, Format, ScaleLayout};
use crate::num::DType;

/// Who names the parts of a scaled weight so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Naming {
    /// NVIDIA ModelOpt, AMD Quark and the FP8 checkpoints: the codes keep the weight's name.
    ModelOpt,
    /// compressed-tensors (llm-compressor, vLLM): `weight_packed`.
    CompressedTensors,
    /// gpt-oss: `_blocks` and `_scales`.
    GptOss,
    /// DeepSeek's block-scaled FP8: `weight_scale_inv`, which multiplies all the same.
    DeepSeek,
}

/// The f32 scale over a whole tensor, as the file has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TensorScale<'a> {
    /// The value is multiplied by it (`weight_scale_2`).
    Multiplies(&'a TensorInfo),
    /// The value is divided by it (`weight_global_scale`).
    Divides(&'a TensorInfo),
}

impl<'a> TensorScale<'a> {
    /// The tensor that holds it.
    pub fn tensor(self) -> &'a TensorInfo {
        let (TensorScale::Multiplies(t) | TensorScale::Divides(t)) = self;
        t
    }
}

/// A block-scaled weight found in a file: its format and where its parts are.
///
/// | written by | format | codes | block scales | tensor scale |
/// |---|---|---|---|---|
/// | ModelOpt | NVFP4 | `X.weight` U8 or F4 | `X.weight_scale` F8_E4M3 | `X.weight_scale_2` F32, multiplies |
/// | compressed-tensors | NVFP4 | `X.weight_packed` U8 | `X.weight_scale` F8_E4M3 | `X.weight_global_scale` F32, divides |
/// | compressed-tensors | MXFP4 | `X.weight_packed` U8 | `X.weight_scale` U8 or F8_E8M0 | |
/// | ModelOpt, Quark | MXFP4 | `X.weight` U8 or F4 | `X.weight_scale` U8 or F8_E8M0 | |
/// | gpt-oss | MXFP4 | `X_blocks` U8 `[…, k/32, 16]` | `X_scales` U8 | |
/// | compressed-tensors, ModelOpt | MXFP8 | `X.weight` F8_E4M3, F8_E5M2 | `X.weight_scale` U8 or F8_E8M0 | |
/// | compressed-tensors, ModelOpt | FP8 per tensor, per row | `X.weight` F8_E4M3 | `X.weight_scale` F32, one or one a row | |
/// | compressed-tensors | FP8 per group of 128 | `X.weight` F8_E4M3 | `X.weight_scale` F32 `[rows, k/128]` | |
/// | DeepSeek | FP8 block 128 | `X.weight` F8_E4M3 | `X.weight_scale_inv` F32, multiplies | |
///
/// FP8 scales may also be BF16 or F16, as llm-compressor writes them; they are widened where they
/// are used.
/// In all of them the code with the lower index is in the low nibble, as in this crate. Scales
/// are row-major. Activation scales (`input_scale`, `input_global_scale`) are separate tensors of
/// type F32; [`ScaledParts::input_scale`] names the one that belongs here.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaledParts<'a> {
    /// The format.
    pub format: Format,
    /// Sizes in values, outermost first.
    pub shape: Vec<usize>,
    /// Who names the parts so.
    pub naming: Naming,
    /// The codes.
    pub codes: &'a TensorInfo,
    /// The block scales, or the one scale of [`Format::Fp8TensorE4M3`].
    pub scales: &'a TensorInfo,
    /// The tensor scale of NVFP4.
    pub tensor_scale: Option<TensorScale<'a>>,
    /// The activation scale, read as the tensor scale is.
    pub input_scale: Option<TensorScale<'a>>,
}

/// The logical name of the weight that a tensor named `name` may hold the codes of.
pub(super) fn logical_name(name: &str) -> &str {
    if let Some(base) = name.strip_suffix("_blocks") {
        return base;
    }
    // "X.weight_packed" is the weight "X.weight".
    name.strip_suffix("_packed").unwrap_or(name)
}

/// Finds the parts of the weight `name` (`"model.layers.0.mlp.up_proj.weight"`; for gpt-oss
/// without suffix). `None` when there is no scaled weight of that name; an error text when there
/// is one whose parts do not fit together.
pub(super) fn recognise<'a>(
    name: &str,
    find: impl Fn(&str) -> Option<&'a TensorInfo>,
) -> Result<Option<ScaledParts<'a>>, String> {
    let part = |suffix: &str| find(&format!("{name}{suffix}"));
    let base = name.strip_suffix("weight").unwrap_or(name);
    let input = |suffix: &str| find(&format!("{base}{suffix}"));

    if let (Some(codes), Some(scales)) = (part("_blocks"), part("_scales")) {
        return Parts { name, naming: Naming::GptOss, codes, scales }.mxfp4_blocks().map(Some);
    }
    let (naming, codes) = match (part("_packed"), find(name)) {
        (Some(codes), _) => (Naming::CompressedTensors, codes),
        (None, Some(codes)) => (Naming::ModelOpt, codes),
        (None, None) => return Ok(None),
    };
    let (scales, naming) = match (part("_scale"), part("_scale_inv")) {
        (Some(scales), _) => (scales, naming),
        (None, Some(scales)) => (scales, Naming::DeepSeek),
        (None, None) if naming == Naming::CompressedTensors => {
            return Err(format!("{:?} is there but {name}_scale is not", codes.name));
        }
        (None, None) => return Ok(None),
    };
    let Some(format) = format_of(naming, codes, scales) else {
        // A wide weight has no need of the scale. Narrow codes without theirs are not the weight.
        return match codes.dtype {
            Some(dtype) if dtype.size() > 1 => Ok(None),
            _ => Err(format!(
                "{name} has {} codes and {} scales, a pair that is not known here; get() and \
                 copy() give the codes",
                codes.dtype_name, scales.dtype_name
            )),
        };
    };
    let mut parts = Parts { name, naming, codes, scales }.finish(format)?;
    if format == Format::Nvfp4 {
        let scale = match naming {
            Naming::CompressedTensors => part("_global_scale").map(TensorScale::Divides),
            _ => part("_scale_2").map(TensorScale::Multiplies),
        };
        parts.tensor_scale = Some(scale.ok_or_else(|| {
            format!("{name} is NVFP4 but has no {name}_scale_2 or {name}_global_scale")
        })?);
    }
    parts.input_scale = match naming {
        Naming::CompressedTensors => input("input_global_scale").map(TensorScale::Divides),
        _ => input("input_scale").map(TensorScale::Multiplies),
    };
    for scale in parts.tensor_scale.iter().chain(&parts.input_scale) {
        let t = scale.tensor();
        if t.dtype != Some(DType::F32) || t.shape.iter().product::<usize>() != 1 {
            return Err(format!("{} is {} {:?}; expected one F32", t.name, t.dtype_name, t.shape));
        }
    }
    Ok(Some(parts))
}

fn format_of(naming: Naming, codes: &TensorInfo, scales: &TensorInfo) -> Option<Format> {
    let one = scales.shape.iter().product::<usize>() == 1;
    Some(match (codes.dtype?, scales.dtype?) {
        (DType::U8 | DType::E2M1x2, DType::F8E4M3) => Format::Nvfp4,
        (DType::U8 | DType::E2M1x2, DType::U8 | DType::E8M0) => Format::Mxfp4,
        (DType::F8E4M3, DType::U8 | DType::E8M0) => Format::Mxfp8E4M3,
        (DType::F8E5M2, DType::U8 | DType::E8M0) => Format::Mxfp8E5M2,
        (DType::F8E4M3, scale) if is_wide(scale) => match naming {
            Naming::DeepSeek => Format::Fp8Block128,
            _ if one => Format::Fp8TensorE4M3,
            _ if has_columns(codes, scales) => Format::Fp8Group128,
            _ => Format::Fp8Row,
        },
        (DType::F8E5M2, scale) if is_wide(scale) && one => Format::Fp8TensorE5M2,
        _ => return None,
    })
}

/// Whether there are several scales a row.
fn has_columns(codes: &TensorInfo, scales: &TensorInfo) -> bool {
    scales.shape.len() == codes.shape.len() && scales.shape.last() != Some(&1)
}

/// Types of the scales of FP8 formats.
fn is_wide(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::BF16 | DType::F16)
}

struct Parts<'a, 'n> {
    name: &'n str,
    naming: Naming,
    codes: &'a TensorInfo,
    scales: &'a TensorInfo,
}

impl<'a> Parts<'a, '_> {
    /// gpt-oss keeps the blocks apart: `[…, rows, k/32, 16 bytes]`.
    fn mxfp4_blocks(self) -> Result<ScaledParts<'a>, String> {
        const BLOCK_BYTES: usize = 16;
        match self.codes.shape.as_slice() {
            [outer @ .., blocks, BLOCK_BYTES] if self.codes.dtype == Some(DType::U8) => {
                let k = blocks * 2 * BLOCK_BYTES;
                let shape = outer.iter().copied().chain([k]).collect();
                self.with_shape(Format::Mxfp4, shape)
            }
            shape => Err(format!(
                "{} is {} {shape:?}; expected U8 [rows, k/32, {BLOCK_BYTES}]",
                self.codes.name, self.codes.dtype_name
            )),
        }
    }

    fn finish(self, format: Format) -> Result<ScaledParts<'a>, String> {
        let mut shape = self.codes.shape.clone();
        if let Some(k) = shape.last_mut() {
            *k = k.checked_mul(format.spec().codes_per_byte).ok_or("its row length overflows")?;
        }
        self.with_shape(format, shape)
    }

    /// Checks the parts' sizes against what the format needs for `shape`.
    fn with_shape(self, format: Format, shape: Vec<usize>) -> Result<ScaledParts<'a>, String> {
        let (Self { name, naming, codes, scales }, spec) = (self, format.spec());
        let [outer @ .., rows, k] = shape.as_slice() else {
            return Err(format!("{} has shape {:?}; expected [rows, k]", codes.name, codes.shape));
        };
        let batch = outer.iter().product();
        let layout = BlockLayout::new(format, ScaleLayout::RowMajor, batch, *rows, *k)
            .map_err(|e| e.to_string())?;
        let found: usize = scales.shape.iter().product();
        let scale_dtype_fits = match spec.scale {
            DType::UE4M3 => scales.dtype == Some(DType::F8E4M3),
            DType::E8M0 => matches!(scales.dtype, Some(DType::U8 | DType::E8M0)),
            _ => scales.dtype.is_some_and(is_wide),
        };
        if codes.bytes.len() != layout.codes_len()
            || found != layout.scales_len()
            || !scale_dtype_fits
        {
            return Err(format!(
                "{name} looks like {format} of shape {shape:?}, which takes {} bytes of codes and \
                 {} scales of {}; found {} bytes in {} and {} {:?} in {}",
                layout.codes_len(),
                layout.scales_len(),
                spec.scale,
                codes.bytes.len(),
                codes.name,
                scales.dtype_name,
                scales.shape,
                scales.name
            ));
        }
        let (tensor_scale, input_scale) = (None, None);
        Ok(ScaledParts { format, shape, naming, codes, scales, tensor_scale, input_scale })
    }
}
