//! What `config.json` says of quantised weights, so that other programs know how to read them.

use std::collections::BTreeMap;

use ferrocerium::format::{Format, WHOLE};
use ferrocerium::io::safetensors::Naming;
use ferrocerium::io::{Held, Step};
use serde_json::{Value, json};

/// The `quantization_config` of a model whose weights become what these steps say; `None` where
/// none is quantised. Activations are not: weights alone are.
pub fn quantization_config(steps: &[Step], naming: Naming) -> Option<Value> {
    let module = |step: &Step| step.name.strip_suffix(".weight").unwrap_or(&step.name).to_owned();
    let mut quantised: BTreeMap<String, (Format, Vec<String>)> = BTreeMap::new();
    let mut ignore = Vec::new();
    for step in steps {
        match step.held {
            Held::Blocks(format) => {
                let group = quantised.entry(format.to_string());
                group.or_insert((format, Vec::new())).1.push(module(step));
            }
            Held::Elements(_) if step.shape.len() > 1 => ignore.push(module(step)),
            Held::Elements(_) => {}
        }
    }
    let one = quantised.len() == 1;
    let (format, _) = quantised.values().next()?;
    let (kind, algorithm) = (compression(*format), algorithm(*format));
    let groups = quantised.into_values().enumerate().map(|(i, (format, modules))| {
        let targets = if one { vec!["Linear".to_owned()] } else { modules };
        let group = json!({
            "targets": targets,
            "weights": weights(format),
            "input_activations": null,
            "output_activations": null,
        });
        (format!("group_{i}"), group)
    });
    let groups: serde_json::Map<String, Value> = groups.collect();
    Some(match naming {
        Naming::CompressedTensors => json!({
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "format": if one { kind } else { "mixed-precision" },
            "config_groups": groups,
            "ignore": ignore,
        }),
        _ => json!({
            "quant_method": "modelopt",
            "quant_algo": if one { algorithm } else { "MIXED_PRECISION" },
            "producer": { "name": "ferrocerium", "version": env!("CARGO_PKG_VERSION") },
            "config_groups": groups,
            "ignore": ignore,
        }),
    })
}

/// How compressed-tensors calls a way to store weights.
fn compression(format: Format) -> &'static str {
    match format {
        Format::Nvfp4 => "nvfp4-pack-quantized",
        Format::Mxfp4 => "mxfp4-pack-quantized",
        Format::Mxfp8E4M3 | Format::Mxfp8E5M2 => "mxfp8-quantized",
        _ => "float-quantized",
    }
}

/// ModelOpt's name of the algorithm whose weights these are.
fn algorithm(format: Format) -> &'static str {
    match format {
        Format::Nvfp4 => "NVFP4",
        Format::Mxfp4 => "MXFP4",
        Format::Mxfp8E4M3 | Format::Mxfp8E5M2 => "MXFP8",
        Format::Fp8Row => "FP8_PER_CHANNEL_PER_TOKEN",
        Format::Fp8Group128 | Format::Fp8Block128 => "FP8_PB_WO",
        _ => "FP8",
    }
}

/// Codes and scales, in the words of compressed-tensors, which ModelOpt's groups have too.
fn weights(format: Format) -> Value {
    let spec = format.spec();
    let strategy = match (spec.block_rows, spec.block_k, spec.tensor_scale) {
        (WHOLE, ..) => "tensor",
        (_, WHOLE, _) => "channel",
        (1, _, true) => "tensor_group",
        (1, ..) => "group",
        _ => "block",
    };
    let mut weights = json!({
        "num_bits": if matches!(format, Format::Nvfp4 | Format::Mxfp4) { 4 } else { 8 },
        "type": "float",
        "symmetric": true,
        "dynamic": false,
        "strategy": strategy,
    });
    match strategy {
        "group" | "tensor_group" => weights["group_size"] = spec.block_k.into(),
        "block" => weights["block_structure"] = json!([spec.block_rows, spec.block_k]),
        _ => {}
    }
    weights
}
