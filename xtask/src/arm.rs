//! `cargo xtask test --target aarch64`: the library's tests for 64-bit Arm on any Linux machine,
//! cross-compiled and run by qemu.
//!
//! They run on a processor with everything that qemu knows and, those that depend on the processor,
//! on two with less: dot products of bytes only, and nothing beyond Armv8.0.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo;

pub const TRIPLE: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";

/// A compiler of Debian's that has a standard library for Arm beside it.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Debian's packages with all of it.
const PACKAGES: [&str; 5] = [
    "rustc-web",
    "libstd-rust-web-dev:arm64",
    "gcc-aarch64-linux-gnu",
    "libc6-dev-arm64-cross",
    "qemu-user-static",
];

/// A processor with all that qemu emulates, one with dot products but without matrix products of
/// bytes, and one with neither.
pub const PROCESSORS: [&str; 3] = ["max", "neoverse-n1", "cortex-a72"];

/// Tests that look at the sources, at programs, or at what runs on no particular processor.
const NOT_OF_THE_PROCESSOR: [&str; 10] = [
    "chat",
    "dependencies",
    "emulated",
    "isa",
    "layers",
    "package",
    "programs",
    "quantize",
    "readme",
    "save",
];

/// Tests that run what is written for a processor.
const OF_KERNELS: [&str; 2] = ["conformance", "cpu"];

/// Whether `name` is what this module tests for.
pub fn is_target(name: &str) -> bool {
    name == "aarch64" || name == TRIPLE
}

/// The tests for a processor, of all that there are.
pub fn tests(processor: &str, all: Vec<String>) -> Vec<String> {
    let wanted = |name: &String| match processor {
        "max" => !NOT_OF_THE_PROCESSOR.contains(&name.as_str()) && !name.starts_with("model"),
        _ => OF_KERNELS.contains(&name.as_str()),
    };
    all.into_iter().filter(wanted).collect()
}

/// `cargo test`, or another command, for Arm with all that is pure Rust, run by qemu as that
/// processor.
pub fn command(subcommand: &str, processor: &str) -> Result<Command> {
    let compiler = compiler().context("no Rust compiler with a standard library for Arm")?;
    let mut command = cargo::command(subcommand);
    command
        .args(["--target", TRIPLE, "--package", "ferrocerium", "--features", "ndarray,testing"])
        // Another compiler must not make the usual builds stale.
        .arg("--target-dir")
        .arg(cargo::workspace().join("target/aarch64"))
        .env("RUSTC", compiler)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
        // Threads hang under qemu 7.2 with the C library as a shared one.
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
        .env(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
            format!("{EMULATOR} -cpu {processor}"),
        );
    Ok(command)
}

/// Installs what is missing, where that is possible.
pub fn set_up() -> Result<()> {
    if compiler().is_some() && runs(LINKER) && runs(EMULATOR) {
        return Ok(());
    }
    let packages = PACKAGES.join(" ");
    let by_hand = format!(
        "dpkg --add-architecture arm64 && apt-get update && \
         apt-get install -y --no-install-recommends {packages}"
    );
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    if !(is_root && runs("apt-get")) {
        bail!(
            "tests for Arm need a Rust compiler with the target {TRIPLE} (`rustup target add \
             {TRIPLE}`), {LINKER} and {EMULATOR}; on Debian, as root: {by_hand}"
        );
    }
    eprintln!("installing {packages}");
    let status = Command::new("sh")
        .args(["-c", &by_hand])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status()
        .context("cannot start sh")?;
    if !(status.success() && compiler().is_some() && runs(LINKER) && runs(EMULATOR)) {
        bail!("the packages for Arm tests could not be installed ({status}): {by_hand}");
    }
    Ok(())
}

/// The usual compiler where it has the target, else Debian's.
fn compiler() -> Option<&'static str> {
    ["rustc", DEBIAN_RUSTC].into_iter().find(|rustc| {
        let libraries = Command::new(rustc)
            .args(["--print", "target-libdir", "--target", TRIPLE])
            .stderr(Stdio::null())
            .output();
        libraries.is_ok_and(|output| {
            let path = String::from_utf8_lossy(&output.stdout);
            output.status.success() && Path::new(path.trim()).is_dir()
        })
    })
}

fn runs(program: &str) -> bool {
    let status =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_without_extensions_runs_the_kernels_only() {
        let all = || ["conformance", "cpu", "layers", "model_llama", "num"].map(str::to_owned);
        assert_eq!(tests(PROCESSORS[0], all().to_vec()), ["conformance", "cpu", "num"]);
        assert_eq!(tests(PROCESSORS[1], all().to_vec()), ["conformance", "cpu"]);
    }
}
