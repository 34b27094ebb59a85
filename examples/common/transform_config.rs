//! What a `quantization_config` says of rotated inputs, in the words of compressed-tensors.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The `transform_config` for inputs of all linear layers but the head, rotated in blocks.
pub fn transform_config(block: usize) -> Value {
    let apply = |location: &str, inverse: bool| {
        json!({
            "targets": ["Linear"],
            "ignore": ["lm_head"],
            "location": location,
            "inverse": inverse,
        })
    };
    let rotation = json!({
        "type": "hadamard",
        "head_dim": block,
        "randomize": false,
        "apply": [apply("input", false), apply("weight_input", true)],
    });
    json!({"config_groups": {"rotation": rotation}})
}

/// The block that the inputs of the layers' matrices are rotated in, if they are.
///
/// # Errors
/// For any other transform: computed without it the model would say something else.
pub fn block(quantization_config: &Value) -> Result<Option<usize>> {
    let groups = quantization_config["transform_config"]["config_groups"].as_object();
    let Some(groups) = groups.filter(|groups| !groups.is_empty()) else { return Ok(None) };
    let group = groups.values().next().filter(|_| groups.len() == 1);
    let block = group.and_then(|group| {
        let block = usize::try_from(group["head_dim"].as_u64()?).ok()?;
        let known = transform_config(block)["config_groups"]["rotation"].take();
        known.as_object()?.iter().all(|(key, value)| group[key] == *value).then_some(block)
    });
    block.map(Some).context(
        "config.json has a `transform_config` that this program does not compute: it rotates the \
         inputs of all layers' matrices by Hadamard matrices in blocks, and nothing else",
    )
}
