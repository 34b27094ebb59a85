//! Models in several files.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// The file that says which tensor is in which file.
pub const INDEX_NAME: &str = "model.safetensors.index.json";
/// The file of a model that is not split.
pub const SINGLE_NAME: &str = "model.safetensors";
/// Most files of one model.
pub const MAX_SHARDS: usize = 4096;

/// Which file each tensor is in, by the text of an index file, of which `path` is named in errors.
///
/// # Errors
/// [`Error::File`] when the text is not such an index, names no or more than [`MAX_SHARDS`]
/// files, or a file that is not a plain name ending in `.safetensors` (an index must not lead out
/// of its folder).
pub fn shard_names(json: &[u8], path: &Path) -> Result<BTreeMap<String, String>> {
    let expected = "expected {\"weight_map\": {\"tensor\": \"file\", …}}";
    let fail = |problem: String| Error::file(path, format!("{problem}; {expected}"));
    let index: Value = serde_json::from_slice(json).map_err(|e| fail(format!("no JSON: {e}")))?;
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(fail("no index of a safetensors model".to_owned()));
    };
    let mut by_name = BTreeMap::new();
    for (name, file) in map {
        let Some(file) = file.as_str() else {
            return Err(fail(format!("tensor {name:?} is in {file}")));
        };
        by_name.insert(name.clone(), file.to_owned());
    }
    let mut files: Vec<&String> = by_name.values().collect();
    files.sort_unstable();
    files.dedup();
    if files.is_empty() || files.len() > MAX_SHARDS {
        return Err(Error::file(
            path,
            format!("names {} files; expected 1 to {MAX_SHARDS}", files.len()),
        ));
    }
    let plain = |name: &str| {
        name.ends_with(".safetensors")
            && !name.starts_with('.')
            && !name.contains(['/', '\\', ':', '\0'])
    };
    if let Some(file) = files.into_iter().find(|file| !plain(file)) {
        return Err(Error::file(
            path,
            format!(
                "names the file {file:?}; expected a plain name like \"model-00001-of-00002.safetensors\""
            ),
        ));
    }
    Ok(by_name)
}
