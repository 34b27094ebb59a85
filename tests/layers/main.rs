//! The layers of the crate: an import runs only down the list, `unsafe` lives where it is meant
//! to, and nothing unfinished is left in the sources.
//!
//! Comments and string literals are not read, nor is code for tests only.

mod imports;
mod lexer;

use std::fs;
use std::path::{Path, PathBuf};

use imports::{Imports, imports};
use lexer::Source;

/// Lowest first: a layer imports only from itself and from those before it.
const LAYERS: [&str; 16] = [
    "error",
    "num",
    "format",
    "caps",
    "memory",
    "op",
    "registry",
    "device",
    "backend::reference",
    "backend::cpu",
    "backend::cuda",
    // What chooses between the backends.
    "backend",
    "tensor",
    "io",
    "comm",
    "testing",
];

/// Modules that may hold `unsafe`, each with all its submodules: memory, SIMD and foreign
/// functions. A star stands for the rest of a module's name.
const UNSAFE: [&str; 3] = ["memory", "backend::cpu::simd*", "backend::cuda"];

/// Macros that stand for work not done.
const UNFINISHED: [&str; 3] = ["todo", "unimplemented", "dbg"];

/// Lines of one statement that may stand between a safety comment and its `unsafe`.
const STATEMENT_LINES: usize = 4;

/// A source file: its name in messages, and its module.
struct File {
    name: String,
    module: Vec<String>,
    source: Source,
}

impl File {
    fn new(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), module: module_of(name), source: Source::new(text) }
    }
}

/// `src/a/b.rs` and `src/a/b/mod.rs` hold the module `a::b`.
fn module_of(name: &str) -> Vec<String> {
    let stem = name.trim_start_matches("src/").trim_end_matches(".rs");
    stem.split('/').filter(|part| !matches!(*part, "mod" | "lib")).map(str::to_owned).collect()
}

/// Whether `path` is `module` or lies in it.
fn is_in(path: &[String], module: &str) -> bool {
    let mut path = path.iter();
    module.split("::").all(|part| {
        path.next().is_some_and(|p| match part.strip_suffix('*') {
            Some(start) => p.starts_with(start),
            None => p == part,
        })
    })
}

/// The layer that a path lies in, as a position in [`LAYERS`].
fn layer_of(path: &[String]) -> Option<usize> {
    LAYERS.iter().position(|layer| is_in(path, layer))
}

/// All files with what they import, and the root among them.
struct Crate<'a> {
    files: &'a [File],
    read: Vec<Imports>,
}

impl<'a> Crate<'a> {
    fn new(files: &'a [File]) -> Self {
        let read = files.iter().map(|file| {
            let module: Vec<&str> = file.module.iter().map(String::as_str).collect();
            imports(&file.source, &module)
        });
        Self { files, read: read.collect() }
    }

    /// The layer of an absolute path, seen through what the root re-exports.
    fn layer(&self, path: &[String]) -> Option<usize> {
        let first = path.first()?;
        layer_of(path).or_else(|| self.re_exported(first)).or_else(|| {
            // A macro is exported at the root, wherever it is defined.
            let holder = self.read.iter().position(|found| found.macros.contains(first))?;
            layer_of(&self.files[holder].module)
        })
    }

    fn re_exported(&self, name: &str) -> Option<usize> {
        let root = self.files.iter().position(|file| file.module.is_empty())?;
        let path = self.read[root].names.get(name)?;
        // The root may name its own modules without `crate::`; what is no module of it belongs
        // to another crate, which any layer may use.
        let path = path.strip_prefix(&[String::new()]).unwrap_or(path);
        Some(layer_of(path).unwrap_or(0))
    }

    fn is_test_only(&self, module: &[String]) -> bool {
        let inside = |outer: &Vec<String>| module.starts_with(outer);
        self.read.iter().any(|found| found.test_modules.iter().any(inside))
    }

