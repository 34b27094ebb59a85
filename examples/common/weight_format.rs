//! In which type weights are held.

use anyhow::{Result, bail};
use ferrocerium::DType;
use ferrocerium::format::{Format, Quantizer};
use ferrocerium::io::{Target, Weight};

/// What linear layers are converted to while loading. Embedding and head stay at 16 bits or
/// more: bf16 for the narrow formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// The file's own values: elements as they are, quantised blocks as the f32 they decode to.
    Keep,
    /// Plain elements.
    Elements(DType),
    /// A block format.
    Blocks(Format, Quantizer),
    /// A block format, quantised with error feedback, and rotated before or not: by
    /// [`Llama::load_calibrated`] alone.
    ///
    /// [`Llama::load_calibrated`]: crate::common::llama::Llama::load_calibrated
    Gptq { format: Format, rule: Quantizer, rotated: bool },
}

impl WeightFormat {
    /// The names that [`WeightFormat::parse`] takes.
    pub const NAMES: [&str; 10] = [
        "keep",
        "f32",
        "bf16",
        "fp8",
        "fp8row",
        "fp8group128",
        "fp8block128",
        "mxfp8",
        "mxfp4",
        "nvfp4",
    ];

    /// From its name, and that of a quantiser for block formats.
    pub fn parse(name: &str, quantizer: Option<&str>) -> Result<Self> {
        let plain = match name {
            "keep" => Some(WeightFormat::Keep),
            "f32" => Some(WeightFormat::Elements(DType::F32)),
            "bf16" => Some(WeightFormat::Elements(DType::BF16)),
            _ => None,
        };
        if let Some(plain) = plain {
            if let Some(quantizer) = quantizer {
                bail!("--quantizer {quantizer}: format {name} is not quantised; leave it out");
            }
            return Ok(plain);
        }
        if !Self::NAMES.contains(&name) {
            bail!("format `{name}` is not one of {}", Self::NAMES.join(", "));
        }
        let format: Format = name.parse()?;
        let quantizer = match quantizer {
            Some(name) => name.parse()?,
            None => Quantizer::default_for(format),
        };
        if !quantizer.supports(format) {
            let can = Quantizer::ALL.into_iter().filter(|q| q.supports(format));
            let names: Vec<_> = can.map(|q| q.to_string()).collect();
            bail!("quantizer {quantizer} does not make {format}; {} do", names.join(", "));
        }
        Ok(WeightFormat::Blocks(format, quantizer))
    }

    /// As [`WeightFormat::parse`], for programs that have a calibration text: `gptq` is a quantiser
    /// too, whose scales `mse` chooses, or `gptq_amax` and so on another rule; `rotated_gptq` rotates
    /// inputs and weights before.
    pub fn parse_calibrated(name: &str, quantizer: Option<&str>) -> Result<Self> {
        let plain = quantizer.map(|name| name.strip_prefix("rotated_").unwrap_or(name));
        let rotated = plain != quantizer;
        let rule = match plain.and_then(|name| name.strip_prefix("gptq")) {
            Some("") => "mse",
            Some(rule) if rule.starts_with('_') => &rule[1..],
            _ => return Self::parse(name, quantizer),
        };
        match Self::parse(name, Some(rule))? {
            WeightFormat::Blocks(format, _) if format.spec().block_rows != 1 => {
                bail!("gptq takes formats with scales of each row; those of {format} span rows")
            }
            WeightFormat::Blocks(format, rule) => Ok(WeightFormat::Gptq { format, rule, rotated }),
            other => Ok(other),
        }
    }

    /// What loading makes of a weight.
    pub fn target(&self, weight: &Weight<'_>) -> Target {
        match (*self, weight.shape().len()) {
            (WeightFormat::Keep, _) | (_, 0 | 1) => Target::Keep,
            (WeightFormat::Elements(dtype), _) => Target::Elements(dtype),
            (WeightFormat::Blocks(format, rule) | WeightFormat::Gptq { format, rule, .. }, _)
                if weight.is_linear() =>
            {
                Target::Blocks(format, rule)
            }
            (WeightFormat::Blocks(..) | WeightFormat::Gptq { .. }, _) => {
                Target::Elements(DType::BF16)
            }
        }
    }

    /// What a model needs a weight to become, which is that part of it: norms and biases are
    /// computed with in f32, and rows of an embedding are looked up, which blocks have none of.
    pub fn target_of_part(&self, weight: &Weight<'_>, part: &str) -> Target {
        let is_vector = part.ends_with("norm.weight") || part.ends_with(".bias");
        let is_table = part == "embedding.weight" || part == "head.weight";
        match self {
            _ if is_vector => Target::Elements(DType::F32),
            WeightFormat::Keep if is_table && !is_elements(weight) => Target::Elements(DType::F32),
            // Quantised later, for what the layers before make of a text.
            WeightFormat::Gptq { .. } if !is_table => Target::Keep,
            _ => self.target(weight),
        }
    }
}

fn is_elements(weight: &Weight<'_>) -> bool {
    weight.stored().parse::<DType>().is_ok()
}

impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WeightFormat::Keep => f.pad("keep"),
            WeightFormat::Elements(dtype) => dtype.fmt(f),
            WeightFormat::Blocks(format, quantizer) => f.pad(&format!("{format}/{quantizer}")),
            WeightFormat::Gptq { format, rule, rotated } => {
                let rotated = if *rotated { "rotated_" } else { "" };
                f.pad(&format!("{format}/{rotated}gptq_{rule}"))
            }
        }
    }
}
