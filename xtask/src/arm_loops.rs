//! `cargo xtask arm --loops`: how many cycles the inner loops of the Arm kernels take by `llvm-mca`'s
//! models of two cores. A model knows execution units and latencies, not caches.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{arm, cargo};

/// Cores that there is a model for. Those of newer ones, Cortex-X925 and A725, are these too.
const CORES: [&str; 2] = ["neoverse-v2", "neoverse-n2"];

/// Programs that know them.
const MODELS: [&str; 3] = ["llvm-mca-20", "llvm-mca-19", "llvm-mca"];

const DISASSEMBLER: &str = "aarch64-linux-gnu-objdump";

/// Iterations, so many that the first ones do not count.
const ITERATIONS: u32 = 500;

/// A loop: the first one in functions of that name which has just so many of some instructions.
struct Loop {
    name: &'static str,
    function: &'static str,
    instructions: &'static [(&'static str, usize)],
    /// Products an iteration.
    products: u32,
}

#[rustfmt::skip]
const LOOPS: [Loop; 9] = [
    Loop { name: "f32 × f32, 2 × 6 dot products", function: "simd::lanes::at",
           instructions: &[("fmla", 24), ("ld1r", 0), ("fmadd", 0), ("fadd", 0)], products: 96 },
    Loop { name: "f32 × f32, 6 × 16 outputs", function: "simd::lanes::at",
           instructions: &[("fmla", 48)], products: 192 },
    Loop { name: "bf16 weights, 1 row", function: "stream::neon::stream_at",
           instructions: &[("fmla", 16), ("zip1", 8), ("zip2", 8), ("fadd", 0)], products: 64 },
    Loop { name: "NVFP4 weights, 1 row in f32", function: "stream::neon::stream_at",
           instructions: &[("fmla", 32), ("fmul", 32), ("fadd", 0)], products: 128 },
    Loop { name: "NVFP4 weights, 4 rows in f32", function: "stream::neon::stream_at",
           instructions: &[("fmla", 64), ("fmul", 16), ("fadd", 0)], products: 256 },
    Loop { name: "NVFP4 × int8, 1 row, dotprod", function: "products::dotprod::stream_at",
           instructions: &[("sdot", 4), ("fadd", 0)], products: 64 },
    Loop { name: "NVFP4 × int8, 1 row, i8mm", function: "products::i8mm::stream_at",
           instructions: &[("smmla", 8), ("fadd", 0)], products: 128 },
    Loop { name: "NVFP4 × int8, many rows, dotprod", function: "products::dotprod::products_at",
           instructions: &[("sdot", 32)], products: 512 },
    Loop { name: "NVFP4 × int8, many rows, i8mm", function: "products::i8mm::products_at",
           instructions: &[("smmla", 24)], products: 768 },
];

/// Builds the library for Arm and prints a table of its loops.
pub fn run() -> Result<()> {
    arm::set_up()?;
    let model = MODELS.into_iter().find(|program| models(program));
    let model = model.context("no llvm-mca with models of Arm's cores: Debian has llvm-19")?;
    let status = arm::command("build", "max")?.args(["--lib", "--release"]).status();
    ensure!(status.context("cannot start cargo")?.success(), "the library does not build");
    let library = cargo::workspace().join("target/aarch64").join(arm::TRIPLE);
    let functions = functions(&library.join("release/libferrocerium.rlib"))?;

    print!("| loop | instructions |");
    CORES.iter().for_each(|core| print!(" cycles, {core} | products a cycle |"));
    print!("\n|---|---|{}\n", "---|---|".repeat(CORES.len()));
    for wanted in &LOOPS {
        let mut bodies = functions
            .iter()
            .filter(|(name, _)| name.contains(wanted.function))
            .flat_map(|(_, code)| inner_loops(code));
        let body = bodies.find(|body| wanted.is(body));
        let body = body.with_context(|| format!("there is no loop of {}", wanted.name))?;
        print!("| {} | {} |", wanted.name, body.len());
        for core in CORES {
            let cycles = cycles(model, core, body)?;
            print!(" {cycles:.1} | {:.1} |", f64::from(wanted.products) / cycles);
        }
        println!();
    }
    Ok(())
}

fn models(program: &str) -> bool {
    let help = Command::new(program)
        .args(["-mtriple=aarch64", "-mcpu=help"])
        .stdin(Stdio::null())
        .output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stderr).contains(CORES[0]))
}

#[derive(Debug, PartialEq)]
struct Instruction {
    address: u64,
    name: String,
    operands: String,
}

impl Instruction {
    fn is_branch(&self) -> bool {
        let name = self.name.as_str();
        name.starts_with("b.") || matches!(name, "b" | "bl" | "cbz" | "cbnz" | "tbz" | "tbnz")
    }

