//! Which modules of the crate a source file refers to.

use std::collections::{HashMap, HashSet};

use crate::lexer::{Source, Token};

/// A path of the crate's own, from its root, and the line where it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    pub path: Vec<String>,
    pub line: usize,
}

/// What a source file says of modules.
#[derive(Debug, Default)]
pub struct Imports {
    /// Paths into this crate, outside `#[cfg(test)]` items.
    pub paths: Vec<Import>,
    /// Names that `use` declarations bring in, with the path they stand for; for re-exports.
    /// A path into another crate begins with the empty word.
    pub names: HashMap<String, Vec<String>>,
    /// Macros defined here.
    pub macros: HashSet<String>,
    /// Modules in files of their own that exist for tests only.
    pub test_modules: HashSet<Vec<String>>,
}

/// Reads the imports of the file that holds `module`, a path from the crate's root.
pub fn imports(source: &Source, module: &[&str]) -> Imports {
    let module: Vec<String> = module.iter().map(|s| (*s).to_owned()).collect();
    let mut reader = Reader {
        tokens: &source.tokens,
        at: 0,
        module,
        open: Vec::new(),
        found: Imports::default(),
    };
    reader.items();
    reader.found
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    module: Vec<String>,
    /// For each open brace, whether it belongs to an inline module.
    open: Vec<bool>,
    found: Imports,
}

