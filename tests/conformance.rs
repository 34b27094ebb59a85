//! Every kernel of the CPU device, and the reference itself, in the conformance suite.
#![cfg(all(feature = "cpu", feature = "testing"))]

use ferrocerium::Device;
use ferrocerium::caps::Isa;
use ferrocerium::registry::KernelInfo;
use ferrocerium::testing::{Config, Report, conformance};

/// The instruction sets that a device may be held to; those that the machine lacks fall away.
const LEVELS: [&[Isa]; 4] = [
    &[],
    &[Isa::Avx2Fma, Isa::Neon],
    &[Isa::Avx2Fma, Isa::Avx512, Isa::Neon, Isa::NeonDot],
    &[Isa::Avx2Fma, Isa::Avx512, Isa::Avx512Vnni, Isa::Neon, Isa::NeonDot, Isa::NeonI8mm],
];

fn is_cpu(kernel: &KernelInfo) -> bool {
    kernel.name.starts_with("cpu.")
}

/// Runs the CPU kernels at a level, and expects them to pass.
fn run(isa: &[Isa], cases: u32) -> Report {
    let device = Device::builder().isa(isa).threads(2).cpu().unwrap();
    let report = conformance(&device, is_cpu, &Config::cases(cases));
    println!("{:?}\n{report}", device.caps().isa);
    assert!(report.passed(), "{report}");
    report
}

#[test]
fn every_cpu_kernel_agrees_with_the_reference_within_the_bound_of_its_arithmetic() {
    run(LEVELS[3], 300);
}

#[test]
fn so_it_does_at_lower_instruction_set_levels() {
    LEVELS[..3].iter().for_each(|isa| _ = run(isa, 100));
}

#[test]
#[ignore = "takes minutes"]
fn so_it_does_in_a_hundred_thousand_cases() {
    let kernels = Device::cpu().registry().list().iter().filter(|kernel| is_cpu(kernel)).count();
    let each = 100_000u32.div_ceil((kernels * LEVELS.len()) as u32);
    let ran: u32 = LEVELS.iter().flat_map(|isa| run(isa, each).kernels).map(|k| k.cases).sum();
    println!("{ran} cases");
    assert!(ran >= 100_000);
}

#[test]
fn the_reference_passes_its_own_bounds() {
    // In f64 it is far inside the bounds of f32, but for the rounding of outputs.
    let report = conformance(&Device::reference(), |_| true, &Config::cases(100));
    println!("{report}");
    assert!(report.passed(), "{report}");
}

#[test]
#[ignore = "takes minutes"]
fn so_does_it_in_ten_thousand_cases_an_operation() {
    let report = conformance(&Device::reference(), |_| true, &Config::cases(10_000));
    println!("{report}");
    assert!(report.passed(), "{report}");
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let run = || {
        let config = Config { cases: 20, seed: 7 };
        conformance(&Device::cpu(), |kernel| kernel.name == "cpu.gemm", &config).to_string()
    };
    assert_eq!(run(), run());
}
