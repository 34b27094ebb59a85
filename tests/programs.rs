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

#[cfg(all(feature = "cuda", feature = "emulator", feature = "testing"))]
#[test]
fn a_gpu_kernel_of_ones_own_is_compiled_run_and_checked() {
    // Where there is no GPU, and no compiler for the emulator.
    if ferrocerium::Device::emulated(ferrocerium::caps::Arch::SM121A).is_ok() {
        let out = succeeds(&mut example("custom_gpu_kernel"));
        assert!(out.contains("\"mine.elementwise.add\": 1"), "{out}");
        assert!(out.contains("worst error 0.000 of the bound"), "{out}");
    }
}

#[test]
fn gpu_info_measures_the_memory_of_a_device() {
    let info = |device: &str| {
        let mut command = example("gpu_info");
        command.args(["--device", device, "--mib", "1", "--runs", "1"]);
        command
    };
    // The kinds of memory in the order of the table, each with those of four rates that it has.
    let table = |device: &str| -> Vec<(String, usize)> {
        let out = succeeds(&mut info(device));
        let rows = out.lines().skip_while(|line| !line.contains("device reads")).skip(1);
        let rows = rows.take_while(|line| !line.is_empty()).map(|row| {
            let mut words = row.split_whitespace();
            let kind = words.next().unwrap().to_owned();
            let rates: Vec<f64> = words.filter_map(|rate| rate.parse().ok()).collect();
            // An emulator's are nothing, to two places.
            let emulated = device.starts_with("emulated");
            assert!(emulated || rates.iter().all(|&rate| rate > 0.0), "{out}");
            (kind, rates.len())
        });
        rows.collect()
    };
    let all = |kinds: &[(&str, usize)]| -> Vec<(String, usize)> {
        kinds.iter().map(|&(kind, rates)| (kind.to_owned(), rates)).collect()
    };
    let cpu = [("host", 4), ("mapped", 4), ("pinned", 0), ("managed", 0)];
    assert_eq!(table("cpu"), all(&cpu));
    #[cfg(feature = "emulator")]
    if ferrocerium::Device::emulated(ferrocerium::caps::Arch::SM121A).is_ok() {
        let shared = [("host", 4), ("mapped", 4), ("pinned", 4), ("managed", 4), ("device", 3)];
        assert_eq!(table("emulated:sm_121a"), all(&shared));
        let discrete = [("device", 3), ("pinned", 4), ("managed", 4)];
        assert_eq!(table("emulated:sm_90a:discrete"), all(&discrete));
    }
    let (output, out, err) = program::finish(&mut info("gpu"));
    assert_eq!((output.status.code(), out.as_str()), (Some(2), ""), "{err}");
    assert!(err.contains("no device is called so") && err.contains("cpu"), "{err}");
    #[cfg(feature = "cuda")]
    if ferrocerium::Device::cuda_count() == 0 {
        program::fails(&mut info("cuda:0"), &["cuda:0", "libcuda.so.1", "library path"]);
    }
}
