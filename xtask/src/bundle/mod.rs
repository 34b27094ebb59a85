//! `cargo xtask bundle`: tests and benches as programs in a folder, for a machine without Rust.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cargo::{self, Built};
use crate::cuda;

/// Tests that run kernels, benches that need no model, what describes a device, and what compares it
/// with the emulator.
const TESTS: [&str; 2] = ["conformance", "emulated"];
const BENCHES: [&str; 5] = ["gpu", "gemm", "gemv", "attention", "convert"];
const EXAMPLES: [&str; 2] = ["gpu_info", PROBE];

/// The example of the emulator's package.
const PROBE: &str = "probe";

/// The most bytes of a folder: such machines are often far away.
const LIMIT: u64 = 60 << 20;

/// Fills the folder, which must not be there yet or be empty, or be an older bundle.
pub fn write(folder: &Path) -> Result<ExitCode> {
    let built = build()?;
    let binaries = folder.join("bin");
    if binaries.exists() {
        ensure!(
            folder.join("contents.sh").exists(),
            "{} is not empty and no bundle: choose another folder",
            folder.display()
        );
        fs::remove_dir_all(&binaries).with_context(|| binaries.display().to_string())?;
    }
    fs::create_dir_all(&binaries).with_context(|| binaries.display().to_string())?;
    for name in TESTS.iter().chain(&BENCHES).chain(&EXAMPLES) {
        // There is a test of the same name as some bench.
        let kind = kind_of(name);
        let found = built.iter().find(|b| b.kind == kind && b.name == *name);
        let found = found.with_context(|| format!("cargo built no {kind} `{name}`"))?;
        fs::copy(&found.path, binaries.join(name))
            .with_context(|| format!("cannot copy {}", found.path.display()))?;
    }
    let mut size = pack(&folder.join("bin.tar.gz"), folder, ["bin"])?;
    fs::remove_dir_all(&binaries).with_context(|| binaries.display().to_string())?;
    match pack_compiler(folder) {
        Ok(bytes) => size += bytes,
        Err(error) => eprintln!("without the compiler of GPU kernels: {error:#}"),
    }
    ensure!(size <= LIMIT, "{size} bytes are more than {LIMIT}");
    write_scripts(folder, &contents(&commit()))?;
    println!("{}: {:.1} MiB; start run.sh there", folder.display(), size as f64 / 1048576.0);
    Ok(ExitCode::SUCCESS)
}

/// Packs the run-time compiler, which such machines seldom have, and can not fetch.
fn pack_compiler(folder: &Path) -> Result<u64> {
    let libraries = cuda::fetch()?.join("lib");
    let names = fs::read_dir(&libraries).with_context(|| libraries.display().to_string())?;
    let names = names.filter_map(|entry| Some(entry.ok()?.file_name()));
    pack(&folder.join("nvrtc.tar.xz"), &libraries, names)
}

/// Packs files of a folder, by the means that the archive's name says; its size. `run.sh` unpacks
/// it.
fn pack(
    archive: &Path,
    folder: &Path,
    names: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<u64> {
    let mut tar = Command::new("tar");
    tar.arg("-caf").arg(archive).arg("-C").arg(folder).args(names);
    let status = tar.status().context("cannot start tar")?;
    ensure!(status.success(), "tar could not make {}", archive.display());
    Ok(fs::metadata(archive).with_context(|| archive.display().to_string())?.len())
}

fn kind_of(name: &str) -> &'static str {
    match name {
        _ if TESTS.contains(&name) => "test",
        _ if BENCHES.contains(&name) => "bench",
        _ => "example",
    }
}

/// Builds all of it, optimised and stripped.
fn build() -> Result<Vec<Built>> {
    let tests: Vec<_> = TESTS.into_iter().chain(BENCHES).collect();
    // `cargo test` would make a test of an example.
    Ok([run_cargo(&["test", "--no-run"], &tests)?, run_cargo(&["build"], &EXAMPLES)?].concat())
}

fn run_cargo(subcommand: &[&str], names: &[&str]) -> Result<Vec<Built>> {
    let mut command = cargo::command(subcommand[0]);
    command.args(&subcommand[1..]);
    // The emulator is a package of its own.
    command.args(["--package", "ferrocerium", "--package", "ptx-vm"]);
    command.args(["--all-features", "--release"]);
    for name in names {
        command.args([&format!("--{}", kind_of(name)), *name]);
    }
    command.envs([("CARGO_PROFILE_RELEASE_STRIP", "true"), ("CARGO_PROFILE_RELEASE_DEBUG", "0")]);
    cargo::build(command)
}