    /// Every import that runs up the list, as `file:line: what is wrong`.
    fn upward_imports(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (file, found) in self.files.iter().zip(&self.read) {
            if file.module.is_empty() || self.is_test_only(&file.module) {
                continue;
            }
            let Some(from) = layer_of(&file.module) else {
                faults.push(format!("{}: is in no layer: add it to LAYERS", file.name));
                continue;
            };
            for import in &found.paths {
                let (name, line, path) = (&file.name, import.line, import.path.join("::"));
                match self.layer(&import.path) {
                    None => faults.push(format!(
                        "{name}:{line}: crate::{path} is in no layer: name the module it is from"
                    )),
                    Some(to) if to > from => faults.push(format!(
                        "{name}:{line}: crate::{path} is of layer {}, which is above {}: move what \
                         both need down, or what needs it up",
                        LAYERS[to], LAYERS[from]
                    )),
                    Some(_) => {}
                }
            }
        }
        faults
    }
}

/// Every `unsafe` outside its modules, and every unsafe block or impl without its reason.
fn misplaced_unsafe(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files {
        let tokens = &file.source.tokens;
        for (at, token) in tokens.iter().enumerate().filter(|(_, t)| t.text == "unsafe") {
            let here = format!("{}:{}", file.name, token.line);
            if !UNSAFE.iter().any(|module| is_in(&file.module, module)) {
                faults.push(format!("{here}: unsafe belongs into {}", UNSAFE.join(", ")));
            }
            let next = tokens.get(at + 1).map_or("", |t| t.text.as_str());
            if matches!(next, "{" | "impl") && !has_reason(&file.source, token.line) {
                faults.push(format!("{here}: unsafe without a `// SAFETY:` comment above it"));
            }
        }
    }
    faults
}

/// Whether a comment with `SAFETY:` stands above or beside this line.
fn has_reason(source: &Source, line: usize) -> bool {
    let reach = line.saturating_sub(STATEMENT_LINES)..=line;
    let Some(last) = source.comments.iter().rposition(|(_, end, _)| reach.contains(end)) else {
        return false;
    };
    // A comment of several lines is several comments, each ending where the next begins.
    let mut first = source.comments[last].0;
    source.comments[..=last].iter().rev().any(|(start, end, text)| {
        let adjoins = end + 1 >= first;
        first = first.min(*start);
        adjoins && text.contains("SAFETY:")
    })
}

/// Every macro that stands for work not done.
fn unfinished(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files {
        for pair in file.source.tokens.windows(2) {
            if UNFINISHED.contains(&pair[0].text.as_str()) && pair[1].text == "!" {
                faults.push(format!("{}:{}: {}!", file.name, pair[0].line, pair[0].text));
            }
        }
    }
    faults
}

