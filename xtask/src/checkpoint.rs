//! `cargo xtask checkpoint`: a model of any size that takes no room on disk.

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

/// Sizes of the matrices of a layer of a large model.
const MATRICES: [(&str, u64, u64); 4] = [
    ("self_attn.q_proj", 4096, 4096),
    ("mlp.gate_proj", 14336, 4096),
    ("mlp.up_proj", 14336, 4096),
    ("mlp.down_proj", 4096, 14336),
];
const BF16_BYTES: u64 = 2;

/// Writes a safetensors model of about that many GiB in bf16, in several files with an index. The
/// values are zeros that are in no block of the disk.
pub fn write(folder: &Path, gib: u64, shards: u64) -> Result<ExitCode> {
    ensure!(gib > 0 && shards > 0, "a model has at least 1 GiB and 1 file");
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let layer_bytes: u64 = MATRICES.iter().map(|(_, rows, k)| rows * k * BF16_BYTES).sum();
    let layers = (gib << 30).div_ceil(layer_bytes);
    let mut map = Vec::new();
    for shard in 0..shards {
        let file = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        let mut entries = Vec::new();
        let mut at = 0;
        for layer in (shard..layers).step_by(shards as usize) {
            for (name, rows, k) in MATRICES {
                let name = format!("model.layers.{layer}.{name}.weight");
                let end = at + rows * k * BF16_BYTES;
                entries.push(format!(
                    r#""{name}":{{"dtype":"BF16","shape":[{rows},{k}],"data_offsets":[{at},{end}]}}"#
                ));
                map.push(format!(r#""{name}":"{file}""#));
                at = end;
            }
        }
        let mut header = format!("{{{}}}", entries.join(","));
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        let path = folder.join(file);
        let context = || path.display().to_string();
        fs::write(&path, &bytes).with_context(context)?;
        let file = File::options().write(true).open(&path).with_context(context)?;
        file.set_len(bytes.len() as u64 + at).with_context(context)?;
    }
    let index = format!("{{\"metadata\":{{}},\"weight_map\":{{{}}}}}", map.join(","));
    fs::write(folder.join("model.safetensors.index.json"), index)?;
    println!("{}: {layers} layers in {shards} files", folder.display());
    Ok(ExitCode::SUCCESS)
}
