//! Small models of each architecture, in each kind of file, compute what an independent program
//! computes in f64: tests/golden/generate_tiny_llama.py.
#![cfg(all(feature = "cpu", feature = "gguf", feature = "safetensors"))]
#![allow(missing_docs)]

#[path = "../examples/common/mod.rs"]
mod common;
#[path = "common/folder.rs"]
mod folder;
#[path = "common/gguf_file.rs"]
mod gguf_file;
#[path = "common/ops.rs"]
mod ops;
#[path = "common/safetensors_file.rs"]
mod safetensors_file;
#[path = "common/tiny_model.rs"]
mod tiny_model;
#[path = "common/vocabulary.rs"]
mod vocabulary;

use std::ops::ControlFlow;
use std::path::Path;

use common::checkpoint::Checkpoint;
use common::llama::{Llama, Logits};
use common::weight_format::WeightFormat;
use ferrocerium::Device;
use folder::Folder;
use serde_json::Value;
use tiny_model::{LLAMA, QWEN2, QWEN3, TinyModel};

/// Two layers of sums of up to 24 products of numbers near 1, rounded in f32 (half steps of
/// 2^-24): some hundred roundings of logits up to 8.
const TOLERANCE: f64 = 5e-5;

fn golden(model: &TinyModel) -> (Vec<u32>, Vec<f32>, Vec<f64>) {
    let json: Value = serde_json::from_str(include_str!("golden/tiny_llama.json")).unwrap();
    let read = |v: &Value| -> Vec<f64> {
        v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let of_model = &json["models"][model.arch];
    (
        read(&json["ids"]).into_iter().map(|x| x as u32).collect(),
        read(&of_model["rope_factors"]).into_iter().map(|x| x as f32).collect(),
        read(&of_model["logits"]),
    )
}

/// The logits after `ids`, the first `prefill` of which are run together.
fn logits(device: &Device, path: &Path, ids: &[u32], prefill: usize) -> Vec<f32> {
    let checkpoint = Checkpoint::open(device, path).unwrap();
    let model =
        Llama::load(&checkpoint, &WeightFormat::Keep, |_| ControlFlow::Continue(())).unwrap();
    let mut cache = model.cache(ids.len()).unwrap();
    let mut logits = model.forward(&ids[..prefill], &mut cache, Logits::Last).unwrap();
    for id in &ids[prefill..] {
        logits = model.forward(&[*id], &mut cache, Logits::Last).unwrap();
    }
    logits.to_vec().unwrap()
}

fn check(model: &TinyModel, path: &Path) {
    let (ids, _, expected) = golden(model);
    for (device, _) in ops::devices() {
        for prefill in [ids.len(), 5, 1] {
            let found = logits(&device, path, &ids, prefill);
            assert_eq!(found.len(), expected.len());
            for (i, (x, exact)) in found.iter().zip(&expected).enumerate() {
                let what = format!("{} on {device:?}: logit {i}", model.arch);
                ops::close(f64::from(*x), *exact, TOLERANCE, what);
            }
        }
    }
}

#[test]
fn models_in_gguf_files_give_the_logits_of_an_f64_computation() {
    for model in [LLAMA, QWEN2, QWEN3] {
        let folder = Folder::new(&format!("tiny-gguf-{}", model.arch));
        check(&model, &folder.write("model.gguf", model.gguf(&golden(&model).1).bytes()));
    }
}

#[test]
fn models_in_folders_give_the_logits_of_an_f64_computation() {
    for model in [LLAMA, QWEN2, QWEN3] {
        let folder = Folder::new(&format!("tiny-folder-{}", model.arch));
        model.write_folder(&folder);
        check(&model, folder.path());
    }
}

#[test]
fn weights_at_odd_places_in_their_file_are_the_same_weights() {
    let folder = Folder::new("tiny-odd");
    QWEN3.write_folder(&folder);
    folder.write("model.safetensors", QWEN3.safetensors(3));
    check(&QWEN3, folder.path());
}
