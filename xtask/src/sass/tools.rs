//! PTX to machine code and back: `ptxas` and `nvdisasm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};

/// A kernel as machine code, and what it takes.
pub struct Assembled {
    /// The listing of the whole module.
    pub listing: String,
    pub registers: u32,
    /// Bytes of static shared memory.
    pub shared_memory: u32,
    /// Bytes of local memory of a thread.
    pub stack: u32,
    /// Bytes that registers were spilled to and loaded from local memory with.
    pub spills: u32,
}

/// Assembles a kernel of a module with the tools in that folder.
pub fn assemble(tools: &Path, arch: &str, ptx: &str, kernel: &str) -> Result<Assembled> {
    let scratch = Scratch::new()?;
    let (source, cubin) = (scratch.0.join("module.ptx"), scratch.0.join("module.cubin"));
    fs::write(&source, ptx).with_context(|| format!("cannot write {}", source.display()))?;
    let mut ptxas = Command::new(tools.join("bin/ptxas"));
    ptxas.arg(format!("-arch={arch}")).args(["-v", "-o"]).arg(&cubin).arg(&source);
    let (_, messages) = run(ptxas)?;
    let mut nvdisasm = Command::new(tools.join("bin/nvdisasm"));
    nvdisasm.arg("-c").arg(&cubin);
    let (listing, _) = run(nvdisasm)?;
    let usage = messages.split("Compiling entry function").find(|part| {
        part.trim_start().strip_prefix('\'').is_some_and(|p| p.starts_with(&format!("{kernel}'")))
    });
    let Some(usage) = usage else { bail!("ptxas says nothing of `{kernel}`:\n{messages}") };
    Ok(Assembled {
        registers: number_before(usage, " registers").context("ptxas tells no registers")?,
        shared_memory: number_before(usage, " bytes smem").unwrap_or(0),
        stack: number_before(usage, " bytes stack frame").unwrap_or(0),
        spills: number_before(usage, " bytes spill stores").unwrap_or(0)
            + number_before(usage, " bytes spill loads").unwrap_or(0),
        listing,
    })
}

/// What a kernel declares in its PTX: `.maxntid` and, with `__launch_bounds__(threads, blocks)`,
/// `.minnctapersm`: the blocks that a multiprocessor is to hold.
pub fn declared_blocks(ptx: &str, kernel: &str) -> Option<u32> {
    let entry = ptx.split(".entry ").find(|part| {
        part.strip_prefix(kernel).is_some_and(|rest| rest.starts_with(['(', ' ', '\n']))
    })?;
    let head = entry.split('{').next()?;
    let number = head.split_once(".minnctapersm")?.1.trim_start();
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The number that stands before a text.
fn number_before(text: &str, unit: &str) -> Option<u32> {
    let before = &text[..text.find(unit)?];
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Standard output and standard error.
fn run(mut command: Command) -> Result<(String, String)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("{name}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok((text(&output.stdout), text(&output.stderr)))
}

/// A folder that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ferrocerium-sass-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind is in the system's folder for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_before_their_unit() {
        let usage = "    0 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
            ptxas info    : Used 220 registers, used 1 barriers, 2064 bytes smem";
        assert_eq!(number_before(usage, " registers"), Some(220));
        assert_eq!(number_before(usage, " bytes spill stores"), Some(12));
        assert_eq!(number_before(usage, " bytes smem"), Some(2064));
        assert_eq!(number_before(usage, " bytes cmem"), None);
    }

    #[test]
    fn declared_blocks_are_those_of_the_kernel() {
        let ptx = ".visible .entry gemm(\n.param .b8 x[8]\n)\n.maxntid 256\n.minnctapersm 2\n{\n}\n\
                   .visible .entry other()\n.maxntid 32\n{ .minnctapersm 7 }";
        assert_eq!(declared_blocks(ptx, "gemm"), Some(2));
        assert_eq!(declared_blocks(ptx, "other"), None);
        assert_eq!(declared_blocks(ptx, "gem"), None);
    }
}
