//! `examples/quantize`: killed at any point it leaves the old file or none, and the same command
//! ends with the bytes, the table and the companions of a run that was let be.
#![cfg(all(feature = "cpu", feature = "gguf", feature = "safetensors"))]

#[path = "common/folder.rs"]
#[allow(dead_code)]
mod folder;
#[path = "common/ops.rs"]
mod ops;
#[path = "common/program.rs"]
mod program;
#[path = "common/safetensors_file.rs"]
mod safetensors_file;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use ferrocerium::bf16;
use folder::Folder;
use program::{example, fails, succeeds};

const WEIGHTS: usize = 24;

/// A model's folder with so many linear layers and a norm each.
fn model(folder: &Folder) -> std::path::PathBuf {
    let bytes = |n: usize, seed: usize| -> Vec<u8> {
        let values = ops::numbers(n, seed as u64);
        values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
    };
    let names: Vec<_> =
        (0..WEIGHTS).map(|i| [format!("l.{i}.up.weight"), format!("l.{i}.norm")]).collect();
    let data: Vec<_> = (0..WEIGHTS).map(|i| [bytes(64 * 512, i), bytes(512, i)]).collect();
    let mut parts: Vec<safetensors_file::Tensor<'_>> = Vec::new();
    for ([up, norm], [matrix, vector]) in names.iter().zip(&data) {
        parts.push((up, "BF16", &[64, 512], matrix));
        parts.push((norm, "BF16", &[512], vector));
    }
    let path = folder.path().join("model");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("model.safetensors"), safetensors_file::file(&parts)).unwrap();
    let stale = r#"{"model_type": "test", "quantization_config": {"quant_method": "stale"}}"#;
    std::fs::write(path.join("config.json"), stale).unwrap();
    std::fs::write(path.join("tokenizer.json"), "{\"model\": 1}").unwrap();
    std::fs::write(path.join("notes.txt"), "private").unwrap();
    path
}

fn command(model: &Path, output: &Path) -> Command {
    let mut command = example("quantize");
    command.args([model, output]).args(["--format", "nvfp4", "--threads", "2"]);
    command
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap());
    let named =
        entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()));
    named.collect()
}

#[test]
fn killed_again_and_again_it_ends_with_what_a_run_in_peace_gives() {
    let folder = Folder::new("quantize-kill");
    let model = model(&folder);
    let (peace, output) = (folder.path().join("peace"), folder.path().join("out"));
    let table = succeeds(&mut command(&model, &peace));
    let rows = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("l.")).map(str::to_owned).collect()
    };
    assert_eq!(rows(&table).len(), 2 * WEIGHTS, "{table}");
    let expected = files(&peace);
    let names: Vec<_> = expected.keys().map(String::as_str).collect();
    assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = now.subsec_nanos();
    let (mut kills, mut wait) = (0, u64::from(seed));
    loop {
        wait = wait.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut process =
            command(&model, &output).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(wait >> 48));
        if kills == 10 {
            break assert!(process.wait().unwrap().success(), "seed {seed}");
        }
        process.kill().unwrap();
        process.wait().unwrap();
        kills += 1;
        let whole = output.join("model.safetensors");
        if whole.exists() {
            let found = std::fs::read(&whole).unwrap();
            assert!(
                found == expected["model.safetensors"],
                "torn after {kills} kills, seed {seed}"
            );
        }
    }
    // The same again, whether or not a kill came too late to find it unfinished.
    assert!(files(&output) == expected, "seed {seed}");
}

#[cfg(unix)]
#[test]
fn interrupted_it_says_so_and_the_table_is_whole_afterwards() {
    let folder = Folder::new("quantize-interrupt");
    let model = model(&folder);
    let peace = succeeds(&mut command(&model, &folder.path().join("peace")));
    let output = folder.path().join("out.safetensors");
    // Where a weight can not be read, what was written before is kept.
    let weights = model.join("model.safetensors");
    let sound = std::fs::read(&weights).unwrap();
    let mut spoilt = sound.clone();
    let last = spoilt.len() - 512 * 2 - 2;
    spoilt[last..last + 2].copy_from_slice(&bf16::NAN.to_le_bytes());
    let modified = std::fs::metadata(&model).unwrap().modified().unwrap();
    std::fs::write(&weights, &spoilt).unwrap();
    let (failed, out, err) = program::finish(&mut command(&model, &output));
    assert_eq!(failed.status.code(), Some(1), "{out}\n{err}");
    assert!(err.contains("l.23.up.weight") && err.contains("NaN"), "{err}");
    assert!(!output.exists());
    std::fs::write(&weights, &sound).unwrap();
    std::fs::File::open(&model).unwrap().set_modified(modified).unwrap();
    let again = succeeds(&mut command(&model, &output));
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("l.")).count();
    assert_eq!((rows(&again), rows(&peace)), (2 * WEIGHTS, 2 * WEIGHTS), "{again}");
    let table =
        |text: &str| text.lines().filter(|l| l.starts_with("l.")).collect::<Vec<_>>().join("\n");
    assert_eq!(table(&again), table(&peace));
    // Beside a file nothing else is written.
    let left: Vec<_> = files_of(folder.path());
    assert_eq!(left, ["model", "out.safetensors", "peace"]);
}

fn files_of(folder: &Path) -> Vec<String> {
    let names = folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn the_configuration_says_how_the_weights_are_quantised_and_not_how_they_were() {
    let folder = Folder::new("quantize-config");
    let model = model(&folder);
    let config = |name: &str, args: &[&str]| -> serde_json::Value {
        let output = folder.path().join(name);
        let mut command = example("quantize");
        succeeds(command.args([&model, &output]).args(["--threads", "2"]).args(args));
        serde_json::from_slice(&std::fs::read(output.join("config.json")).unwrap()).unwrap()
    };
    let plain = config("bf16", &["--format", "bf16"]);
    assert_eq!(plain, serde_json::json!({"model_type": "test"}));
    let nvfp4 = config("nvfp4", &["--format", "nvfp4"]);
    assert_eq!(nvfp4["model_type"], "test");
    let nvfp4 = &nvfp4["quantization_config"];
    assert_eq!(
        (&nvfp4["quant_method"], &nvfp4["quant_algo"]),
        (&"modelopt".into(), &"NVFP4".into())
    );
    let weights = &nvfp4["config_groups"]["group_0"]["weights"];
    assert_eq!((&weights["num_bits"], &weights["group_size"]), (&4.into(), &16.into()));
    assert_eq!(weights["strategy"], "tensor_group");
    let mxfp8 = config("mxfp8", &["--format", "mxfp8", "--naming", "compressed-tensors"]);
    let mxfp8 = &mxfp8["quantization_config"];
    assert_eq!(mxfp8["quant_method"], "compressed-tensors");
    assert_eq!(mxfp8["format"], "mxfp8-quantized");
    let group = &mxfp8["config_groups"]["group_0"];
    assert_eq!(
        (&group["weights"]["group_size"], &group["targets"][0]),
        (&32.into(), &"Linear".into())
    );
    assert!(group["input_activations"].is_null());
}

#[test]
fn the_model_is_not_overwritten() {
    let folder = Folder::new("quantize-self");
    let model = model(&folder);
    fails(&mut command(&model, &model), &["model.safetensors", "is a file of the model"]);
    let mut missing = command(&folder.path().join("none"), &folder.path().join("out"));
    fails(&mut missing, &["none"]);
}
