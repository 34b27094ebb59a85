//! Matrix products and attention compiled by NVRTC for each target, against the host within
//! bounds from arithmetic.

mod support;

use ptx_vm::{
    Arg, Arithmetic, Error, FaultKind, LaunchConfig, Machine, Module, Swizzle, TensorMap,
};
use support::operands::*;
use support::*;

const HELPERS: &str = include_str!("kernels/matrix.cuh");
const GEMM: &str = include_str!("kernels/gemm.cu");
const WGMMA: &str = include_str!("kernels/wgmma.cu");
const ATTENTION: &str = include_str!("kernels/attention.cu");

fn module(source: &str, arch: &str) -> Option<Module> {
    compile(&format!("{HELPERS}{source}"), arch)
}

/// Runs a kernel over tiles of 64 × 64 of C.
fn launch(
    module: &Module,
    kernel: &str,
    p: &Problem,
    arithmetic: Arithmetic,
    threads: u32,
    operands: impl Fn(&mut Machine) -> Vec<Arg>,
) -> Result<Vec<f32>, Error> {
    let mut machine = Machine::new();
    machine.set_arithmetic(arithmetic);
    let c = machine.alloc(4 * (p.m * p.n) as u64)?;
    let mut args = vec![c.into()];
    args.extend(operands(&mut machine));
    args.extend([(p.m as i32).into(), (p.n as i32).into(), (p.row_bytes() as i32).into()]);
    let grid = (p.n.div_ceil(64) as u32, p.m.div_ceil(64) as u32);
    let config = LaunchConfig::new(grid, threads);
    let config = config.dynamic_shared(if threads == 256 { 3 * 2 * 8192 } else { 0 });
    machine.launch(module, kernel, &config, &args)?;
    Ok(read_f32(&machine, c, p.m * p.n))
}

fn uploaded(p: &Problem) -> impl Fn(&mut Machine) -> Vec<Arg> + '_ {
    |m| {
        let data = [&p.a.bytes, &p.b.bytes, &p.a.scales, &p.b.scales];
        data.iter().filter(|d| !d.is_empty()).map(|d| m.upload(d).expect("memory").into()).collect()
    }
}

/// Tensor maps of A and B: boxes of 64 rows of 128 bytes.
fn mapped(p: &Problem) -> impl Fn(&mut Machine) -> Vec<Arg> + '_ {
    |m| {
        let element = p.format.bits() / 8;
        let mut map = |x: &Operand, rows: usize| {
            let at = m.upload(&x.bytes).expect("memory").address();
            let map = TensorMap::tiled(
                at,
                element as u32,
                &[p.k as u64, rows as u64],
                &[p.row_bytes() as u64],
                &[(128 / element) as u32, 64],
                Swizzle::B128,
            );
            Arg::from(&map.expect("a legal map"))
        };
        vec![map(&p.a, p.m), map(&p.b, p.n)]
    }
}

/// Elementwise: C differs from the exact product by at most the roundings of the steps along
/// k, each relative to the sum of magnitudes.
fn check(p: &Problem, c: &[f32], steps: usize, unit: f64) {
    let gamma = steps as f64 * unit / (1.0 - steps as f64 * unit);
    for row in 0..p.m {
        for col in 0..p.n {
            let (want, magnitude) = p.exact(row, col);
            let got = f64::from(c[row * p.n + col]);
            assert!(
                (got - want).abs() <= gamma * magnitude,
                "{:?} row {row} column {col}: {got}, want {want}",
                p.format
            );
        }
    }
}

/// One rounding to nearest of each step in f32.
const NEAREST: f64 = 1.0 / (1u64 << 24) as f64;

#[test]
fn bf16_products_hold_on_every_target() {
    for arch in ["compute_80", "compute_90a", "compute_121a"] {
        let Some(module) = module(GEMM, arch) else { return };
        for (m, n, k) in [(64, 64, 64), (70, 45, 136), (1, 9, 8), (130, 64, 32)] {
            let p = Problem::new(Format::Bf16, m, n, k, 7);
            let c = launch(&module, "gemm_bf16", &p, Arithmetic::Exact, 128, uploaded(&p));
            check(&p, &c.unwrap_or_else(|e| panic!("{arch}: {e}")), k.div_ceil(16), NEAREST);
        }
    }
}

#[test]
fn fp8_products_hold_on_hopper_and_gb10() {
    for arch in ["compute_90a", "compute_121a"] {
        let Some(module) = module(GEMM, arch) else { return };
        for (m, n, k) in [(64, 64, 128), (33, 71, 208)] {
            let p = Problem::new(Format::Fp8, m, n, k, 8);
            let c = launch(&module, "gemm_fp8", &p, Arithmetic::Exact, 128, uploaded(&p));
            check(&p, &c.unwrap_or_else(|e| panic!("{arch}: {e}")), k.div_ceil(32), NEAREST);
        }
    }
}

#[test]
fn nvfp4_products_hold_on_gb10() {
    let Some(module) = module(GEMM, "compute_121a") else { return };
    for (m, n, k) in [(64, 64, 256), (50, 67, 320), (128, 128, 256)] {
        let p = Problem::new(Format::Nvfp4, m, n, k, 9);
        let c = launch(&module, "gemm_nvfp4", &p, Arithmetic::Exact, 128, uploaded(&p));
        check(&p, &c.unwrap_or_else(|e| panic!("{e}")), k.div_ceil(64), NEAREST);
    }
}

