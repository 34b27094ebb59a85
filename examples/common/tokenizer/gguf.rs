//! A tokenizer from a GGUF file's metadata: `tokenizer.ggml.*`.

use anyhow::{Context, Result, anyhow, bail, ensure};
use ferrocerium::io::gguf::Metadata;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence as Normalizers;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, Tokenizer};

use super::{TextTokenizer, ends_a_turn, splits};

/// Token types of ggml.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
/// SentencePiece's stand-in for a space.
const SPACE: &str = "\u{2581}";

pub fn read(meta: &Metadata) -> Result<TextTokenizer> {
    let tokens = meta.strings("tokenizer.ggml.tokens")?.context("has no tokenizer.ggml.tokens")?;
    ensure!(!tokens.is_empty(), "has an empty vocabulary");
    let kinds = meta.u64s("tokenizer.ggml.token_type")?.unwrap_or_default();
    ensure!(
        kinds.is_empty() || kinds.len() == tokens.len(),
        "has {} tokens but {} token types",
        tokens.len(),
        kinds.len()
    );
    let id = |key: &str| -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let Some(id) = meta.u64(&key)? else { return Ok(None) };
        ensure!(id < tokens.len() as u64, "{key} is {id}, but there are {} tokens", tokens.len());
        Ok(Some(id as u32))
    };
    let model = meta.str("tokenizer.ggml.model")?.context("has no tokenizer.ggml.model")?;
    let (mut inner, add_bos) = match model {
        "gpt2" => byte_pairs(meta, tokens)?,
        "llama" => (sentence_pieces(meta, tokens)?, true),
        other => {
            bail!("is of kind {other:?}; gpt2 (byte pairs) and llama (SentencePiece) are read")
        }
    };

    let of_kind = |wanted: &'static [u64]| {
        kinds.iter().zip(tokens).filter(move |(k, _)| wanted.contains(k)).map(|(_, t)| t)
    };
    let added = |text: &String, special| AddedToken::from(text.clone(), special).normalized(false);
    let control = of_kind(&[UNKNOWN, CONTROL]).map(|t| added(t, true));
    inner.add_special_tokens(control).map_err(|e| anyhow!("{e}"))?;
    let user = of_kind(&[USER_DEFINED]).map(|t| added(t, false));
    inner.add_tokens(user).map_err(|e| anyhow!("{e}"))?;

    let eos = id("eos")?;
    let mut ends: Vec<u32> = [eos, id("eot")?, id("eom")?].into_iter().flatten().collect();
    for (i, (token, kind)) in tokens.iter().zip(&kinds).enumerate() {
        if [CONTROL, USER_DEFINED].contains(kind) && ends_a_turn(token) {
            ends.push(i as u32);
        }
    }
    Ok(TextTokenizer {
        inner,
        bos: id("bos")?,
        add_bos: meta.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos),
        ends,
        eos,
        chat_template: meta.str("tokenizer.chat_template")?.map(str::to_owned),
    })
}

/// Tokens by text. A text that is there twice keeps its first token.
fn vocabulary(tokens: &[String]) -> Vocab {
    tokens.iter().enumerate().rev().map(|(i, t)| (t.clone(), i as u32)).collect()
}

fn byte_pairs(meta: &Metadata, tokens: &[String]) -> Result<(Tokenizer, bool)> {
    let merges = meta.strings("tokenizer.ggml.merges")?.context("has no tokenizer.ggml.merges")?;
    let merges: Merges = merges
        .iter()
        .map(|merge| {
            let (left, right) = merge
                .split_once(' ')
                .with_context(|| format!("has the merge {merge:?}; expected two tokens"))?;
            Ok((left.to_owned(), right.to_owned()))
        })
        .collect::<Result<_>>()?;
    let pre = splits::pre_tokenizer(meta.str("tokenizer.ggml.pre")?.unwrap_or("default"))?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary(tokens), merges)
        .ignore_merges(pre.ignore_merges)
        .build()
        .map_err(|e| anyhow!("{e}"))?;
    let mut inner = Tokenizer::new(model);
    inner.with_pre_tokenizer(Some(pre.build()?));
    inner.with_decoder(Some(ByteLevel::new(false, true, false)));
    Ok((inner, pre.add_bos))
}

fn sentence_pieces(meta: &Metadata, tokens: &[String]) -> Result<Tokenizer> {
    let scores = meta.f32s("tokenizer.ggml.scores")?.context("has no tokenizer.ggml.scores")?;
    ensure!(
        scores.len() == tokens.len(),
        "has {} tokens but {} scores",
        tokens.len(),
        scores.len()
    );
    let vocabulary = vocabulary(tokens);
    let merges = merges_of(tokens, scores, &vocabulary);
    let unknown = meta.u64("tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let unknown = usize::try_from(unknown).ok().and_then(|id| tokens.get(id));
    let mut builder =
        BPE::builder().vocab_and_merges(vocabulary, merges).fuse_unk(true).byte_fallback(true);
    if let Some(token) = unknown {
        builder = builder.unk_token(token.clone());
    }
    let mut inner = Tokenizer::new(builder.build().map_err(|e| anyhow!("{e}"))?);

    let fail = |e: tokenizers::Error| anyhow!("{e}");
    let prefix = meta.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ").map_err(fail)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if prefix {
        normalizers.push(Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(Replace::new(" ", SPACE).map_err(fail)?.into());
    inner.with_normalizer(Some(Normalizers::new(normalizers))).map_err(fail)?;
    inner.with_decoder(Some(Decoders::new(decoders)));
    Ok(inner)
}

/// SentencePiece joins, again and again, the neighbours whose union has the best score. That is
/// byte-pair merging with every way to cut a token in two as a merge, the best-scored first.
fn merges_of(tokens: &[String], scores: &[f32], vocabulary: &Vocab) -> Merges {
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if vocabulary.contains_key(left) && vocabulary.contains_key(right) {
                merges.push((*score, left, right));
            }
        }
    }
    // Among equals, the order in which `transformers` has them.
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then_with(|| b.1.chars().count().cmp(&a.1.chars().count()))
            .then_with(|| b.2.chars().count().cmp(&a.2.chars().count()))
    });
    merges.into_iter().map(|(_, l, r)| (l.to_owned(), r.to_owned())).collect()
}
