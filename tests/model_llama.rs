//! The default model computes what its weights say.
//!
//! The expected values were computed in f64, independently: `tests/golden/generate_llama.py`.
#![cfg(all(feature = "cpu", feature = "gguf", feature = "safetensors"))]
#![allow(missing_docs)]

#[path = "../examples/common/mod.rs"]
mod common;

use std::ops::ControlFlow;
use std::path::PathBuf;

use common::checkpoint::Checkpoint;
use common::llama::{Llama, Logits};
use common::sampling::greedy;
use common::weight_format::WeightFormat;
use ferrocerium::Device;
use serde_json::Value;

/// How far a logit may be from the f64 computation: 30 layers round sums of up to 1536 terms in
/// f32 (half steps of 2^-24), and logits have magnitudes of 10 to 40.
const LOGIT_TOLERANCE: f32 = 1e-3;

fn load() -> Llama {
    let path = std::env::var_os("FERROCERIUM_TEST_MODEL")
        .expect("FERROCERIUM_TEST_MODEL names the model's file; `cargo xtask test` sets it");
    let device = Device::cpu();
    let checkpoint = Checkpoint::open(&device, &PathBuf::from(path)).unwrap();
    Llama::load(&checkpoint, &WeightFormat::Keep, |_| ControlFlow::Continue(())).unwrap()
}

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/smollm2_f64.json")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

#[test]
#[ignore = "needs the default model: cargo xtask test"]
fn logits_are_those_of_an_independent_computation() {
    let (model, golden) = (load(), golden());
    let stride = golden["stride"].as_u64().unwrap() as usize;
    let case = &golden["prompts"][0];
    let prompt = ids(&case["prompt_ids"]);
    let mut cache = model.cache(prompt.len()).unwrap();
    let logits = model.forward(&prompt, &mut cache, Logits::Last).unwrap().to_vec().unwrap();
    let expected = floats(&case["logits"]);
    assert_eq!(expected.len(), logits.len().div_ceil(stride));
    let mut worst = 0.0f32;
    for (x, expected) in logits.iter().step_by(stride).zip(expected) {
        // Written so that NaN is caught as well.
        assert!((x - expected).abs() <= LOGIT_TOLERANCE, "{x}, expected {expected}");
        worst = worst.max((x - expected).abs());
    }
    println!("worst difference {worst:e}");
}

#[test]
#[ignore = "needs the default model: cargo xtask test"]
fn greedy_continuations_are_those_of_an_independent_computation() {
    let (model, golden) = (load(), golden());
    for case in golden["prompts"].as_array().unwrap() {
        let (prompt, expected) = (ids(&case["prompt_ids"]), ids(&case["greedy"]));
        let mut cache = model.cache(prompt.len() + expected.len()).unwrap();
        let mut next = prompt;
        let mut found = Vec::new();
        for _ in &expected {
            let logits = model.forward(&next, &mut cache, Logits::Last).unwrap();
            let id = greedy(&logits.to_vec().unwrap()).unwrap();
            found.push(id);
            next = vec![id];
        }
        // Each token leads by more than what two logits can be off together: no ties here.
        let margin = floats(&case["margins"]).into_iter().fold(f32::INFINITY, f32::min);
        assert!(margin > 2.0 * LOGIT_TOLERANCE, "{margin}");
        assert_eq!(found, expected, "{}", case["prompt"]);
    }
}

#[test]
#[ignore = "needs the default model: cargo xtask test"]
fn a_prompt_at_once_and_token_by_token_give_the_same_logits() {
    let (model, golden) = (load(), golden());
    let prompt = ids(&golden["prompts"][4]["prompt_ids"]);
    let mut cache = model.cache(prompt.len()).unwrap();
    let all = model.forward(&prompt, &mut cache, Logits::LastN(prompt.len())).unwrap();
    let all = all.to_vec().unwrap();
    cache.clear();
    for (id, at_once) in prompt.iter().zip(all.chunks(model.vocab())) {
        let one = model.forward(&[*id], &mut cache, Logits::Last).unwrap().to_vec().unwrap();
        for (x, y) in one.iter().zip(at_once) {
            assert!((x - y).abs() <= LOGIT_TOLERANCE, "{x} and {y}");
        }
    }
}
