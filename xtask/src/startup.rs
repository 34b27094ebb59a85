//! `cargo xtask startup`: how long `examples/chat` waits for the kernels of a GPU that is not here.
//!
//! It loads the default model, prepares the prompt and records the step of a token, each kernel
//! compiled to machine code by NVRTC: once where nothing is kept on disk, once where all is. What a
//! driver takes to load that code is not in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{cargo, cuda, model, program};

/// As in `src/backend/cuda/cache.rs`.
const CACHE_VARIABLE: &str = "FERROCERIUM_KERNEL_CACHE";

/// Prints both times.
pub fn run(target: &str) -> Result<ExitCode> {
    cuda::fetch()?;
    let model = model::fetch()?;
    let chat = cargo::example("chat", &["emulator"])?;
    let kept = Folder::new()?;
    for what in ["nothing kept", "all kept"] {
        let mut command = Command::new(&chat);
        command.arg("--model").arg(&model).args(["--device", &format!("compiled:{target}")]);
        command.args(["--format", "nvfp4", "--head", "nvfp4", "--prompt", "Why is the sky blue?"]);
        command.args(["--max-tokens", "1", "--json"]).env(CACHE_VARIABLE, kept.path());
        let report = program::json(&mut command)?;
        let seconds =
            |what: &str| report[what].as_f64().with_context(|| format!("chat reports no `{what}`"));
        println!(
            "{target}, {what}: kernels ready {:.2} s after {:.2} s of loading, {} programs",
            seconds("prepare_s")?,
            seconds("load_s")?,
            fs::read_dir(kept.path())?.count(),
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("xtask-startup-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Folder(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
