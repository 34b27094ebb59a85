//! A text cut into windows of tokens.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::common::checkpoint::Checkpoint;
use crate::common::tokenizer::TextTokenizer;
use crate::common::weight_format::WeightFormat;

/// The text in windows of `context` tokens, each with the BOS token in front where the model wants
/// one, and whether it does. What is left at the end is dropped.
pub fn windows(
    checkpoint: &Checkpoint,
    text: &Path,
    context: usize,
) -> Result<(Vec<Vec<u32>>, bool)> {
    ensure!(context >= 4, "--context {context}: at least 4 tokens are needed");
    ensure!(
        context <= checkpoint.config.context,
        "--context {context}: the model's context is {}",
        checkpoint.config.context
    );
    let tokenizer = TextTokenizer::of(checkpoint.weights())?;
    let content = std::fs::read_to_string(text)
        .with_context(|| format!("{} can not be read as UTF-8 text", text.display()))?;
    let tokens = tokenizer.encode(&content, false)?;
    let bos = tokenizer.begin();
    let step = context - usize::from(bos.is_some());
    let with_bos = |chunk: &[u32]| bos.iter().chain(chunk).copied().collect::<Vec<u32>>();
    let windows: Vec<_> = tokens.chunks_exact(step).map(with_bos).collect();
    ensure!(
        !windows.is_empty(),
        "{} has {} tokens, less than one window of {context}",
        text.display(),
        tokens.len(),
    );
    Ok((windows, bos.is_some()))
}

/// The windows of calibration texts, which must be there for formats that are calibrated.
pub fn calibration(
    checkpoint: &Checkpoint,
    formats: &[WeightFormat],
    texts: &[PathBuf],
    context: usize,
) -> Result<Vec<Vec<u32>>> {
    let calibrated = formats.iter().find(|format| matches!(format, WeightFormat::Gptq { .. }));
    if let (Some(format), true) = (calibrated, texts.is_empty()) {
        bail!("{format}: --calibrate TEXT is needed");
    }
    let mut all = Vec::new();
    for text in texts {
        all.extend(windows(checkpoint, text, context)?.0);
    }
    Ok(all)
}
