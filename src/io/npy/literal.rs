//! The literals of Python that a header is made of.

use super::header::MAX_SIZES;

/// Reads a header's text from its beginning. What is wrong with it is an error's text.
pub(super) struct Literal<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Literal<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_spaces(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn found(&self) -> String {
        match self.peek() {
            Some(byte) => format!("{:?} at byte {} of the header", char::from(byte), self.at),
            None => "the end of the header".to_owned(),
        }
    }

    /// Steps over spaces and that character, if it is next.
    pub(super) fn takes(&mut self, wanted: u8) -> bool {
        self.skip_spaces();
        let is_next = self.peek() == Some(wanted);
        self.at += usize::from(is_next);
        is_next
    }

    pub(super) fn expect(&mut self, wanted: u8) -> Result<(), String> {
        match self.takes(wanted) {
            true => Ok(()),
            false => Err(format!("expected {:?}, not {}", char::from(wanted), self.found())),
        }
    }

    /// Nothing but spaces may be left.
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.skip_spaces();
        match self.at == self.text.len() {
            true => Ok(()),
            false => Err(format!("expected the end, not {}", self.found())),
        }
    }

    /// A string in either kind of quotes, without escapes.
    pub(super) fn string(&mut self) -> Result<&'a str, String> {
        self.skip_spaces();
        let quote = self.peek().filter(|byte| matches!(byte, b'\'' | b'"'));
        let quote = quote.ok_or_else(|| format!("expected a string, not {}", self.found()))?;
        let rest = &self.text[self.at + 1..];
        let len = rest.iter().position(|byte| *byte == quote).ok_or("a string has no end")?;
        let text = std::str::from_utf8(&rest[..len]).map_err(|e| format!("a string: {e}"))?;
        if text.contains('\\') {
            return Err(format!("the string {text:?} has an escape, which is not read"));
        }
        self.at += len + 2;
        Ok(text)
    }

    pub(super) fn boolean(&mut self) -> Result<bool, String> {
        self.skip_spaces();
        for (text, value) in [(&b"True"[..], true), (b"False", false)] {
            if self.text[self.at..].starts_with(text) {
                self.at += text.len();
                return Ok(value);
            }
        }
        Err(format!("expected True or False, not {}", self.found()))
    }

    /// A tuple of sizes: `()`, `(2,)`, `(2, 3)`.
    pub(super) fn sizes(&mut self) -> Result<Vec<usize>, String> {
        self.expect(b'(')?;
        let mut sizes = Vec::new();
        while !self.takes(b')') {
            sizes.push(self.size()?);
            if sizes.len() > MAX_SIZES {
                return Err(format!("has more than {MAX_SIZES} sizes"));
            }
            if self.takes(b',') {
                continue;
            }
            self.expect(b')')?;
            if sizes.len() == 1 {
                return Err("the shape is a number; expected a tuple such as (2,)".to_owned());
            }
            break;
        }
        Ok(sizes)
    }

    fn size(&mut self) -> Result<usize, String> {
        self.skip_spaces();
        let digits = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return Err(format!("expected a size, not {}", self.found()));
        }
        let digits = &self.text[self.at..self.at + digits];
        self.at += digits.len();
        // Python 2 wrote long integers so.
        self.at += usize::from(self.peek() == Some(b'L'));
        let size = digits.iter().try_fold(0usize, |size, digit| {
            size.checked_mul(10)?.checked_add(usize::from(digit - b'0'))
        });
        size.ok_or_else(|| {
            format!("the size {} can not be addressed", String::from_utf8_lossy(digits))
        })
    }
}
