//! How fast kernels run: lane instructions a second, with and without the checker, on all
//! processors. `cargo bench -p ptx-vm` prints the table; it needs NVRTC (`cargo xtask cuda`).
//! Words after `--` pick rows: `cargo bench -p ptx-vm --bench speed -- BF16 attention`.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Instant;

use ptx_vm::{Arg, LaunchConfig, Machine, Module, Report, Swizzle, TensorMap};
use support::operands::{Format, Problem};
use support::*;

const BASIC: &str = include_str!("../tests/kernels/basic.cu");
const HELPERS: &str = include_str!("../tests/kernels/matrix.cuh");
const GEMM: &str = include_str!("../tests/kernels/gemm.cu");
const WGMMA: &str = include_str!("../tests/kernels/wgmma.cu");
const ATTENTION: &str = include_str!("../tests/kernels/attention.cu");

/// One kernel with its arguments.
struct Row {
    name: &'static str,
    module: Module,
    kernel: &'static str,
    config: LaunchConfig,
    machine: Machine,
    args: Vec<Arg>,
}

impl Row {
    /// The report and the median seconds of five launches.
    fn time(&mut self, checks: bool) -> (Report, f64) {
        let config = self.config.clone().checks(checks);
        let mut runs: Vec<(f64, Report)> = (0..5)
            .map(|_| {
                let start = Instant::now();
                let report = self
                    .machine
                    .launch(&self.module, self.kernel, &config, &self.args)
                    .unwrap_or_else(|e| panic!("{}: {e}", self.name));
                (start.elapsed().as_secs_f64(), report)
            })
            .collect();
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (seconds, report) = runs.swap_remove(2);
        (report, seconds)
    }
}

fn basic(
    name: &'static str,
    kernel: &'static str,
    grid: u32,
    block: u32,
    make: impl FnOnce(&mut Machine) -> Vec<Arg>,
) -> Option<Row> {
    let module = compile(BASIC, "compute_121a")?;
    let mut machine = Machine::new();
    let args = make(&mut machine);
    Some(Row { name, module, kernel, config: LaunchConfig::new(grid, block), machine, args })
}

fn gemm(name: &'static str, kernel: &'static str, p: &Problem) -> Option<Row> {
    let module = compile(&format!("{HELPERS}{GEMM}"), "compute_121a")?;
    let mut machine = Machine::new();
    let c = machine.alloc(4 * (p.m * p.n) as u64).ok()?;
    let mut args: Vec<Arg> = vec![c.into()];
    for data in [&p.a.bytes, &p.b.bytes, &p.a.scales, &p.b.scales] {
        if !data.is_empty() {
            args.push(machine.upload(data).ok()?.into());
        }
    }
    args.extend([(p.m as i32).into(), (p.n as i32).into(), (p.row_bytes() as i32).into()]);
    let config = LaunchConfig::new((p.n.div_ceil(64) as u32, p.m.div_ceil(64) as u32), 128);
    Some(Row { name, module, kernel, config, machine, args })
}

fn wgmma(name: &'static str, p: &Problem) -> Option<Row> {
    let module = compile(&format!("{HELPERS}{WGMMA}"), "compute_90a")?;
    let mut machine = Machine::new();
    let mut args: Vec<Arg> = vec![machine.alloc(4 * (p.m * p.n) as u64).ok()?.into()];
    for (x, rows) in [(&p.a, p.m), (&p.b, p.n)] {
        let at = machine.upload(&x.bytes).ok()?.address();
        let sizes = [p.k as u64, rows as u64];
        let strides = [p.row_bytes() as u64];
        let map = TensorMap::tiled(at, 2, &sizes, &strides, &[64, 64], Swizzle::B128).ok()?;
        args.push(Arg::from(&map));
    }
    args.extend([(p.m as i32).into(), (p.n as i32).into(), (p.row_bytes() as i32).into()]);
    let config = LaunchConfig::new((p.n.div_ceil(64) as u32, p.m.div_ceil(64) as u32), 256);
    let config = config.dynamic_shared(3 * 2 * 8192);
    Some(Row { name, module, kernel: "gemm_wgmma_bf16", config, machine, args })
}

fn attention() -> Option<Row> {
    let module = compile(&format!("{HELPERS}{ATTENTION}"), "compute_121a")?;
    let p = Problem::new(Format::Bf16, 256, 256, 64, 3);
    let mut machine = Machine::new();
    let mut args: Vec<Arg> = vec![machine.alloc(4 * 256 * 64).ok()?.into()];
    for data in [&p.a.bytes, &p.b.bytes, &p.b.bytes] {
        args.push(machine.upload(data).ok()?.into());
    }
    args.extend([256i32.into(), 256i32.into(), 0.125f32.into(), 0i32.into()]);
    let config = LaunchConfig::new(4, 128);
    Some(Row { name: "attention 256×256×64", module, kernel: "attention", config, machine, args })
}

fn rows() -> Vec<Option<Row>> {
    let floats = |n: usize| -> Vec<f32> { (0..n).map(|i| (i % 97) as f32).collect() };
    vec![
        basic("reduction of 2^20", "reduce", 16, 256, |m| {
            let x = upload_f32(m, &floats(1 << 20));
            vec![upload_f32(m, &[0.0]).into(), x.into(), (1i32 << 20).into()]
        }),
        basic("softmax 64 × 4096", "softmax", 64, 256, |m| {
            let x = upload_f32(m, &floats(64 * 4096));
            vec![upload_f32(m, &floats(64 * 4096)).into(), x.into(), 4096i32.into()]
        }),
        basic("histogram of 2^18", "histogram", 8, 256, |m| {
            let bytes: Vec<u8> = (0..1 << 18).map(|i| (i * i % 251) as u8).collect();
            let x = m.upload(&bytes).expect("memory");
            vec![upload_u32(m, &[0; 256]).into(), x.into(), (1i32 << 18).into()]
        }),
        basic("collatz (divergent)", "collatz", 16, 256, |m| {
            vec![upload_u32(m, &[0; 4096]).into()]
        }),
        gemm("BF16 256×256×256", "gemm_bf16", &Problem::new(Format::Bf16, 256, 256, 256, 1)),
        gemm("FP8 256×256×512", "gemm_fp8", &Problem::new(Format::Fp8, 256, 256, 512, 1)),
        gemm("NVFP4 128×128×256", "gemm_nvfp4", &Problem::new(Format::Nvfp4, 128, 128, 256, 1)),
        gemm("NVFP4 256×256×1024", "gemm_nvfp4", &Problem::new(Format::Nvfp4, 256, 256, 1024, 1)),
        wgmma("wgmma BF16 256×256×256", &Problem::new(Format::Bf16, 256, 256, 256, 1)),
        attention(),
    ]
}

fn main() {
    println!(
        "{:24} {:>12} {:>14} {:>10} {:>10} {:>12}",
        "kernel", "warp instr.", "lane instr.", "checked", "M lanes/s", "unchecked"
    );
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for row in rows() {
        let Some(mut row) = row else { return };
        if !wanted.is_empty() && !wanted.iter().any(|w| row.name.contains(w.as_str())) {
            continue;
        }
        let (report, checked) = row.time(true);
        let (_, plain) = row.time(false);
        println!(
            "{:24} {:>12} {:>14} {:>8.1}ms {:>10.0} {:>12.0}",
            row.name,
            report.warp_instructions,
            report.lane_instructions,
            1e3 * checked,
            report.lane_instructions as f64 / checked / 1e6,
            report.lane_instructions as f64 / plain / 1e6,
        );
    }
}