#[test]
fn products_hold_in_hardware_arithmetic_within_its_coarser_unit() {
    // Cut instead of rounded: every term of a step loses at most a unit of the grid, which
    // lies 24 bits or more below the largest term; the result at most one unit.
    for (arch, format, kernel, step) in [
        ("compute_80", Format::Bf16, "gemm_bf16", 8),
        ("compute_90a", Format::Bf16, "gemm_bf16", 16),
        ("compute_121a", Format::Fp8, "gemm_fp8", 32),
        ("compute_121a", Format::Nvfp4, "gemm_nvfp4", 64),
    ] {
        let Some(module) = module(GEMM, arch) else { return };
        let p = Problem::new(format, 64, 64, 256, 10);
        let c = launch(&module, kernel, &p, Arithmetic::Hardware, 128, uploaded(&p));
        let unit = (2.0 + 2.0 * (step + 1) as f64) * NEAREST;
        check(&p, &c.unwrap_or_else(|e| panic!("{arch}: {e}")), 256 / step, unit);
    }
}

#[test]
fn products_fed_by_the_tensor_memory_accelerator_hold() {
    for arch in ["compute_90a", "compute_121a"] {
        let Some(module) = module(GEMM, arch) else { return };
        for (m, n, k) in [(64, 64, 64), (70, 45, 200), (128, 100, 256)] {
            let p = Problem::new(Format::Bf16, m, n, k, 11);
            let c = launch(&module, "gemm_tma", &p, Arithmetic::Exact, 128, mapped(&p));
            check(&p, &c.unwrap_or_else(|e| panic!("{arch}: {e}")), k.div_ceil(16), NEAREST);
        }
    }
}

#[test]
fn wgmma_products_hold_with_a_producer_and_consumers() {
    let Some(module) = module(WGMMA, "compute_90a") else { return };
    for (format, kernel, step) in
        [(Format::Bf16, "gemm_wgmma_bf16", 16), (Format::Fp8, "gemm_wgmma_fp8", 32)]
    {
        for (m, n, k) in [(64, 64, 64), (100, 72, 304), (64, 128, 640)] {
            let p = Problem::new(format, m, n, k, 12);
            let c = launch(&module, kernel, &p, Arithmetic::Exact, 256, mapped(&p));
            check(&p, &c.unwrap_or_else(|e| panic!("{e}")), k.div_ceil(step), NEAREST);
        }
    }
}

#[test]
fn a_wgmma_kernel_that_frees_buffers_too_early_is_reported() {
    let Some(module) = module(&format!("#define NO_WAIT\n{WGMMA}"), "compute_90a") else { return };
    let p = Problem::new(Format::Bf16, 64, 64, 640, 13);
    let c = launch(&module, "gemm_wgmma_bf16", &p, Arithmetic::Exact, 256, mapped(&p));
    let Err(Error::Fault(f)) = c else { panic!("no fault") };
    assert!(matches!(f.kind, FaultKind::PendingMma { .. }), "{f}");
}

#[test]
fn flash_attention_agrees_with_softmax_in_f64() {
    for arch in ["compute_80", "compute_90a", "compute_121a"] {
        let Some(module) = module(ATTENTION, arch) else { return };
        for (queries, keys, causal) in [(64, 64, false), (70, 45, false), (50, 50, true)] {
            let q = Problem::new(Format::Bf16, queries, keys, 64, 14);
            let v = Problem::new(Format::Bf16, keys, 1, 64, 15);
            let mut m = Machine::new();
            let mut up = |b: &[u8]| m.upload(b).expect("memory");
            let (dq, dk, dv) = (up(&q.a.bytes), up(&q.b.bytes), up(&v.a.bytes));
            let out = m.alloc(4 * 64 * queries as u64).expect("memory");
            let scale = 0.125f32;
            let args = [
                out.into(),
                dq.into(),
                dk.into(),
                dv.into(),
                (queries as i32).into(),
                (keys as i32).into(),
                scale.into(),
                i32::from(causal).into(),
            ];
            let config = LaunchConfig::new(queries.div_ceil(64) as u32, 128);
            m.launch(&module, "attention", &config, &args)
                .unwrap_or_else(|e| panic!("{arch}: {e}"));
            let got = read_f32(&m, out, 64 * queries);
            for row in 0..queries {
                let seen = if causal { row + 1 } else { keys };
                let scores: Vec<(f64, f64)> = (0..seen).map(|j| q.exact(row, j)).collect();
                let top = scores.iter().map(|s| s.0).fold(f64::MIN, f64::max);
                let e: Vec<f64> = scores.iter().map(|s| ((s.0 - top) * 0.125).exp()).collect();
                let total: f64 = e.iter().sum();
                // A score's rounding (4 steps, two products) moves its weight by as much; the
                // weight is rounded to bf16 for the product, sums and rescaling to f32.
                let moved = scores.iter().map(|s| s.1).fold(0.0, f64::max) * 0.125;
                let unit = 2f64.powi(-8)
                    + 2.0 * 8.0 * NEAREST * (moved + 1.0)
                    + (4 * keys.div_ceil(32) + 32 + 8) as f64 * NEAREST;
                for d in 0..64 {
                    let (mut want, mut magnitude) = (0.0, 0.0);
                    for (j, w) in e.iter().enumerate() {
                        let x = v.a.value(v.format, 64, j, d);
                        want += w / total * x;
                        magnitude += w / total * x.abs();
                    }
                    let err = (f64::from(got[row * 64 + d]) - want).abs();
                    assert!(err <= unit * magnitude, "{arch} {row} {d}: {err} {magnitude}");
                }
            }
        }
    }
}
