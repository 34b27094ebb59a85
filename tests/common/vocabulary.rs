//! A small vocabulary, as GGUF files and as Hugging Face folders have it.
#![allow(dead_code)]

use serde_json::json;

use crate::gguf_file::{self, GgufFile};

const MERGES: [&str; 7] = ["h e", "l l", "he ll", "1 2", "12 3", "Ġ Ġ", "' s"];
const CONTROL: [&str; 2] = ["<s>", "<|im_end|>"];
const USER_DEFINED: &str = "<tool>";

/// All bytes and a few merges, in GPT-2's spelling of bytes, then the special tokens.
pub fn tokens() -> Vec<String> {
    let printable = |b: u32| (33..127).contains(&b) || (161..173).contains(&b) || b >= 174;
    let mut others = 256..;
    let bytes = (0..256).map(|b| {
        let code = if printable(b) { b } else { others.next().unwrap() };
        char::from_u32(code).unwrap().to_string()
    });
    let merged = MERGES.map(|m| m.replace(' ', ""));
    let special = [CONTROL[0], CONTROL[1], USER_DEFINED].map(str::to_owned);
    bytes.chain(merged).chain(special).collect()
}

/// The vocabulary in the metadata of a GGUF file.
pub fn byte_pairs(pre: &str) -> GgufFile {
    let tokens = tokens();
    let kind = |t: &String| match t.as_str() {
        t if CONTROL.contains(&t) => 3u32,
        USER_DEFINED => 4,
        _ => 1,
    };
    let kinds: Vec<_> = tokens.iter().map(|t| kind(t).to_le_bytes().to_vec()).collect();
    GgufFile::default()
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", pre)
        .strs("tokenizer.ggml.tokens", &tokens)
        .array("tokenizer.ggml.token_type", gguf_file::U32, &kinds)
        .strs("tokenizer.ggml.merges", &MERGES)
        .u32("tokenizer.ggml.bos_token_id", 263)
}

/// The vocabulary as the text of a `tokenizer.json`.
pub fn tokenizer_json() -> String {
    let tokens = tokens();
    let vocab: serde_json::Map<_, _> =
        tokens.iter().enumerate().map(|(i, t)| (t.clone(), json!(i))).collect();
    let added = |text: &str| {
        let id = tokens.iter().position(|t| t == text).unwrap();
        json!({
            "id": id, "content": text, "special": CONTROL.contains(&text), "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true,
    });
    json!({
        "version": "1.0",
        "added_tokens": [added(CONTROL[0]), added(CONTROL[1]), added(USER_DEFINED)],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": MERGES},
    })
    .to_string()
}