    /// Where it goes to.
    fn target(&self) -> Option<u64> {
        let place = self.operands.split(['<', ',']).map(str::trim);
        let mut places = place.filter_map(|place| u64::from_str_radix(place, 16).ok());
        self.is_branch().then(|| places.next()).flatten()
    }
}

impl Loop {
    fn is(&self, body: &[Instruction]) -> bool {
        self.instructions.iter().all(|(name, count)| {
            body.iter().filter(|instruction| instruction.name == *name).count() == *count
        })
    }
}

/// Each function's name and code.
fn functions(library: &Path) -> Result<Vec<(String, Vec<Instruction>)>> {
    let mut command = Command::new(DISASSEMBLER);
    command.args(["-d", "-C", "--no-show-raw-insn"]).arg(library);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let output = child.stdout.take().context("no output")?;
    let mut functions = Vec::new();
    for line in BufReader::new(output).lines() {
        parse(&line?, &mut functions);
    }
    ensure!(child.wait()?.success(), "{DISASSEMBLER} failed");
    Ok(functions)
}

/// A line of a disassembly: the head of a function, an instruction, or neither.
fn parse(line: &str, functions: &mut Vec<(String, Vec<Instruction>)>) {
    if let Some((_, name)) = line.strip_suffix(">:").and_then(|line| line.split_once(" <")) {
        functions.push((name.to_owned(), Vec::new()));
    } else if let Some((address, rest)) = line.trim().split_once(":\t")
        && let Ok(address) = u64::from_str_radix(address, 16)
        && let Some((_, code)) = functions.last_mut()
    {
        let rest = rest.split("//").next().unwrap_or_default();
        let (name, operands) = rest.split_once('\t').unwrap_or((rest, ""));
        let (name, operands) = (name.trim().to_owned(), operands.trim().to_owned());
        code.push(Instruction { address, name, operands });
    }
}

/// Loops that hold no other.
fn inner_loops(code: &[Instruction]) -> Vec<&[Instruction]> {
    let mut loops: Vec<(usize, usize)> = Vec::new();
    for (end, branch) in code.iter().enumerate() {
        let start = branch.target().filter(|target| *target < branch.address);
        let start = start.and_then(|target| code.binary_search_by_key(&target, |i| i.address).ok());
        loops.extend(start.map(|start| (start, end)));
    }
    let holds = |outer: &(usize, usize), inner: &(usize, usize)| {
        outer != inner && outer.0 <= inner.0 && inner.1 <= outer.1
    };
    let inner = loops.iter().filter(|one| !loops.iter().any(|other| holds(one, other)));
    inner.map(|&(start, end)| &code[start..=end]).collect()
}

/// Cycles that an iteration takes.
fn cycles(model: &str, core: &str, body: &[Instruction]) -> Result<f64> {
    let file = std::env::temp_dir().join(format!("ferrocerium-loop-{}.s", std::process::id()));
    let mut source = File::create(&file)?;
    for instruction in body.iter().filter(|instruction| !instruction.is_branch()) {
        writeln!(source, "{} {}", instruction.name, instruction.operands)?;
    }
    let output = Command::new(model)
        .args(["-mtriple=aarch64", "-mattr=+dotprod,+i8mm,+bf16"])
        .arg(format!("-mcpu={core}"))
        .arg(format!("-iterations={ITERATIONS}"))
        .arg(&file)
        .output()?;
    std::fs::remove_file(&file)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let total = text.lines().find_map(|line| line.strip_prefix("Total Cycles:"));
    let Some(total) = total else {
        bail!("{model} says: {}", String::from_utf8_lossy(&output.stderr));
    };
    Ok(total.trim().parse::<f64>()? / f64::from(ITERATIONS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_holds_another_is_none() {
        let text = "\
0000000000000000 <one::dots>:
   0:\tmov\tx0, #0x0                   \t// #0
   4:\tfmla\tv0.4s, v1.4s, v2.4s
   8:\tfmla\tv3.4s, v1.4s, v4.4s
   c:\tb.ne\t4 <one::dots+0x4>  // b.any
  10:\tcbnz\tx1, 0 <one::dots>
  14:\tret
";
        let mut functions = Vec::new();
        text.lines().for_each(|line| parse(line, &mut functions));
        let [(name, code)] = functions.as_slice() else { panic!("one function") };
        assert_eq!((name.as_str(), code.len()), ("one::dots", 6));
        let loops = inner_loops(code);
        assert_eq!(loops, [&code[1..4]]);
        let wanted = Loop { name: "", function: "dots", instructions: &[("fmla", 2)], products: 8 };
        assert!(wanted.is(loops[0]) && !wanted.is(&code[1..2]));
    }
}
