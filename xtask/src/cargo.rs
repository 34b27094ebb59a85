//! Starting cargo on this workspace from wherever the user is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The cargo that runs this program.
pub fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))
}

/// `cargo <subcommand>` on this workspace; relative paths in further arguments stay relative
/// to the user's folder.
pub fn command(subcommand: &str) -> Command {
    let manifest: PathBuf = workspace().join("Cargo.toml");
    let mut command = Command::new(program());
    command.arg(subcommand).arg("--manifest-path").arg(manifest);
    command
}

/// This machine, for builds whose flags must not reach build scripts: those are built without when
/// a target is named.
pub const HOST: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

/// `cargo +nightly <subcommand>` on the package of that manifest.
pub fn nightly(subcommand: &str, manifest: &Path) -> Command {
    // By way of rustup: the `cargo` in `CARGO` is of one toolchain.
    let mut command = Command::new("cargo");
    command.arg("+nightly").arg(subcommand).arg("--manifest-path").arg(manifest);
    // What chose this program's toolchain would choose that one's too.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("CARGO");
    command
}

/// Becomes the command, so that its exit code, its signals and its terminal are the user's.
#[cfg(unix)]
pub fn replace_by(mut command: Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    let error = command.exec();
    Err(anyhow!("cannot start cargo: {error}"))
}

/// Runs the command and passes its exit code on.
#[cfg(not(unix))]
pub fn replace_by(mut command: Command) -> Result<ExitCode> {
    let status = command.status().map_err(|e| anyhow!("cannot start cargo: {e}"))?;
    Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)))
}

/// A program that cargo made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// `bench`, `bin`, `example` or `test`.
    pub kind: String,
    /// Name of the target.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Builds by a command that ends with what to build, and says which programs there are now.
pub fn build(mut command: Command) -> Result<Vec<Built>> {
    command.args(["--message-format", "json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|e| anyhow!("cannot start cargo: {e}"))?;
    ensure!(output.status.success(), "the programs were not built");
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(built).collect())
}

/// A bench of the library as a program, optimised.
pub fn bench(name: &str) -> Result<PathBuf> {
    let mut command = command("build");
    command.args(["--package", "ferrocerium", "--release", "--bench", name]);
    let bench = build(command)?.into_iter().find(|b| b.kind == "bench" && b.name == name);
    Ok(bench.with_context(|| format!("cargo built no bench `{name}`"))?.path)
}

/// An example of the library with some features as a program, optimised.
pub fn example(name: &str, features: &[&str]) -> Result<PathBuf> {
    let mut command = command("build");
    command.args(["--package", "ferrocerium", "--release", "--example", name]);
    command.args(["--features", &features.join(",")]);
    let example = build(command)?.into_iter().find(|b| b.kind == "example" && b.name == name);
    Ok(example.with_context(|| format!("cargo built no example `{name}`"))?.path)
}

/// What a message of cargo says was built, if it is a program.
fn built(message: &str) -> Option<Built> {
    let message: Value = serde_json::from_str(message).ok()?;
    let target = &message["target"];
    Some(Built {
        path: message["executable"].as_str()?.into(),
        kind: target["kind"][0].as_str()?.to_owned(),
        name: target["name"].as_str()?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_messages_of_cargo() {
        let message = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"gemm"},
            "executable":"/t/release/deps/gemm-1"}"#;
        let expected = Built {
            kind: "test".into(),
            name: "gemm".into(),
            path: "/t/release/deps/gemm-1".into(),
        };
        assert_eq!(built(message), Some(expected));
        let library = r#"{"target":{"kind":["lib"],"name":"x"},"executable":null}"#;
        assert_eq!(built(library), None);
        assert_eq!(built("warning: something"), None);
    }
}
