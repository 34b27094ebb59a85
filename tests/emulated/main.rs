//! GPU kernels on the emulator: they compile for every target, agree with the reference, and the
//! emulator finds nothing wrong with them. Where the machine has a GPU, they do so there too.
#![cfg(all(feature = "emulator", feature = "testing"))]

mod attention;
mod compile;
#[cfg(feature = "cuda")]
mod driver;
mod edges;
#[path = "../common/folder.rs"]
#[cfg(all(feature = "cpu", feature = "gguf", feature = "safetensors"))]
mod folder;
mod gemm;
#[path = "../common/gguf_file.rs"]
#[cfg(all(feature = "cpu", feature = "gguf", feature = "safetensors"))]
mod gguf_file;
mod graphs;
#[cfg(feature = "cuda")]
mod hardware;
#[cfg(all(feature = "cpu", feature = "gguf", feature = "safetensors"))]
mod load;
mod memory;
mod norm;
mod own_kernel;
mod reduce;
mod scatter;
mod streams;
#[path = "../common/tensors.rs"]
mod tensors;

use ferrocerium::Device;
use ferrocerium::backend::cuda::{self, Gpu};
use ferrocerium::caps::{Arch, Caps, Isa, MemoryKind};
use ferrocerium::op::OpKind;
use ferrocerium::registry::{KernelInfo, Numerics};
use ferrocerium::testing::{Config, conformance};

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

/// Every kernel of a device, by a share of the cases.
fn conforms(device: &Device, share: u32) {
    let check = |cases: u32, runs: &dyn Fn(&KernelInfo) -> bool| {
        let config = Config { cases: cases / share, ..Config::default() };
        let report = conformance(device, |k| k.name.starts_with("cuda.") && runs(k), &config);
        println!("{report}");
        assert!(report.passed(), "{report}");
    };
    let block_scaled = |kernel: &KernelInfo| kernel.name.ends_with(".block_scaled");
    // Each case of these is a program of its own, and not a small one.
    let flash = |kernel: &KernelInfo| {
        ["cuda.attention.decode", "cuda.attention.prefill"]
            .iter()
            .any(|n| kernel.name.starts_with(n))
    };
    check(30, &|kernel| !block_scaled(kernel) && !flash(kernel));
    check(12, &|kernel| flash(kernel) && kernel.numerics < Numerics::NarrowedOperands);
    if device.caps().has(Isa::MmaBlockScaled) {
        // Few pairs of operands are of their formats: with as many draws they get enough.
        check(50, &block_scaled);
    }
}

#[test]
fn every_kernel_agrees_with_the_reference_on_sm_90a() {
    emulated(Arch::SM90A).iter().for_each(|device| conforms(device, 1));
}

#[test]
fn every_kernel_agrees_with_the_reference_on_sm_121a() {
    emulated(Arch::SM121A).iter().for_each(|device| conforms(device, 1));
}

#[test]
fn attention_that_narrows_operands_agrees_with_the_reference_on_sm_121a() {
    emulated(Arch::SM121A).iter().for_each(narrowing_conforms);
}

/// The kernels of attention that narrow operands, where the device has them.
fn narrowing_conforms(device: &Device) {
    let config = Config { cases: 12, ..Config::default() };
    let narrows = |kernel: &KernelInfo| {
        kernel.op == OpKind::Attention && kernel.numerics >= Numerics::NarrowedOperands
    };
    let report = conformance(device, narrows, &config);
    println!("{report}");
    assert!(report.passed(), "{report}");
}

#[test]
fn every_kernel_agrees_with_the_reference_in_memory_that_the_host_can_not_touch() {
    memory::discrete().iter().for_each(|device| conforms(device, 5));
}

#[test]
fn zero_threads_are_refused() {
    let error = Device::builder().threads(0).emulated(Arch::SM90A).unwrap_err().to_string();
    assert!(error.contains("threads"), "{error}");
}

#[test]
fn programs_are_compiled_ahead_together() {
    if emulated(Arch::SM121A).is_none() {
        return;
    }
    let gpu = Gpu::emulated(Arch::SM121A, 1).unwrap();
    let programs = cuda::programs(&Caps::gpu(Arch::SM121A, 48, &[MemoryKind::Host]));
    let some = &programs[programs.len() - 3..];
    gpu.prepare(some).unwrap();
    let ahead: Vec<_> = some.iter().map(|program| gpu.module(program).unwrap()).collect();
    // They are there: nothing is loaded a second time.
    gpu.prepare(some).unwrap();
    assert_eq!(ahead, some.iter().map(|p| gpu.module(p).unwrap()).collect::<Vec<_>>());
    let broken = cuda::Program { name: "broken.cu", source: "int 1;", defines: Vec::new() };
    let error = gpu.prepare(&[some[0].clone(), broken]).unwrap_err().to_string();
    assert!(error.contains("broken.cu"), "{error}");
}
