//! What a `quantization_config` says of rotated inputs, in the words of compressed-tensors.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::common::rotation::RotatedInputs;

/// The `transform_config` for inputs of all linear layers but the head, rotated in blocks.
pub fn transform_config(inputs: RotatedInputs) -> Value {
    let apply = |targets: &str, ignore: &[&str], location: &str, inverse: bool| {
        json!({
            "targets": [targets],
            "ignore": ignore,
            "location": location,
            "inverse": inverse,
        })
    };
    let mut steps = vec![apply("Linear", &["lm_head"], "weight_input", true)];
    if inputs.by_values {
        steps.insert(0, apply("Linear", &["lm_head", "re:.*o_proj$"], "input", false));
        steps.push(apply("re:.*v_proj$", &[], "weight_output", false));
    } else {
        steps.insert(0, apply("Linear", &["lm_head"], "input", false));
    }
    let rotation = json!({
        "type": "hadamard",
        "head_dim": inputs.block,
        "randomize": false,
        "apply": steps,
    });
    json!({"config_groups": {"rotation": rotation}})
}

/// Which inputs of the layers' matrices are rotated, if any are.
///
/// # Errors
/// For any other transform: computed without it the model would say something else.
pub fn rotated_inputs(quantization_config: &Value) -> Result<Option<RotatedInputs>> {
    let groups = quantization_config["transform_config"]["config_groups"].as_object();
    let Some(groups) = groups.filter(|groups| !groups.is_empty()) else { return Ok(None) };
    let group = groups.values().next().filter(|_| groups.len() == 1);
    let inputs = group.and_then(|group| {
        let block = usize::try_from(group["head_dim"].as_u64()?).ok()?;
        let is_known = |inputs: &RotatedInputs| {
            let known = transform_config(*inputs)["config_groups"]["rotation"].take();
            let mut keys = known.as_object().into_iter().flatten();
            keys.all(|(key, value)| group[key] == *value)
        };
        [false, true].map(|by_values| RotatedInputs { block, by_values }).into_iter().find(is_known)
    });
    inputs.map(Some).context(
        "config.json has a `transform_config` that this program does not compute: it rotates the \
         inputs of all layers' matrices by Hadamard matrices in blocks, those of o also by v's \
         weights, and nothing else",
    )
}
