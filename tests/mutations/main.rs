//! The conformance suite finds kernels that are wrong: each mutant is caught within the cases that
//! it runs by default, whatever the seed.
#![cfg(feature = "testing")]

mod elements;
mod mutant;
mod products;
mod rows;

use ferrocerium::Device;
use ferrocerium::op::OpKind;
use ferrocerium::testing::{Config, conformance};

use mutant::{Fault, Mutant, Named};

/// Fresh seeds that each mutant must be caught with.
const SEEDS: u64 = 3;

/// Runs mutants of an operation; each must fail, and one without a fault pass.
fn caught(op: OpKind, faults: Vec<Named>) {
    let device = Device::reference();
    let names: Vec<String> =
        faults.iter().map(|(name, _)| format!("mutant.{}.{name}", op.name())).collect();
    for fault in faults {
        device.registry().register(Mutant::new(op, fault)).unwrap();
    }
    device.registry().register(Mutant::new(op, ("none", Fault::None))).unwrap();
    let seed = Config::default().seed;
    let mut survivors = Vec::new();
    for run in 0..SEEDS {
        let config = Config { seed: seed.wrapping_add(run << 32), ..Config::default() };
        let report = conformance(&device, |kernel| names.contains(&kernel.name), &config);
        for kernel in &report.kernels {
            match &kernel.failure {
                Some(failure) => {
                    // Caught by its result, not for breaking down.
                    assert!(!failure.reason.contains("panicked"), "{report}");
                    println!("{:<60} {:>4}", kernel.name, failure.seed.wrapping_sub(config.seed));
                }
                None => survivors.push(format!("{} with seed {}", kernel.name, config.seed)),
            }
        }
    }
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
    let control = format!("mutant.{}.none", op.name());
    let report = conformance(&device, |kernel| kernel.name == control, &Config::quick());
    assert!(report.passed(), "{report}");
}

#[test]
fn wrong_gemms_are_caught() {
    caught(OpKind::Gemm, products::gemm());
}

#[test]
fn wrong_grouped_gemms_are_caught() {
    caught(OpKind::GroupedGemm, products::grouped_gemm());
}

#[test]
fn wrong_attention_is_caught() {
    caught(OpKind::Attention, rows::attention());
}

#[test]
fn wrong_norms_are_caught() {
    caught(OpKind::Norm, rows::norm());
}

#[test]
fn wrong_rotations_are_caught() {
    caught(OpKind::Rope, rows::rope());
}

#[test]
fn wrong_softmaxes_are_caught() {
    caught(OpKind::Softmax, rows::softmax());
}

#[test]
fn wrong_searches_are_caught() {
    caught(OpKind::TopK, rows::top_k());
    caught(OpKind::ArgReduce, rows::arg_reduce());
}

#[test]
fn wrong_functions_are_caught() {
    caught(OpKind::Elementwise, elements::elementwise());
}

#[test]
fn wrong_reductions_are_caught() {
    caught(OpKind::Reduce, elements::reduce());
}

#[test]
fn wrong_gathers_are_caught() {
    caught(OpKind::Gather, elements::gather());
    caught(OpKind::Scatter, elements::scatter());
}

#[test]
fn wrong_conversions_are_caught() {
    caught(OpKind::Convert, elements::convert());
}

#[test]
fn a_failing_seed_repeats_its_case_at_once() {
    let device = Device::reference();
    device.registry().register(Mutant::new(OpKind::Norm, rows::norm().swap_remove(0))).unwrap();
    let run = |config: &Config| {
        let report = conformance(&device, |kernel| kernel.name.starts_with("mutant."), config);
        (report.to_string(), report.kernels[0].failure.clone().unwrap())
    };
    let (report, failure) = run(&Config::default());
    assert!(report.contains(&format!("FERROCERIUM_SEED={}", failure.seed)), "{report}");
    let (_, again) = run(&Config { cases: 1, seed: failure.seed });
    assert_eq!((again.seed, again.case), (failure.seed, failure.case));
}
