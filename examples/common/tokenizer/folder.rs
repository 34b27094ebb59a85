//! A tokenizer from a folder as the Hugging Face hub has it: `tokenizer.json`, and
//! `tokenizer_config.json`, `generation_config.json`, `chat_template.jinja` where present.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::{TextTokenizer, ends_a_turn};

pub fn read(folder: &Path) -> Result<TextTokenizer> {
    let path = folder.join("tokenizer.json");
    let bytes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
    let inner = Tokenizer::from_bytes(bytes).map_err(|e| anyhow!("{}: {e}", path.display()))?;

    let config = json(&folder.join("tokenizer_config.json"))?;
    let generation = json(&folder.join("generation_config.json"))?;
    let named = |key: &str| token_text(&config[key]).and_then(|text| inner.token_to_id(text));
    let (bos, eos) = (named("bos_token"), named("eos_token"));
    let mut ends: Vec<u32> = eos.into_iter().collect();
    // One number or a list of them.
    let stated = &generation["eos_token_id"];
    let stated = stated.as_array().map_or(std::slice::from_ref(stated), Vec::as_slice);
    ends.extend(stated.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()));
    for (id, token) in inner.get_added_tokens_decoder() {
        if ends_a_turn(&token.content) {
            ends.push(id);
        }
    }
    // What the post-processor puts first is what the model wants first.
    let first = inner.encode_fast("", true).ok().and_then(|e| e.get_ids().first().copied());
    let stated = config["add_bos_token"].as_bool();
    let add_bos = stated.unwrap_or(bos.is_some() && first == bos);
    let chat_template = match fs::read_to_string(folder.join("chat_template.jinja")) {
        Ok(text) => Some(text),
        Err(_) => default_template(&config["chat_template"]).map(str::to_owned),
    };
    Ok(TextTokenizer { inner, bos, add_bos, ends, eos, chat_template })
}

/// A file's JSON; null when there is no such file.
fn json(path: &Path) -> Result<Value> {
    if !path.is_file() {
        return Ok(Value::Null);
    }
    let bytes = fs::read(path).with_context(|| format!("{}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))
}

/// A token is a text, or an object with the text as its content.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// A template is a text, or one of a list by name.
fn default_template(value: &Value) -> Option<&str> {
    let by_name = |list: &'_ Vec<Value>| -> Option<usize> {
        list.iter().position(|t| t["name"] == "default")
    };
    match value {
        Value::String(text) => Some(text),
        Value::Array(list) => list.get(by_name(list)?)?["template"].as_str(),
        _ => None,
    }
}
