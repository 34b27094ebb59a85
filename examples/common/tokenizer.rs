//! Text to tokens and back, by the vocabulary that the model's file brings.

mod folder;
mod gguf;
mod splits;

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use ferrocerium::io::Weights;
use tokenizers::Tokenizer;

use super::template::ChatTemplate;

/// A model's tokenizer, with what the file says of its special tokens.
pub struct TextTokenizer {
    inner: Tokenizer,
    /// Begins a text, where the model wants that.
    bos: Option<u32>,
    add_bos: bool,
    /// Any of them ends an answer.
    ends: Vec<u32>,
    eos: Option<u32>,
    chat_template: Option<String>,
}

impl TextTokenizer {
    /// The tokenizer that comes with the weights: in a GGUF file's metadata, or as
    /// `tokenizer.json` beside safetensors files.
    pub fn of(weights: &Weights) -> Result<Self> {
        match weights.gguf() {
            Some(file) => gguf::read(file.metadata())
                .with_context(|| format!("the tokenizer in {}", weights.path().display())),
            None if weights.path().is_dir() => folder::read(weights.path()),
            None => folder::read(weights.path().parent().unwrap_or(Path::new("."))),
        }
    }

    /// The tokens of a text. Special tokens in it (`<|im_start|>`) are recognised. With
    /// `begin`, the token that begins a text comes first if the model wants one and the text does
    /// not have it already.
    pub fn encode(&self, text: &str, begin: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| anyhow!("{e}"))?;
        let ids = encoding.get_ids();
        let bos = self.bos.filter(|bos| begin && self.add_bos && ids.first() != Some(bos));
        Ok(bos.into_iter().chain(ids.iter().copied()).collect())
    }

    /// The text of tokens, without special ones.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|e| anyhow!("{e}"))
    }

    /// Whether the token ends an answer.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The token that begins a text, if the model wants one.
    pub fn begin(&self) -> Option<u32> {
        self.bos.filter(|_| self.add_bos)
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The text of one token, special ones too.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The model's chat template, if it has one.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        let text = |id: Option<u32>| id.and_then(|id| self.token(id)).unwrap_or_default();
        let template = self.chat_template.as_deref();
        template.map(|t| ChatTemplate::new(t, &text(self.bos), &text(self.eos))).transpose()
    }
}

/// Control tokens that end a turn in the models at large, beside the one that a file names.
fn ends_a_turn(token: &str) -> bool {
    matches!(
        token,
        "<|im_end|>" | "<|eot_id|>" | "<|eom_id|>" | "<|end|>" | "<end_of_turn>" | "<|endoftext|>"
    )
}
