//! How byte-pair vocabularies cut text into words first, by the name in `tokenizer.ggml.pre`.
//!
//! The expressions are those of the models' own `tokenizer.json` files.

use anyhow::{Result, anyhow, bail};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

/// GPT-2's words.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Every digit by itself.
const DIGIT: &str = r"\p{N}";
/// Llama 3's words: up to three digits together.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's words: as Llama 3's, with every digit by itself.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What a pre-tokenizer's name stands for.
pub struct Pre {
    /// Applied one after another.
    expressions: &'static [&'static str],
    /// A word that is a token by itself is that token, merges or not.
    pub ignore_merges: bool,
    /// Whether a text begins with the BOS token when the file does not say.
    pub add_bos: bool,
}

/// What the pre-tokenizer `name` does.
pub fn pre_tokenizer(name: &str) -> Result<Pre> {
    let pre = |expressions| Pre { expressions, ignore_merges: false, add_bos: false };
    Ok(match name {
        "gpt-2" | "default" | "olmo" | "dbrx" | "phi-2" | "mpt" => pre(&[GPT2]),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            pre(&[DIGIT, GPT2])
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => {
            Pre { expressions: &[LLAMA3], ignore_merges: true, add_bos: true }
        }
        "qwen2" | "stablelm2" | "deepseek-r1-qwen" | "megrez" => pre(&[QWEN2]),
        _ => bail!(
            "cuts text by {name:?}, which is not known here; known are gpt-2, smollm, llama-bpe, \
             qwen2 and their kin: use the model's safetensors folder with its tokenizer.json"
        ),
    })
}

impl Pre {
    pub fn build(&self) -> Result<PreTokenizerWrapper> {
        let mut steps = Vec::new();
        for expression in self.expressions {
            let pattern = SplitPattern::Regex((*expression).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
            steps.push(split.map_err(|e| anyhow!("{expression}: {e}"))?.into());
        }
        steps.push(ByteLevel::new(false, true, false).into());
        Ok(Sequence::new(steps).into())
    }
}
