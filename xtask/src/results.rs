//! `cargo xtask results FILE`: what all benches of this machine print, in one JSON file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::program::{self, Runner};
use crate::{bundle, cargo, llama, model};

/// What the command line says.
pub struct Options {
    /// The file, whose other benches stay as they are.
    pub file: PathBuf,
    /// These benches only; all where there is none.
    pub benches: Vec<String>,
    /// What runs each measurement.
    pub runner: Runner,
}

/// The library's benches.
const OURS: [&str; 5] = ["gemm", "gemv", "attention", "convert", "model"];

/// The package that compares with other crates, and what compares with llama.cpp.
const OTHERS: [&str; 2] = ["peers", "llama"];

/// Runs benches and puts what they print into the file.
pub fn run(options: &Options) -> Result<ExitCode> {
    let names = || OURS.into_iter().chain(OTHERS);
    if let Some(unknown) = options.benches.iter().find(|b| !names().any(|name| name == **b)) {
        let names: Vec<_> = names().collect();
        bail!("there is no bench `{unknown}`; {} are there", names.join(", "));
    }
    let wanted =
        |name: &&str| options.benches.is_empty() || options.benches.iter().any(|b| b == name);
    // Before the file is written, which may be one of the tree's.
    let commit = bundle::commit();
    for name in names().filter(wanted) {
        eprintln!("{name}");
        let result = measure(name, &options.runner).with_context(|| format!("bench {name}"))?;
        // Written each time: what follows may fail, or be interrupted.
        update(&options.file, name, &commit, result)?;
    }
    println!("{}", options.file.display());
    Ok(ExitCode::SUCCESS)
}

/// What a bench prints.
fn measure(name: &str, runner: &Runner) -> Result<Value> {
    if name == "llama" {
        return Ok(llama::measure(&llama::Options::all(runner.clone()))?.to_json());
    }
    let mut command = runner.command(&build(name)?)?;
    if name == "model" {
        command.arg(model::fetch()?);
    }
    program::json(command.arg("--json"))
}

/// A bench as a program, optimised.
fn build(name: &str) -> Result<PathBuf> {
    if name != "peers" {
        return cargo::bench(name);
    }
    let mut command = Command::new(cargo::program());
    let manifest = cargo::workspace().join("benches/peers/Cargo.toml");
    command.args(["build", "--release", "--manifest-path"]).arg(manifest);
    let built = cargo::build(command)?.pop();
    Ok(built.context("cargo built no program")?.path)
}

/// Puts a result into a file beside what it holds.
fn update(path: &Path, name: &str, commit: &str, mut result: Value) -> Result<()> {
    let mut all = match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)
            .with_context(|| format!("{} is no JSON object", path.display()))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Map::new(),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    result["commit"] = json!(commit);
    all.insert(name.to_owned(), result);
    let text = format!("{:#}\n", Value::Object(all));
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bench_replaces_its_own_results_only() {
        let path = std::env::temp_dir().join(format!("xtask-results-{}.json", std::process::id()));
        let _ = fs::remove_file(&path);
        update(&path, "gemm", "abc", json!({"rows": [1]})).unwrap();
        update(&path, "gemv", "abc", json!({"rows": [2]})).unwrap();
        update(&path, "gemm", "abc", json!({"rows": [3]})).unwrap();
        let all: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!((&all["gemm"]["rows"][0], &all["gemv"]["rows"][0]), (&json!(3), &json!(2)));
        assert_eq!(all["gemm"]["commit"], "abc");
    }
}