/// The Rust files below a folder of this package.
fn files_below(folder: &str) -> Vec<File> {
    fn visit(root: &Path, folder: PathBuf, files: &mut Vec<File>) {
        let Ok(entries) = fs::read_dir(&folder) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(root, path, files);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).unwrap();
                let name = name.to_str().unwrap().replace('\\', "/");
                files.push(File::new(&name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    visit(root, root.join(folder), &mut files);
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn imports_run_only_from_higher_layers_to_lower_ones() {
    let files = files_below("src");
    assert!(files.iter().any(|f| f.name == "src/lib.rs"), "the sources are not where they were");
    assert_none(&Crate::new(&files).upward_imports());
}

#[test]
fn unsafe_is_confined_and_each_use_is_justified() {
    assert_none(&misplaced_unsafe(&files_below("src")));
}

#[test]
fn nothing_unfinished_is_left_in_the_sources() {
    for folder in ["src", "examples", "benches", "xtask/src"] {
        assert_none(&unfinished(&files_below(folder)));
    }
}

/// The checks themselves, on sources made up for the purpose.
mod checks {
    use super::*;

    fn upward(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<File> = files.iter().map(|(name, text)| File::new(name, text)).collect();
        Crate::new(&files).upward_imports()
    }

    #[test]
    fn an_import_up_the_list_is_found_with_its_line() {
        let faults = upward(&[("src/num/a.rs", "use crate::error::E;\nuse crate::tensor::T;")]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with("src/num/a.rs:2: crate::tensor::T is of layer tensor"));
    }

    #[test]
    fn an_import_down_the_list_is_not_a_fault() {
        assert_none(&upward(&[
            ("src/tensor/mod.rs", "use crate::{num::N, backend::cpu::C}; use super::op::O;"),
            ("src/backend/cpu/simd/x.rs", "use super::super::super::reference::R; use super::Y;"),
            ("src/error.rs", "// use crate::tensor::T;\n#[cfg(test)] mod t { use crate::io::I; }"),
        ]));
    }

    #[test]
    fn backends_import_only_those_before_them() {
        assert_none(&upward(&[("src/backend/cpu/a.rs", "use crate::backend::reference::R;")]));
        for (file, text) in [
            ("src/backend/reference/a.rs", "use crate::backend::cpu::C;"),
            ("src/backend/cpu/a.rs", "use super::super::cuda::C;"),
            ("src/backend/cpu/a.rs", "use crate::backend::choose;"),
            ("src/device/mod.rs", "use crate::backend::reference::R;"),
        ] {
            assert_eq!(upward(&[(file, text)]).len(), 1, "{file}: {text}");
        }
    }

    #[test]
    fn names_of_the_root_count_as_the_layer_that_defines_them() {
        let root = (
            "src/lib.rs",
            "pub use error::Error; pub use self::tensor::Tensor as T;\n\
                                   pub use half::bf16;",
        );
        assert_none(&upward(&[root, ("src/op/a.rs", "use crate::{Error, bf16};")]));
        assert_eq!(upward(&[root, ("src/op/a.rs", "use crate::{Error, T};")]).len(), 1);
        assert_eq!(upward(&[root, ("src/op/a.rs", "use crate::Unknown;")]).len(), 1);
        assert_eq!(upward(&[root, ("src/op/a.rs", "use crate::*;")]).len(), 1);
        assert_eq!(upward(&[root, ("src/op.rs", "use super::*;")]).len(), 1);
    }

    #[test]
    fn macros_count_as_the_layer_that_defines_them() {
        let macros = ("src/op/macros.rs", "macro_rules! shape { () => {} }");
        assert_none(&upward(&[macros, ("src/io/a.rs", "crate::shape!();")]));
        assert_eq!(upward(&[macros, ("src/num/a.rs", "crate::shape!();")]).len(), 1);
    }

    #[test]
    fn a_module_that_is_in_no_layer_is_found() {
        assert_eq!(upward(&[("src/util.rs", "")]).len(), 1);
    }

    #[test]
    fn files_for_tests_only_may_import_anything() {
        assert_none(&upward(&[
            ("src/num/mod.rs", "#[cfg(test)]\nmod tests;"),
            ("src/num/tests.rs", "use crate::testing::T;"),
        ]));
    }

    #[test]
    fn unsafe_needs_its_module_and_its_reason() {
        let faults = |name, text| misplaced_unsafe(&[File::new(name, text)]).len();
        let good = "// SAFETY: checked above,\n// in full.\nlet x =\n    unsafe { f() };";
        assert_eq!(faults("src/memory/a.rs", good), 0);
        assert_eq!(faults("src/backend/cpu/simd/x86.rs", good), 0);
        assert_eq!(faults("src/backend/cpu/simd.rs", good), 0);
        assert_eq!(faults("src/backend/cpu/simd_neon.rs", good), 0);
        assert_eq!(faults("src/tensor/a.rs", good), 1);
        assert_eq!(faults("src/backend/cpu/gemm.rs", good), 1);
        assert_eq!(faults("src/memory/a.rs", "// fast\nunsafe { f() }"), 1);
        assert_eq!(faults("src/memory/a.rs", "// SAFETY: x\n\n\n\n\n\nunsafe { f() }"), 1);
        assert_eq!(faults("src/memory/a.rs", "unsafe impl Send for A {}"), 1);
        assert_eq!(faults("src/memory/a.rs", "unsafe fn f();"), 0);
        assert_eq!(faults("src/num/a.rs", "#![deny(unsafe_code)] // unsafe"), 0);
    }

    #[test]
    fn unfinished_work_is_found_outside_comments_only() {
        let faults = |text| unfinished(&[File::new("src/a.rs", text)]);
        assert_eq!(faults("fn f() {\n    todo!()\n}"), ["src/a.rs:2: todo!"]);
        assert_eq!(faults("dbg!(x); unimplemented!()").len(), 2);
        assert_none(&faults("// todo!()\nlet s = \"todo!()\"; let todo = !x;"));
    }
}
