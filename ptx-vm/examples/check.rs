//! Runs a kernel of a `.ptx` or `.cu` file under the checker, and prints what is wrong with
//! it or what it did.
//!
//! ```sh
//! cargo run -p ptx-vm --example check -- ptx-vm/examples/block_sum.ptx block_sum 4 256 empty:16 f32:1000 1000
//! ```
//!
//! After the file: kernel, blocks, threads a block, and the arguments: `f32:1000` is memory
//! with the numbers 0, 1, 2, … (also `f64`, `u8`, `u32`, `i32`), `empty:16` is memory of 16
//! bytes that nobody wrote, `7` is an `int`, `7u32`, `7i64`, … are what they say, `1.5` is a
//! `float`, `1.5f64` a `double`. CUDA sources need NVRTC, which `cargo xtask cuda` fetches.

use std::process::ExitCode;

use ptx_vm::{Arg, LaunchConfig, Machine, Module};

#[path = "../tests/support/nvrtc.rs"]
mod nvrtc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<String, Box<dyn std::error::Error>> {
    let [file, kernel, blocks, threads, rest @ ..] = args else {
        return Err("usage: check FILE KERNEL BLOCKS THREADS [ARGUMENT…]".into());
    };
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let ptx = if file.ends_with(".cu") {
        let ptx = nvrtc::compile(&text, "compute_121a");
        let ptx =
            ptx.ok_or("compiling CUDA needs NVRTC: run `cargo xtask cuda`, or give a .ptx file")?;
        // Reports name the file that was given, not the compiler's name for it.
        let compiled = std::env::current_dir()?.join("kernel.cu");
        ptx.replace(&compiled.display().to_string(), file)
    } else {
        text
    };
    let module = Module::from_ptx(&ptx)?;
    let mut machine = Machine::new();
    let arguments =
        rest.iter().map(|a| argument(&mut machine, a)).collect::<Result<Vec<_>, _>>()?;
    let config = LaunchConfig::new(blocks.parse::<u32>()?, threads.parse::<u32>()?).profile(true);
    let report = machine.launch(&module, kernel, &config, &arguments)?;
    let profile = report.profile.map(|p| p.to_string()).unwrap_or_default();
    Ok(format!("{}{profile}", report.output))
}

fn argument(machine: &mut Machine, text: &str) -> Result<Arg, Box<dyn std::error::Error>> {
    if let Some((ty, n)) = text.split_once(':') {
        let n: u32 = n.parse()?;
        let bytes: Vec<u8> = match ty {
            "empty" => return Ok(machine.alloc(n.into())?.into()),
            "u8" => (0..n).map(|i| i as u8).collect(),
            "u32" | "i32" => (0..n).flat_map(u32::to_le_bytes).collect(),
            "f32" => (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect(),
            "f64" => (0..n).flat_map(|i| f64::from(i).to_le_bytes()).collect(),
            _ => return Err(format!("`{ty}` is no type of memory").into()),
        };
        return Ok(machine.upload(&bytes)?.into());
    }
    let at = text.find(['u', 'i', 'f']).unwrap_or(text.len());
    let (number, ty) = text.split_at(at);
    Ok(match ty {
        "" if number.contains('.') => number.parse::<f32>()?.into(),
        "" | "i32" => number.parse::<i32>()?.into(),
        "u32" => number.parse::<u32>()?.into(),
        "i64" => number.parse::<i64>()?.into(),
        "u64" => number.parse::<u64>()?.into(),
        "f32" => number.parse::<f32>()?.into(),
        "f64" => number.parse::<f64>()?.into(),
        _ => return Err(format!("`{text}` is no argument").into()),
    })
}
