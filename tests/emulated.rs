//! GPU kernels on the emulator: they compile for every target, agree with the reference, and the
//! emulator finds nothing wrong with them.
#![cfg(all(feature = "emulator", feature = "testing"))]

use std::sync::Arc;

use ferrocerium::backend::cuda::{self, Gpu, Grid, Program};
use ferrocerium::caps::{Arch, Caps, MemoryKind};
use ferrocerium::op::{Op, OpKind};
use ferrocerium::registry::{Cost, Kernel, KernelInfo, Launch, Request, Unsupported};
use ferrocerium::testing::{Config, conformance};
use ferrocerium::{DType, Device, Tensor, bf16};

/// An emulated device, or `None` where there is no compiler: not in CI.
fn emulated(arch: Arch) -> Option<Device> {
    match Device::emulated(arch) {
        Ok(device) => Some(device),
        Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => panic!("{error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Values whose products and sums are exact in f32.
fn small([i, j]: [usize; 2]) -> bf16 {
    bf16::from_f32(((i * 7 + j * 3) % 11) as f32 - 5.0)
}

fn conforms(arch: Arch) {
    let Some(device) = emulated(arch) else { return };
    let config = Config { cases: 200, ..Config::default() };
    let report = conformance(&device, |kernel| kernel.name.starts_with("cuda."), &config);
    println!("{report}");
    assert!(report.passed(), "{report}");
}

#[test]
fn every_kernel_agrees_with_the_reference_on_sm_90a() {
    conforms(Arch::SM90A);
}

#[test]
fn every_kernel_agrees_with_the_reference_on_sm_121a() {
    conforms(Arch::SM121A);
}

#[test]
fn large_products_are_right_in_large_tiles() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    // 49 tiles of 128 × 128, those at the edges cut off; several slices along k, the last cut.
    let (m, n, k) = (800, 791, 290);
    let x = Tensor::from_fn(&device, [m, k], small).unwrap();
    let w = Tensor::from_fn(&device, [n, k], small).unwrap();
    let y: Tensor<f32, 2> = x.gemm(&w.t()).run().unwrap();
    assert_eq!(device.launches()["cuda.gemm"], 1);
    let y = y.host().unwrap();
    for i in (0..m).step_by(13) {
        for j in (0..n).step_by(7) {
            let dot: f32 = (0..k).map(|l| (small([i, l]) * small([j, l])).to_f32()).sum();
            assert_eq!(y[[i, j]], dot, "row {i}, column {j}");
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_others_whatever_the_tile() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let f = |[i, j]: [usize; 2]| bf16::from_f32(((i * 37 + j * 11) % 101) as f32 * 0.013 - 0.6);
    let w = Tensor::from_fn(&device, [70, 200], f).unwrap();
    let x = Tensor::from_fn(&device, [40, 200], f).unwrap();
    let product = |x: &Tensor<bf16, 2>| -> Vec<f32> {
        x.gemm(&w.t()).run::<f32>().unwrap().to_vec().unwrap()
    };
    let whole = product(&x);
    for row in [0, 17, 39] {
        let alone = product(&x.slice(0, row..row + 1).unwrap());
        assert_eq!(alone, whole[row * 70..(row + 1) * 70], "row {row}");
    }
}

#[test]
fn explain_says_why_a_gpu_kernel_does_not_run() {
    let Some(device) = emulated(Arch::SM90A) else { return };
    let x = Tensor::<f32, 2>::zeros(&device, [4, 8]).unwrap();
    let explanation = device.explain(&x.gemm(&x.t()).spec::<f32>().unwrap()).unwrap();
    assert_eq!(explanation.chosen().unwrap().name, "reference.gemm");
    let text = explanation.to_string();
    assert!(text.contains("cuda.gemm"), "{text}");
    assert!(text.contains("not [4, 8] f32"), "{text}");
}

#[test]
fn operations_of_several_threads_do_not_disturb_each_other() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let run = |n: usize| {
        let x = Tensor::from_fn(&device, [n, 40], small).unwrap();
        let y: Tensor<f32, 2> = x.gemm(&x.t()).run().unwrap();
        y.to_vec().unwrap()
    };
    let alone: Vec<_> = (1..5).map(run).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..5).map(|n| scope.spawn(move || run(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn zero_threads_are_refused() {
    let error = Device::builder().threads(0).emulated(Arch::SM90A).unwrap_err().to_string();
    assert!(error.contains("threads"), "{error}");
}

#[test]
fn kernels_compile_for_every_architecture() {
    let seed = Config::default().seed;
    println!("seed {seed} (FERROCERIUM_SEED repeats it)");
    for (number, arch) in Arch::ALL.into_iter().enumerate() {
        if emulated(arch).is_none() {
            return;
        }
        let gpu = Gpu::emulated(arch, 1).unwrap();
        let programs = cuda::programs(&Caps::gpu(arch, 48, &[MemoryKind::Host]));
        // A few of them each time, others for each architecture.
        let first = (seed as usize).wrapping_add(number) % STEP;
        for program in programs.iter().skip(first).step_by(STEP) {
            gpu.module(program).unwrap_or_else(|error| panic!("{arch}, {program:?}: {error}"));
        }
    }
}

/// Of how many programs one is compiled for every architecture.
const STEP: usize = 12;

/// A kernel of one's own: doubles f32 values, one block of threads more than there are values for
/// when `broken`.
struct Double {
    info: KernelInfo,
    gpu: Arc<Gpu>,
    broken: bool,
}

const DOUBLE: &str = r#"
struct Args { float* to; const float* from; };

extern "C" __global__ void twice(const __grid_constant__ Args args) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    args.to[i] = 2.0f * args.from[i];
}
"#;

impl Kernel for Double {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, op: &Op, _caps: &Caps) -> Result<(), Unsupported> {
        let fits = |dtype: Option<DType>| dtype == Some(DType::F32);
        match op {
            Op::Convert(op) if fits(op.src.dtype()) && fits(op.dst.dtype()) => Ok(()),
            _ => Err(Unsupported::because("doubles f32")),
        }
    }

    fn cost(&self, _op: &Op, _caps: &Caps) -> Cost {
        Cost { seconds: 0.0 }
    }

    fn launch(&self, launch: &Launch<'_>) -> ferrocerium::Result<()> {
        let Op::Convert(op) = launch.op else { panic!("{}", launch.op) };
        let program = Program { name: "double.cu", source: DOUBLE, defines: Vec::new() };
        let module = self.gpu.module(&program)?;
        let mut call = self.gpu.call("test.double", launch);
        let to = call.output(op.dst.regions().next().unwrap())?;
        let from = call.input(op.src.regions().next().unwrap())?;
        let blocks = op.dst.dims().numel()? as u32 / 32 + u32::from(self.broken);
        let args = [to.to_le_bytes(), from.to_le_bytes()].concat();
        call.run(module, "twice", Grid { blocks, threads: 32, shared_memory: 0 }, &args)?;
        call.finish()
    }
}

/// Doubles 64 values by that kernel.
fn double(broken: bool) -> Option<ferrocerium::Result<Vec<f32>>> {
    let device = emulated(Arch::SM121A)?;
    let info = KernelInfo::new("test.double", OpKind::Convert, "doubles");
    let gpu = Gpu::emulated(Arch::SM121A, 1).unwrap();
    device.registry().register(Double { info, gpu, broken }).unwrap();
    let device = device.with_request(Request::kernel("test.double"));
    let x = Tensor::from_fn(&device, [64], |[i]| i as f32).unwrap();
    Some(x.cast::<f32>().and_then(|y| y.to_vec()))
}

#[test]
fn a_kernel_of_one_s_own_runs() {
    let Some(doubled) = double(false) else { return };
    assert_eq!(doubled.unwrap(), (0..64).map(|i| 2.0 * i as f32).collect::<Vec<_>>());
}

#[test]
fn what_a_kernel_does_wrong_is_an_error_with_kernel_line_block_and_thread() {
    let Some(doubled) = double(true) else { return };
    let error = doubled.unwrap_err().to_string();
    for part in ["test.double", "`twice`", "double.cu:6", "block (2, 0, 0)", "thread (0, 0, 0)"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert!(error.contains("read of 4 bytes") && error.contains("outside"), "{error}");
}
