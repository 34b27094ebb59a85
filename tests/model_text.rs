//! Text in and out of the default model: tokens, chat template, streaming.
//!
//! The expected values come from llama.cpp: `tests/golden/generate_smollm2.py`.
#![cfg(feature = "cpu")]
#![cfg(all(feature = "cpu", feature = "gguf", feature = "safetensors"))]
#![allow(missing_docs)]

#[path = "../examples/common/mod.rs"]
mod common;

use common::detokenizer::Detokenizer;
use common::template::Message;
use common::tokenizer::TextTokenizer;
use ferrocerium::Device;
use ferrocerium::io::Weights;
use serde_json::Value;

fn tokenizer() -> TextTokenizer {
    let path = std::env::var_os("FERROCERIUM_TEST_MODEL")
        .expect("FERROCERIUM_TEST_MODEL names the model's file; `cargo xtask test` sets it");
    TextTokenizer::of(&Weights::open(&Device::cpu(), path).unwrap()).unwrap()
}

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/smollm2.json")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
#[ignore = "needs the default model: cargo xtask test"]
fn texts_become_the_tokens_that_llama_cpp_makes_of_them() {
    let (tokenizer, golden) = (tokenizer(), golden());
    for case in golden["tokens"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["ids"]), "{text:?}");
    }
}

#[test]
#[ignore = "needs the default model: cargo xtask test"]
fn streamed_pieces_join_to_the_text() {
    let (tokenizer, golden) = (tokenizer(), golden());
    for case in golden["tokens"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        if text.contains("<|im") || text.contains("<|end") {
            continue;
        }
        let mut stream = Detokenizer::new(&tokenizer, &[]);
        let mut joined = String::new();
        for id in ids(&case["ids"]) {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains('\u{FFFD}') || text.contains('\u{FFFD}'), "{piece:?}");
            joined += &piece;
        }
        joined += &stream.finish().unwrap();
        assert_eq!(joined, text);
    }
}

#[test]
#[ignore = "needs the default model: cargo xtask test"]
fn conversations_become_the_text_that_llama_cpp_makes_of_them() {
    let (tokenizer, golden) = (tokenizer(), golden());
    let template = tokenizer.chat_template().unwrap().unwrap();
    for case in golden["prompts"].as_array().unwrap() {
        let text = |m: &Value, key: &str| m[key].as_str().unwrap().to_owned();
        let messages = case["messages"].as_array().unwrap();
        let messages: Vec<_> =
            messages.iter().map(|m| Message::new(text(m, "role"), text(m, "content"))).collect();
        assert_eq!(template.render(&messages).unwrap(), case["text"].as_str().unwrap());
    }
}

#[test]
#[ignore = "needs the default model: cargo xtask test"]
fn the_turn_ends_with_the_tokens_of_the_file() {
    let tokenizer = tokenizer();
    let end = tokenizer.encode("<|im_end|>", false).unwrap();
    assert_eq!(end, [2]);
    assert!(tokenizer.is_end(2) && tokenizer.is_end(0) && !tokenizer.is_end(1));
    assert_eq!((tokenizer.begin(), tokenizer.len()), (None, 49152));
}
