//! The examples that the README sends its readers to.
#![allow(missing_docs)]

#[path = "common/program.rs"]
mod program;

use program::{example, succeeds};

#[test]
fn the_quickstart_runs_and_explains_itself() {
    let out = succeeds(&mut example("quickstart"));
    assert!(out.contains("bytes instead of 65536"), "{out}");
    assert!(out.contains("y[3, 0] = ") && out.contains("y4[3, 0] = "), "{out}");
    assert!(out.lines().filter(|line| line.starts_with('→')).count() == 1, "{out}");
}

#[test]
fn the_environment_forces_kernels_and_slips_in_it_are_errors() {
    let force = |names: &str| {
        let mut command = example("quickstart");
        command.env("FERROCERIUM_KERNEL", names);
        command
    };
    let out = succeeds(&mut force(" reference.gemm ,reference.convert"));
    assert!(out.contains("→ reference.gemm  runs: forced by FERROCERIUM_KERNEL"), "{out}");
    assert!(succeeds(&mut force("cuda.gemm.sm_121a")).contains("least estimated time"));
    let (_, out, err) = program::finish(&mut force("reference.gem"));
    assert!(err.contains("`reference.gem`") && err.contains("no such kernel"), "{out}\n{err}");
}

#[test]
fn a_kernel_of_ones_own_is_chosen_forced_disabled_and_replaced() {
    let out = succeeds(&mut example("custom_kernel"));
    let choices: Vec<_> = out.lines().filter(|line| line.starts_with('→')).collect();
    assert_eq!(choices.len(), 3, "{out}");
    assert!(choices[0].contains("mine.gather.copy_rows") && choices[0].contains("least"), "{out}");
    assert!(choices[1].contains("reference.gather") && choices[1].contains("forced"), "{out}");
    assert!(!choices[2].contains("mine."), "{out}");
    assert!(out.contains("no: disabled") && out.contains("second version"), "{out}");
    #[cfg(feature = "testing")]
    assert!(out.contains("worst error 0.000 of the bound"), "{out}");
}

#[test]
fn gpu_info_measures_the_memory_of_a_device() {
    let info = |device: &str| {
        let mut command = example("gpu_info");
        command.args(["--device", device, "--mib", "1", "--runs", "1"]);
        command
    };
    let out = succeeds(&mut info("cpu"));
    for kind in ["host", "mapped"] {
        let row =
            out.lines().find(|line| line.starts_with(kind)).unwrap_or_else(|| panic!("{out}"));
        let rates: Vec<f64> = row.split_whitespace().skip(1).map(|x| x.parse().unwrap()).collect();
        assert!(rates.len() == 4 && rates.iter().all(|&rate| rate > 0.0), "{row}");
    }
    program::fails(&mut info("gpu"), &["--device gpu", "cpu"]);
}
