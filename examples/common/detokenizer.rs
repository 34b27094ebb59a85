//! Tokens to text as they come, never splitting a character.

use anyhow::Result;

use super::tokenizer::TextTokenizer;

/// What a token of broken UTF-8 decodes to.
const REPLACEMENT: char = '\u{FFFD}';
/// The longest UTF-8 character, in bytes and so in tokens that may each hold one.
const MAX_PENDING: usize = 4;

/// Decodes a stream of tokens piece by piece.
///
/// A character can be spread over several tokens, and how a token decodes can depend on the one
/// before it. So the tokens since the last piece are decoded together with that piece's, and text
/// comes out once it ends in a whole character.
pub struct Detokenizer<'a> {
    tokenizer: &'a TextTokenizer,
    ids: Vec<u32>,
    /// How many of `ids` have been given out; they are kept as the context of what follows.
    done: usize,
}

impl<'a> Detokenizer<'a> {
    /// Decodes what follows `context`, which is not given out.
    pub fn new(tokenizer: &'a TextTokenizer, context: &[u32]) -> Self {
        let ids = context[context.len().saturating_sub(MAX_PENDING)..].to_vec();
        Self { tokenizer, done: ids.len(), ids }
    }

    /// The text that `id` completes; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        self.piece(self.ids.len() - self.done > MAX_PENDING)
    }

    /// What is left at the end, replacement characters and all.
    pub fn finish(mut self) -> Result<String> {
        self.piece(true)
    }

    fn piece(&mut self, incomplete_too: bool) -> Result<String> {
        let before = self.tokenizer.decode(&self.ids[..self.done])?;
        let all = self.tokenizer.decode(&self.ids)?;
        if all.ends_with(REPLACEMENT) && !incomplete_too {
            return Ok(String::new());
        }
        let same = before.chars().zip(all.chars()).take_while(|(a, b)| a == b);
        let piece = all[same.map(|(c, _)| c.len_utf8()).sum()..].to_owned();
        self.ids.drain(..self.done);
        self.done = self.ids.len();
        Ok(piece)
    }
}
