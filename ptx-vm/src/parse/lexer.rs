//! Text to tokens.

use crate::error::{Error, Result};

/// One token; `text` is a slice of the module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Tok<'a> {
    /// A name, registers (`%r1`) and opcodes included.
    Ident(&'a str),
    /// A name after a dot, without it: directives and modifiers.
    Dot(&'a str),
    /// An integer literal, as 64 bits.
    Int(u64),
    /// `0f…`: the bits of an f32.
    F32(u32),
    /// `0d…` or a decimal fraction: the bits of an f64.
    F64(u64),
    /// A quoted text, without the quotes.
    Str(&'a str),
    /// One punctuation character.
    Punct(char),
    /// End of text.
    End,
}

/// A token and where it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub tok: Tok<'a>,
    pub line: u32,
    pub start: usize,
    pub end: usize,
}

fn is_ident_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%')
}

fn is_ident(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$')
}

/// Splits a module's text into tokens, comments and preprocessor lines left out.
pub(crate) fn tokenize(text: &str) -> Result<Vec<Token<'_>>> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(text.len() / 4);
    let mut at = 0;
    let mut line = 1u32;
    let fail = |line, message: String| Err(Error::Parse { line, message });
    while at < bytes.len() {
        let c = bytes[at];
        let next = bytes.get(at + 1).copied().unwrap_or(0);
        let start = at;
        let tok = match c {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            // A module text handed over as a C string ends with NUL.
            b' ' | b'\t' | b'\r' | 0 => {
                at += 1;
                continue;
            }
            b'/' if next == b'/' => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
                continue;
            }
            b'/' if next == b'*' => {
                let opened = line;
                at += 2;
                loop {
                    match (bytes.get(at), bytes.get(at + 1)) {
                        (Some(b'*'), Some(b'/')) => break,
                        (Some(b'\n'), _) => line += 1,
                        (Some(_), _) => {}
                        (None, _) => {
                            return fail(opened, "comment is never closed with `*/`".into());
                        }
                    }
                    at += 1;
                }
                at += 2;
                continue;
            }
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' && bytes[at] != b'\n' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                if bytes.get(at) != Some(&b'"') {
                    return fail(line, "text in quotes is never closed".into());
                }
                at += 1;
                Tok::Str(text.get(start + 1..at - 1).unwrap_or(""))
            }
            b'.' if is_ident(next) => {
                at += 1;
                let from = at;
                while at < bytes.len()
                    && (is_ident(bytes[at])
                        || (bytes[at] == b':' && bytes.get(at + 1) == Some(&b':'))
                        || (bytes[at] == b':' && bytes[at - 1] == b':'))
                {
                    at += 1;
                }
                Tok::Dot(&text[from..at])
            }
            c if is_ident_start(c) => {
                at += 1;
                while at < bytes.len() && is_ident(bytes[at]) {
                    at += 1;
                }
                Tok::Ident(&text[start..at])
            }
            c if c.is_ascii_digit() => {
                let (tok, end) = number(text, at, line)?;
                at = end;
                tok
            }
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'@'
            | b'!' | b'|' | b'=' | b'+' | b'-' | b'.' | b'*' | b'~' | b'/' | b'&' | b'^' => {
                at += 1;
                Tok::Punct(c as char)
            }
            _ => {
                let shown = text[at..].chars().next().unwrap_or('?');
                return fail(line, format!("character {shown:?} has no meaning in PTX"));
            }
        };
        out.push(Token { tok, line, start, end: at });
    }
    out.push(Token { tok: Tok::End, line, start: text.len(), end: text.len() });
    Ok(out)
}

fn number(text: &str, at: usize, line: u32) -> Result<(Tok<'_>, usize)> {
    let bytes = text.as_bytes();
    let run = |mut i: usize, ok: fn(u8) -> bool| {
        while i < bytes.len() && ok(bytes[i]) {
            i += 1;
        }
        i
    };
    let bad = |end: usize| Error::Parse {
        line,
        message: format!("`{}` is not a number", &text[at..end]),
    };
    let word = run(at, |c| c.is_ascii_alphanumeric());
    let body = &text[at..word];
    let hex = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| bad(word));
    let tok = match body.as_bytes() {
        [b'0', b'f' | b'F', ..] if body.len() == 10 => {
            Tok::F32(u32::from_str_radix(&body[2..], 16).map_err(|_| bad(word))?)
        }
        [b'0', b'd' | b'D', ..] if body.len() == 18 => Tok::F64(hex(&body[2..])?),
        _ => {
            // A fraction or an exponent makes it a decimal float.
            let digits = run(at, |c| c.is_ascii_digit());
            let next = bytes.get(digits).copied().unwrap_or(0);
            if next == b'.' && bytes.get(digits + 1).is_some_and(u8::is_ascii_digit) {
                let mut end = run(digits + 1, |c| c.is_ascii_digit());
                if matches!(bytes.get(end), Some(b'e' | b'E')) {
                    let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
                    end = run(end + 1 + sign, |c| c.is_ascii_digit());
                }
                let value: f64 = text[at..end].parse().map_err(|_| bad(end))?;
                return Ok((Tok::F64(value.to_bits()), end));
            }
            let plain = body.strip_suffix(['U', 'u']).unwrap_or(body);
            let value = if let Some(h) = plain.strip_prefix("0x").or(plain.strip_prefix("0X")) {
                hex(h)
            } else if let Some(b) = plain.strip_prefix("0b").or(plain.strip_prefix("0B")) {
                u64::from_str_radix(b, 2).map_err(|_| bad(word))
            } else if plain.len() > 1 && plain.starts_with('0') {
                u64::from_str_radix(plain, 8).map_err(|_| bad(word))
            } else {
                plain.parse().map_err(|_| bad(word))
            };
            Tok::Int(value?)
        }
    };
    Ok((tok, word))
}
