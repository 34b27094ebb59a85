//! Every kernel of the CPU device against the reference.
#![cfg(all(feature = "cpu", feature = "testing"))]

use ferrocerium::Device;
use ferrocerium::testing::{Config, conformance};

#[test]
fn every_cpu_kernel_agrees_with_the_reference_within_the_bound_of_its_arithmetic() {
    let device = Device::builder().threads(2).cpu().unwrap();
    let config = Config { cases: 400, ..Config::default() };
    let report = conformance(&device, |kernel| kernel.name.starts_with("cpu."), &config);
    println!("{report}");
    assert!(report.passed(), "{report}");
    assert!(report.kernels.iter().all(|kernel| !kernel.not_covered), "{report}");
}

#[test]
fn the_reference_passes_its_own_bounds() {
    // In f64 it is far inside the bounds of f32, but for the rounding of outputs.
    let config = Config { cases: 100, ..Config::default() };
    let report = conformance(&Device::reference(), |_| true, &config);
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
