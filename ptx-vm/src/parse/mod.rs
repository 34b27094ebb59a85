//! PTX text to a syntax tree: `lexer` splits, `module` reads directives, `body` reads
//! statements. No name is resolved and no instruction is judged here.

pub(crate) mod ast;
mod body;
mod lexer;
mod module;

use crate::error::{Error, Result};
use lexer::{Tok, Token};

pub(crate) use module::parse_module;

/// Brackets nested deeper than this are refused, so that recursion is bounded.
const MAX_DEPTH: u32 = 32;

/// A position in the token list.
pub(crate) struct Cursor<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    loc: Option<ast::Loc>,
    depth: u32,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Result<Self> {
        Ok(Cursor { tokens: lexer::tokenize(text)?, at: 0, loc: None, depth: 0 })
    }

    fn peek(&self) -> Tok<'a> {
        self.token(0).tok
    }

    fn peek_at(&self, ahead: usize) -> Tok<'a> {
        self.token(ahead).tok
    }

    // The list ends with `End`, which is returned for every position past it.
    fn token(&self, ahead: usize) -> Token<'a> {
        let i = (self.at + ahead).min(self.tokens.len() - 1);
        self.tokens[i]
    }

    fn line(&self) -> u32 {
        self.token(0).line
    }

    fn start(&self) -> usize {
        self.token(0).start
    }

    /// End of the token before this one.
    fn previous_end(&self) -> usize {
        self.at.checked_sub(1).map_or(0, |i| self.tokens[i.min(self.tokens.len() - 1)].end)
    }

    fn bump(&mut self) -> Tok<'a> {
        let tok = self.peek();
        if self.at < self.tokens.len() {
            self.at += 1;
        }
        tok
    }

    fn is(&self, c: char) -> bool {
        self.peek() == Tok::Punct(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let hit = self.is(c);
        if hit {
            self.at += 1;
        }
        hit
    }

    fn eat_dot(&mut self, name: &str) -> bool {
        let hit = self.peek() == Tok::Dot(name);
        if hit {
            self.at += 1;
        }
        hit
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) { Ok(()) } else { Err(self.unexpected(&format!("`{c}`"))) }
    }

    fn ident(&mut self, what: &str) -> Result<&'a str> {
        match self.peek() {
            Tok::Ident(name) => {
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.unexpected(what)),
        }
    }

    fn int(&mut self, what: &str) -> Result<u64> {
        match self.peek() {
            Tok::Int(value) => {
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.unexpected(what)),
        }
    }

    fn uint32(&mut self, what: &str) -> Result<u32> {
        let line = self.line();
        let value = self.int(what)?;
        u32::try_from(value).map_err(|_| Error::Parse {
            line,
            message: format!("{what} is {value}, needs to fit in 32 bits"),
        })
    }

    fn unexpected(&self, wanted: &str) -> Error {
        let found = match self.peek() {
            Tok::Ident(s) => format!("`{s}`"),
            Tok::Dot(s) => format!("`.{s}`"),
            Tok::Int(v) => format!("the number {v}"),
            Tok::F32(_) | Tok::F64(_) => "a float".into(),
            Tok::Str(s) => format!("{s:?}"),
            Tok::Punct(c) => format!("`{c}`"),
            Tok::End => "the end of the text".into(),
        };
        Error::Parse { line: self.line(), message: format!("found {found}, expected {wanted}") }
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::Parse { line: self.line(), message: message.into() })
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return self.fail(format!("brackets are nested deeper than {MAX_DEPTH}"));
        }
        self.depth += 1;
        let out = read(self);
        self.depth -= 1;
        out
    }
}