/// What `run.sh` is told.
fn contents(commit: &str) -> String {
    let mut text = String::new();
    let lists = [("TESTS", TESTS.join(" ")), ("BENCHES", BENCHES.join(" "))];
    for (name, value) in lists.into_iter().chain([("COMMIT", commit.to_owned())]) {
        let _ = writeln!(text, "{name}='{value}'");
    }
    text
}

/// The commit that is there; "unknown" without git.
pub fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"]).current_dir(cargo::workspace());
    let output = git.stderr(Stdio::null()).output().ok().filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

fn write_scripts(folder: &Path, contents: &str) -> Result<()> {
    let files = [
        ("run.sh", include_str!("run.sh")),
        ("README.txt", include_str!("README.txt")),
        ("contents.sh", contents),
    ];
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join("run.sh");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// With programs that succeed, fail, and print what JSON must escape.
    #[cfg(unix)]
    #[test]
    fn the_script_writes_one_json_file_whatever_the_programs_do() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("xtask-bundle-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("bin")).unwrap();
        for (name, text) in [
            (
                "conformance",
                "[ \"$1\" = --show-output ] && echo 'skipped: x'; echo 'k 0.5 of the bound'
                 echo 'skipped: x'; echo 'test result: ok. 1 passed; 0 failed'",
            ),
            (
                "emulated",
                "[ \"$1\" = hardware:: ] && echo 'test result: ok. gpu' && exit 0
                 echo 'a \"quoted\" \\ line'; printf 'tab\\there\\033[1m\\n' >&2; exit 101",
            ),
            ("gpu", "echo 'skipped: no GPU' >&2; echo '{\"skipped\": [\"no GPU\"]}'"),
            ("gemm", "[ \"$1\" = --json ] && echo '{\"rows\": [1.5]}'"),
            ("attention", "exit 1"),
            ("convert", "echo '{}'"),
            ("gemv", "echo '{}'"),
            ("gpu_info", "echo 'GB/s'; echo host"),
            (PROBE, "echo 'no GPU: none' >&2; echo '{\"rows\": [\"different\"]}'; exit 1"),
        ] {
            let path = folder.join("bin").join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        write_scripts(&folder, &contents("abc")).unwrap();
        let result = folder.join("result.json");
        let output = Command::new(folder.join("run.sh")).arg(&result).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for line in ["skipped: no GPU", "no GPU: none", "failed: probe emulated attention"] {
            assert!(said.contains(line), "{said}");
        }
        let read = || {
            let text = fs::read_to_string(&result).unwrap();
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
        };
        let json: Value = read();
        let status = Command::new(folder.join("run.sh")).arg("--gpu").arg(&result).status();
        let short: Value = read();
        fs::remove_dir_all(&folder).unwrap();
        // The probe fails there too.
        assert_eq!(status.unwrap().code(), Some(1));
        for of_cpu in [&short["benches"]["gemm"], &short["tests"]["conformance"]] {
            assert!(of_cpu["skipped"].as_str().unwrap().contains("--gpu"));
        }
        assert_eq!(short["benches"]["gpu"]["exit"], 0);
        assert_eq!(short["tests"]["emulated"]["summary"], "test result: ok. gpu");
        assert_eq!(json["commit"], "abc");
        assert_eq!(json["memory"], "GB/s\nhost");
        assert_eq!(json["fidelity"]["exit"], 1);
        assert_eq!(json["fidelity"]["result"]["rows"][0], "different");
        assert_eq!(json["tests"]["conformance"]["exit"], 0);
        assert_eq!(json["tests"]["conformance"]["summary"], "test result: ok. 1 passed; 0 failed");
        assert_eq!(json["tests"]["conformance"]["notes"], "k 0.5 of the bound\nskipped: x");
        assert_eq!(json["tests"]["emulated"]["exit"], 101);
        let log = json["tests"]["emulated"]["log"].as_str().unwrap();
        assert_eq!(log, "a \"quoted\" \\ line\ntab\there[1m");
        assert_eq!(json["benches"]["gpu"]["result"]["skipped"][0], "no GPU");
        assert_eq!(json["benches"]["gemm"]["result"]["rows"][0], 1.5);
        assert_eq!(json["benches"]["attention"]["exit"], 1);
        assert!(json["benches"]["attention"]["result"].is_null());
    }
}
