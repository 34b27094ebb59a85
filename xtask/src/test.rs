//! `cargo xtask test`: every test of the workspace, doctests included.
//!
//! Tests that need the default model live in `tests/model*.rs`, are `#[ignore]`d for a plain
//! `cargo test`, and read the file named by the variable `FERROCERIUM_TEST_MODEL`. This command
//! fetches the model and runs them too.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use crate::{arm, cargo, model};

/// What to run.
pub struct Options {
    /// Also the tests that are ignored for being slow.
    pub full: bool,
    /// Leave out what needs a model that is not in the cache.
    pub offline: bool,
    /// Another machine to compile for, instead of this one.
    pub target: Option<String>,
    /// For `cargo test`.
    pub args: Vec<OsString>,
    /// For the test binaries.
    pub binary_args: Vec<OsString>,
}

/// Runs the tests and prints the runner's summaries and their sum.
pub fn run(options: &Options) -> Result<ExitCode> {
    match options.target.as_deref() {
        None => run_here(options),
        Some(name) if arm::is_target(name) && cfg!(target_arch = "aarch64") => run_here(options),
        Some(name) if arm::is_target(name) => run_on_arm(options),
        Some(name) => bail!("there is no way to run tests for `{name}` here; aarch64 is known"),
    }
}

fn run_on_arm(options: &Options) -> Result<ExitCode> {
    arm::set_up()?;
    let (mut total, mut success) = (Total::default(), true);
    for processor in arm::PROCESSORS {
        println!("\n-- aarch64, {processor}");
        let mut command = arm::command("test", processor)?;
        if options.args.is_empty() {
            command.args(["--no-fail-fast", "--lib"]);
            for name in arm::tests(processor, test_targets()?) {
                command.args(["--test", &name]);
            }
        }
        success &= total.run(options.complete(command))?;
    }
    println!("\ntotal: {total}");
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_here(options: &Options) -> Result<ExitCode> {
    let model_tests: Vec<String> =
        test_targets()?.into_iter().filter(|name| name.starts_with("model")).collect();
    let model = if options.offline || (model_tests.is_empty() && !options.full) {
        model::cached()
    } else {
        let hint = "--offline leaves out the tests that need it";
        Some(model::fetch().map_err(|e| anyhow!("{e:#} ({hint})"))?)
    };

    let mut total = Total::default();
    let mut command = cargo::command("test");
    command.args(["--workspace", "--all-features"]);
    // With arguments the user is after one thing and wants to see it fail at once.
    if options.args.is_empty() {
        command.arg("--no-fail-fast");
    }
    let mut success = total.run(with_model(options.complete(command), model.as_ref()))?;

    if options.args.is_empty() && !options.full && !model_tests.is_empty() && model.is_some() {
        let mut command = cargo::command("test");
        // Of the whole workspace as above, or dependencies get other features and are built anew.
        command.args(["--workspace", "--all-features", "--no-fail-fast"]);
        for name in &model_tests {
            command.args(["--test", name]);
        }
        command.args(["--", "--ignored"]).args(&options.binary_args);
        success &= total.run(with_model(command, model.as_ref()))?;
    }

    println!("\ntotal: {total}");
    if model.is_none() && !model_tests.is_empty() {
        println!("not run, for want of a model: the ignored tests of {}", model_tests.join(", "));
    }
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn with_model(mut command: Command, model: Option<&PathBuf>) -> Command {
    if let Some(path) = model {
        command.env("FERROCERIUM_TEST_MODEL", path);
    }
    command
}

impl Options {
    /// The command with the arguments for it and for the test binaries.
    fn complete(&self, mut command: Command) -> Command {
        command.args(&self.args).arg("--");
        if self.full {
            command.arg("--include-ignored");
        }
        command.args(&self.binary_args);
        command
    }
}

/// The names of the root package's test targets: files, and folders with a `main.rs`.
pub fn test_targets() -> Result<Vec<String>> {
    let folder = cargo::workspace().join("tests");
    let entries = match folder.read_dir() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            match name.strip_suffix(".rs") {
                Some(stem) => Some(stem.to_owned()),
                None => entry.path().join("main.rs").is_file().then_some(name),
            }
        })
        .collect();
    names.sort();
    Ok(names)
}

/// The sum of the runner's summary lines.
#[derive(Debug, Default, PartialEq)]
pub struct Total {
    summaries: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Total {
    /// Runs a `cargo test`, showing its output as it comes; whether it succeeded.
    pub fn run(&mut self, mut command: Command) -> Result<bool> {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| anyhow!("cannot start cargo: {e}"))?;
        if let Some(stdout) = child.stdout.take() {
            let mut ours = std::io::stdout().lock();
            // Bytes, not text: a test may print anything.
            for line in BufReader::new(stdout).split(b'\n') {
                let mut line = line.context("cannot read the output of cargo test")?;
                self.add(&String::from_utf8_lossy(&line));
                line.push(b'\n');
                ours.write_all(&line).context("cannot write to standard output")?;
            }
        }
        Ok(child.wait().context("cannot wait for cargo test")?.success())
    }

    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        self.summaries += 1;
        for count in counts.split("; ") {
            match count.split_once(' ').map(|(n, what)| (n.parse::<u64>(), what)) {
                Some((Ok(n), "passed")) => self.passed += n,
                Some((Ok(n), "failed")) => self.failed += n,
                Some((Ok(n), "ignored")) => self.ignored += n,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { summaries, passed, failed, ignored } = self;
        write!(f, "{passed} passed, {failed} failed, {ignored} ignored in {summaries} test runs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_add_up_and_other_lines_do_not_count() {
        let mut total = Total::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s",
            "test result: FAILED. 5 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ] {
            total.add(line);
        }
        assert_eq!(total, Total { summaries: 2, passed: 7, failed: 1, ignored: 1 });
    }
}
