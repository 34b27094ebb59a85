//! `pip download`, so that the user's mirrors, proxies and certificates apply.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Result, anyhow, bail};

use crate::cache;
use crate::package::{Kind, Package};

/// Downloads one package, without its dependencies, into the empty folder `into` and returns its
/// path. `needed` is the disk space the whole task takes, for the message when it is not there.
pub fn download(package: &Package, into: &Path, needed: u64) -> Result<PathBuf> {
    let requirement = format!("{}=={}", package.name, package.version);
    for launcher in launchers() {
        let Some(output) = launch(&launcher, package, &requirement, into)? else { continue };
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(failure(&requirement, &stderr, needed));
        }
        let mut files = fs::read_dir(into).map_err(|e| cache::explain(e, into, Some(needed)))?;
        return match files.find_map(|f| {
            let path = f.ok()?.path();
            path.to_str().is_some_and(|p| p.ends_with(package.kind.suffix())).then_some(path)
        }) {
            Some(path) => Ok(path),
            None => bail!(
                "pip download {requirement} succeeded but left no {}; update pip",
                package.kind.suffix()
            ),
        };
    }
    bail!(
        "fetching {requirement} needs Python's pip, and none was found (tried {}); install \
         python3 with pip, or set PYTHON to an interpreter that has it",
        launchers().iter().map(|l| l.join(" ")).collect::<Vec<_>>().join(", ")
    )
}

/// Ways to start pip, most specific first.
fn launchers() -> Vec<Vec<String>> {
    let module = |python: &str| vec![python.to_owned(), "-m".to_owned(), "pip".to_owned()];
    match std::env::var("PYTHON") {
        Ok(python) if !python.is_empty() => vec![module(&python)],
        _ => vec![module("python3"), module("python"), vec!["pip3".into()], vec!["pip".into()]],
    }
}

/// `None` where this launcher does not exist or has no pip.
fn launch(
    launcher: &[String],
    package: &Package,
    requirement: &str,
    into: &Path,
) -> Result<Option<Output>> {
    let Some((program, first)) = launcher.split_first() else { return Ok(None) };
    let mut command = Command::new(program);
    command
        .args(first)
        .args(["download", requirement, "--no-deps"])
        .args(["--disable-pip-version-check", "--no-input", "--dest"])
        .arg(into);
    match package.kind {
        Kind::Pure => command.arg("--only-binary=:all:"),
        Kind::Platform(tag) => command.args(["--only-binary=:all:", "--platform", tag]),
        // Not of everything: pip fetches what would build it, too.
        Kind::Source => command.args(["--no-binary", package.name]),
    };
    if !io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    let output = command
        // Messages are matched below, so they must not be translated.
        .env("LC_ALL", "C")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        // pip keeps a second copy while it downloads: let it be on the disk that is checked,
        // and be removed with the rest.
        .env("TMPDIR", into)
        .stdin(Stdio::null())
        // The progress bar; standard output belongs to the command that needs the package.
        .stdout(Stdio::from(io::stderr()))
        .stderr(Stdio::piped())
        .spawn()
        .and_then(|child| child.wait_with_output());
    match output {
        Ok(output) => {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let absent = stderr.contains("No module named pip")
                // Version managers install launchers that only say so.
                || output.status.code() == Some(127);
            Ok((!absent).then_some(output))
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(e) => Err(anyhow!("cannot start {program} to fetch {requirement}: {e}")),
    }
}

/// One line out of pip's many, with what to do.
fn failure(requirement: &str, stderr: &str, needed: u64) -> anyhow::Error {
    let has = |words: &[&str]| words.iter().any(|w| stderr.contains(w));
    if has(&["No space left on device", "Disk quota exceeded"]) {
        return cache::no_space(Some(needed));
    }
    if has(&[
        "NewConnectionError",
        "NameResolutionError",
        "name resolution",
        "ConnectTimeout",
        "ReadTimeout",
        "Read timed out",
        "Connection refused",
        "ConnectionResetError",
        "ProtocolError",
        "ProxyError",
        "SSLError",
        "Network is unreachable",
    ]) {
        return anyhow!(
            "cannot reach the package index for {requirement}: check the network, or set \
             PIP_INDEX_URL or HTTPS_PROXY; on a machine without network, put the file into a \
             folder and set PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER"
        );
    }
    if has(&["No matching distribution", "Could not find a version"]) {
        return anyhow!(
            "the package index has no {requirement}: point PIP_INDEX_URL at PyPI or a full mirror \
             of it, or set PIP_FIND_LINKS to a folder that holds the file"
        );
    }
    let last = stderr.lines().rev().map(str::trim).find(|l| !l.is_empty());
    let error = stderr.lines().rev().find_map(|l| l.trim().strip_prefix("ERROR: "));
    anyhow!(
        "pip download {requirement} failed: {}",
        error.or(last).unwrap_or("it printed no reason; run it by hand")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_of_pip_is_one_line_that_says_what_to_do() {
        let cases = [
            (
                "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
                "free about 2 MB",
            ),
            (
                "WARNING: Retrying: NewConnectionError(...)\nERROR: No matching distribution found for x==1",
                "check the network",
            ),
            (
                "ERROR: Could not find a version that satisfies the requirement x==1 (from versions: none)\nERROR: No matching distribution found for x==1",
                "PIP_INDEX_URL",
            ),
            ("Traceback\nERROR: something else\n", "something else"),
            ("", "run it by hand"),
        ];
        for (stderr, expected) in cases {
            let line = failure("x==1", stderr, 1_500_000).to_string();
            assert!(line.contains(expected), "{line}");
            assert_eq!(line.lines().count(), 1);
        }
    }
}
