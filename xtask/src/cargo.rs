//! Starting cargo on this workspace from wherever the user is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Result, anyhow};

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// `cargo <subcommand>` on this workspace; relative paths in further arguments stay relative
/// to the user's folder.
pub fn command(subcommand: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let manifest: PathBuf = workspace().join("Cargo.toml");
    let mut command = Command::new(cargo);
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