impl Reader<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |t| t.text.as_str())
    }

    fn is(&self, texts: &[&str]) -> bool {
        texts.iter().enumerate().all(|(i, text)| self.text(self.at + i) == *text)
    }

    fn items(&mut self) {
        while self.at < self.tokens.len() {
            match self.text(self.at) {
                "#" => self.attribute(),
                "use" => self.use_declaration(),
                "mod" if self.text(self.at + 2) == "{" => {
                    self.module.push(self.text(self.at + 1).to_owned());
                    self.open.push(true);
                    self.at += 3;
                }
                "{" => {
                    self.open.push(false);
                    self.at += 1;
                }
                "}" => {
                    if self.open.pop() == Some(true) {
                        self.module.pop();
                    }
                    self.at += 1;
                }
                "macro_rules" => {
                    self.found.macros.insert(self.text(self.at + 2).to_owned());
                    self.at += 3;
                }
                "pub" if self.is(&["pub", "(", "in"]) => {
                    while !matches!(self.text(self.at), ")" | "") {
                        self.at += 1;
                    }
                }
                "crate" | "super" | "self" | "ferrocerium" if self.starts_path() => self.path(),
                _ => self.at += 1,
            }
        }
    }

    fn starts_path(&self) -> bool {
        self.text(self.at + 1) == "::" && (self.at == 0 || self.text(self.at - 1) != "::")
    }

    /// Steps over an attribute, and over the item it belongs to if that is for tests only.
    fn attribute(&mut self) {
        let inner = self.is(&["#", "!", "["]);
        let start = self.at + if inner { 2 } else { 1 };
        if self.text(start) != "[" {
            self.at += 1;
            return;
        }
        let end = self.closing(start);
        let words: Vec<&str> = (start..end).map(|i| self.text(i)).collect();
        let test_only = words.starts_with(&["[", "cfg", "("])
            && words.contains(&"test")
            && !words.contains(&"not")
            && !words.contains(&"any");
        self.at = end + 1;
        if test_only && inner {
            self.at = self.tokens.len();
        } else if test_only {
            self.skip_item();
        }
    }

    fn skip_item(&mut self) {
        while self.is(&["#", "["]) {
            self.at = self.closing(self.at + 1) + 1;
        }
        if let Some(name) = (self.at..self.at + 6)
            .find(|i| self.text(*i) == "mod" && self.text(i + 2) == ";")
            .map(|i| self.text(i + 1).to_owned())
        {
            let mut module = self.module.clone();
            module.push(name);
            self.found.test_modules.insert(module);
        }
        while self.at < self.tokens.len() {
            match self.text(self.at) {
                ";" | "," => break,
                "{" => {
                    self.at = self.closing(self.at);
                    break;
                }
                "(" | "[" => self.at = self.closing(self.at),
                // The end of what encloses the item: it had no end of its own.
                "}" | ")" | "]" => return,
                _ => {}
            }
            self.at += 1;
        }
        self.at += 1;
    }

    /// Position of the bracket that closes the one at `open`.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0;
        for at in open..self.tokens.len() {
            match self.text(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return at;
            }
        }
        self.tokens.len()
    }

    fn use_declaration(&mut self) {
        self.at += 1;
        // `use<'a>` is a capture list, not a declaration.
        if self.text(self.at) != "<" {
            self.use_tree(Vec::new());
        }
    }

    fn use_tree(&mut self, mut path: Vec<String>) {
        let line = self.tokens.get(self.at).map_or(0, |t| t.line);
        loop {
            match self.text(self.at) {
                "::" => self.at += 1,
                "{" => {
                    self.at += 1;
                    while !matches!(self.text(self.at), "}" | "") {
                        self.use_tree(path.clone());
                        if self.text(self.at) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "as" => {
                    let name = self.text(self.at + 1).to_owned();
                    self.at += 2;
                    return self.record(path, Some(name), line);
                }
                "," | "}" | ";" | "" => {
                    if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
                        path.pop();
                    }
                    let name = path.last().cloned();
                    return self.record(path, name, line);
                }
                word => {
                    path.push(word.to_owned());
                    self.at += 1;
                }
            }
        }
    }

    /// A path in code.
    fn path(&mut self) {
        let line = self.tokens[self.at].line;
        let mut path = Vec::new();
        loop {
            path.push(self.text(self.at).to_owned());
            let next = self.text(self.at + 2);
            let continues = next.starts_with(|c: char| c == '_' || c.is_alphabetic());
            if self.text(self.at + 1) != "::" || !continues {
                break;
            }
            self.at += 2;
        }
        self.at += 1;
        self.record(path, None, line);
    }

    fn record(&mut self, path: Vec<String>, name: Option<String>, line: usize) {
        let absolute = self.resolve(&path);
        if let Some(path) = &absolute {
            self.found.paths.push(Import { path: path.clone(), line });
        }
        if let Some(name) = name {
            let external = || [String::new()].into_iter().chain(path).collect();
            self.found.names.insert(name, absolute.unwrap_or_else(external));
        }
    }

    /// The path from the crate's root; `None` for a path into another crate or a child module.
    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        let mut base = match path.first()?.as_str() {
            "crate" | "ferrocerium" => Vec::new(),
            "self" | "super" => self.module.clone(),
            _ => return None,
        };
        let mut rest = path;
        if path[0] != "super" {
            rest = &path[1..];
        }
        while rest.first().is_some_and(|word| word == "super") {
            base.pop();
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        Some(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str, module: &[&str]) -> Vec<String> {
        let found = imports(&Source::new(text), module);
        found.paths.iter().map(|i| format!("{}@{}", i.path.join("::"), i.line)).collect()
    }

    #[test]
    fn every_way_to_write_an_import_is_read() {
        let text = "use crate::a::B;\nuse crate::{c::{self, D}, e as f,\n g::*};\nuse super::h;\n\
                    use super::super::i::J;\nfn k() -> crate::l::M { super::n::<u8>(self::o::P) }\n\
                    pub(in crate::q) fn r() {}\nmod s { use super::t; }\nuse super::u;\n\
                    use std::crate_name::V;\nmacro_rules! w { () => { $crate::x::y!() } }";
        let expected = [
            "a::B@1",
            "c@2",
            "c::D@2",
            "e@2",
            "g::*@3",
            "z::h@4",
            "i::J@5",
            "l::M@6",
            "z::n@6",
            "z::y::o::P@6",
            "z::y::t@8",
            "z::u@9",
            "x::y@11",
        ];
        assert_eq!(paths(text, &["z", "y"]), expected);
    }

    #[test]
    fn test_only_items_are_left_out_and_what_follows_is_not() {
        let text = "#[cfg(test)]\n#[allow(x)]\nmod tests { use crate::a; fn b() { {} } }\n\
                    use crate::c;\n#[cfg(test)] use crate::d::{E, F};\nuse crate::g;\n\
                    #[cfg(all(test, unix))]\nfn h(x: [u8; 3]) -> crate::i::J { crate::k() }\n\
                    #[cfg(not(test))] use crate::l;\n#[cfg(feature = \"m\")] use crate::n;\n\
                    #[cfg(test)]\nmod tests;\nuse crate::o;";
        assert_eq!(paths(text, &["z"]), ["c@4", "g@6", "l@9", "n@10", "o@13"]);
        let found = imports(&Source::new(text), &["z"]);
        assert!(found.test_modules.contains(&vec!["z".to_owned(), "tests".to_owned()]));
    }

    #[test]
    fn re_exports_keep_the_name_and_where_it_comes_from() {
        let found = imports(
            &Source::new("pub use self::error::{Error, Result as R};\npub use half::bf16;"),
            &[],
        );
        assert_eq!(found.names["Error"], ["error", "Error"]);
        assert_eq!(found.names["R"], ["error", "Result"]);
        assert_eq!(found.names["bf16"], ["", "half", "bf16"]);
    }
}
