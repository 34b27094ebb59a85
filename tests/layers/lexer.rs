//! Rust source as tokens with line numbers; comments and literals set apart.

/// A word, a `::`, or one character of punctuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// A source file without what only looks like code.
#[derive(Debug, Default)]
pub struct Source {
    /// Code. Literals and lifetimes are left out: nothing below depends on them.
    pub tokens: Vec<Token>,
    /// Comments, doc-comments among them: first line, last line, text.
    pub comments: Vec<(usize, usize, String)>,
}

impl Source {
    /// Splits a source text. Text that is not Rust gives tokens that are not meaningful.
    pub fn new(text: &str) -> Self {
        Lexer { chars: text.chars().collect(), at: 0, line: 1, source: Self::default() }.run()
    }
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    source: Source,
}

impl Lexer {
    fn run(mut self) -> Source {
        while let Some(c) = self.peek(0) {
            match c {
                '/' if matches!(self.peek(1), Some('/' | '*')) => self.comment(),
                '"' => self.string(),
                '\'' => self.quote(),
                'r' | 'b' | 'c' if self.prefixed_literal() => {}
                c if is_word(c) => self.word(),
                ':' if self.peek(1) == Some(':') => {
                    self.push("::".to_owned());
                    self.skip(2);
                }
                c => {
                    if !c.is_whitespace() {
                        self.push(c.to_string());
                    }
                    self.skip(1);
                }
            }
        }
        self.source
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.line += usize::from(self.peek(0) == Some('\n'));
            self.at += 1;
        }
    }

    fn push(&mut self, text: String) {
        self.source.tokens.push(Token { text, line: self.line });
    }

    fn word(&mut self) {
        let text: String = self.chars[self.at..].iter().take_while(|c| is_word(**c)).collect();
        let length = text.chars().count();
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            self.push(text);
        }
        self.skip(length);
    }

    fn comment(&mut self) {
        let (start, first) = (self.at, self.line);
        if self.peek(1) == Some('/') {
            while self.peek(0).is_some_and(|c| c != '\n') {
                self.skip(1);
            }
        } else {
            let mut depth = 0;
            loop {
                match (self.peek(0), self.peek(1)) {
                    (Some('/'), Some('*')) => depth += 1,
                    (Some('*'), Some('/')) => depth -= 1,
                    (Some(_), _) => {
                        self.skip(1);
                        continue;
                    }
                    (None, _) => break,
                }
                self.skip(2);
                if depth == 0 {
                    break;
                }
            }
        }
        let text = self.chars[start..self.at].iter().collect();
        self.source.comments.push((first, self.line, text));
    }

    /// A literal with escapes, from its opening quotation mark.
    fn string(&mut self) {
        self.skip(1);
        while let Some(c) = self.peek(0) {
            self.skip(if c == '\\' { 2 } else { 1 });
            if c == '"' {
                break;
            }
        }
    }

    /// A character literal or a lifetime.
    fn quote(&mut self) {
        match (self.peek(1), self.peek(2)) {
            (Some('\\'), _) => {
                self.skip(3);
                while self.peek(0).is_some_and(|c| c != '\'') {
                    self.skip(1);
                }
                self.skip(1);
            }
            (Some(_), Some('\'')) => self.skip(3),
            _ => {
                self.skip(1);
                while self.peek(0).is_some_and(is_word) {
                    self.skip(1);
                }
            }
        }
    }

    /// `b"…"`, `r#"…"#`, `b'…'`, `r#name` and the like; false where it is an ordinary word.
    fn prefixed_literal(&mut self) -> bool {
        let prefix = self.chars[self.at..].iter().take_while(|c| matches!(c, 'r' | 'b' | 'c'));
        let prefix: String = prefix.collect();
        if !matches!(prefix.as_str(), "r" | "b" | "c" | "br" | "cr") {
            return false;
        }
        let raw = prefix.ends_with('r');
        let after = prefix.len();
        let hashes = self.chars[self.at + after..].iter().take_while(|c| **c == '#').count();
        match self.peek(after + hashes) {
            Some('"') if raw => self.skip(after + hashes + 1),
            Some('"') if hashes == 0 => {
                self.skip(after);
                self.string();
                return true;
            }
            Some('\'') if prefix == "b" && hashes == 0 => {
                self.skip(after);
                self.quote();
                return true;
            }
            // A raw identifier: the word itself follows.
            Some(c) if prefix == "r" && hashes == 1 && is_word(c) => {
                self.skip(2);
                self.word();
                return true;
            }
            _ => return false,
        }
        while let Some(c) = self.peek(0) {
            let closes = c == '"' && (1..=hashes).all(|n| self.peek(n) == Some('#'));
            self.skip(1);
            if closes {
                self.skip(hashes);
                break;
            }
        }
        true
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::Source;

    fn words(text: &str) -> Vec<String> {
        Source::new(text).tokens.into_iter().map(|t| t.text).collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = r##"
            // use crate::a;
            /* use /* nested */ crate::b; */
            /// use crate::c;
            let s = "crate::d \" crate::e"; let r = r#"crate::f " crate::g"#;
            let (x, y, z) = ('"', '\'', b'\\'); let l: &'static str = b"crate::h";
            let brr = r#type;
        "##;
        let words = words(text);
        assert!(!words.iter().any(|w| w == "crate"), "{words:?}");
        for word in ["s", "r", "x", "y", "z", "l", "brr", "type"] {
            assert!(words.iter().any(|w| w == word), "{word} is missing from {words:?}");
        }
    }

    #[test]
    fn lines_are_counted_through_literals_and_comments() {
        let source = Source::new("\"a\nb\" /* c\n\n */ d\n// e\nf");
        let lines: Vec<_> = source.tokens.iter().map(|t| (t.text.as_str(), t.line)).collect();
        assert_eq!(lines, [("d", 4), ("f", 6)]);
        assert_eq!(source.comments[0].0..=source.comments[0].1, 2..=4);
    }
}
