//! The side of the crate that calls NVIDIA's driver, on machines without a GPU: the tests of
//! `hardware`, and one that loses the GPU, in other processes, where the stand-in of `cuda-vm` is
//! found instead of the driver.

use std::path::PathBuf;
use std::process::Command;

use ferrocerium::caps::MemoryKind;
use ferrocerium::{Device, Error, Tensor};

/// What the stand-in is told of the GPU that it is to be.
const CAPABILITY: &str = "CUDA_VM_CAPABILITY";

/// Which launch is to fault.
const FAULT: &str = "CUDA_VM_FAULT";

/// Whether this process has the stand-in as its driver.
pub fn stands_in() -> bool {
    std::env::var_os(CAPABILITY).is_some()
}

/// The stand-in, which is built beside the tests.
fn library() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.parent()?.to_owned();
    let name = format!("{}cuda_vm{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    Some(beside.join(name)).filter(|path| path.is_file())
}

/// Runs tests where the driver has a GPU of that capability: what they print, unless there is no
/// stand-in.
fn run(capability: &str, tests: &[&str], variables: &[(&str, &str)]) -> Option<String> {
    if !cfg!(target_os = "linux") || stands_in() {
        return None;
    }
    let Some(library) = library() else {
        assert!(std::env::var("CI").is_err(), "no stand-in of the driver beside the tests");
        eprintln!("skipped: no stand-in of the driver beside the tests");
        return None;
    };
    let folder = std::env::temp_dir().join(format!(
        "ferrocerium-driver-{}-{capability}-{}",
        std::process::id(),
        variables.len()
    ));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(library, folder.join("libcuda.so")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(tests).args(["--nocapture", "--test-threads=1"]);
    command.env("LD_LIBRARY_PATH", &folder).env(CAPABILITY, capability);
    let output = command.envs(variables.iter().copied()).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let text = text.join("\n");
    println!("{text}");
    assert!(output.status.success(), "{}: its output is above", output.status);
    Some(text)
}

/// Runs the tests of `hardware`.
fn hardware(capability: &str) {
    if let Some(text) = run(capability, &["hardware::"], &[]) {
        let found = text.contains("results in managed memory");
        assert!(found, "no GPU was found: its output is above");
    }
}

#[test]
fn a_driver_of_sm_90a_is_called_as_it_wants_to_be() {
    hardware("9.0");
}

#[test]
fn a_driver_of_sm_121a_is_called_as_it_wants_to_be() {
    hardware("12.1");
}

#[test]
fn a_gpu_whose_kernel_faulted_is_not_out_of_memory() {
    let test = "driver::after_a_fault_memory_is_an_error_of_the_device";
    if let Some(text) = run("9.0", &[test, "--exact", "--ignored"], &[(FAULT, "1")]) {
        assert!(text.contains("1 passed"), "it did not run: its output is above");
    }
}

#[test]
#[ignore = "its process has a stand-in of the driver, and loses it"]
fn after_a_fault_memory_is_an_error_of_the_device() {
    if !stands_in() || std::env::var_os(FAULT).is_none() {
        return;
    }
    let device = Device::cuda(0).unwrap();
    let x = Tensor::full(&device, [64], 1.0f32).unwrap();
    let more = |x: &Tensor<f32, 1>| x.add_scalar(1.0).and_then(|y| y.to_vec());
    assert_eq!(more(&x).unwrap(), [2.0; 64]);
    let faulted = more(&x).unwrap_err();
    assert!(matches!(faulted, Error::Kernel { .. }), "{faulted:?}");

    let kinds = device.caps().memory_kinds.clone();
    let kinds = kinds.into_iter().filter(|&kind| kind != MemoryKind::Mapped);
    let mut refused: Vec<Error> = kinds
        .filter(|&kind| kind != MemoryKind::Host)
        .map(|kind| device.allocate_kind(kind, 100, "more").unwrap_err())
        .collect();
    assert!(refused.len() >= 3, "{refused:?}");
    refused.push(x.add_scalar(1.0).unwrap_err());
    for error in refused {
        assert!(matches!(error, Error::Device { .. }), "{error:?}");
        for part in ["cuda:0", "CUDA_ERROR_ILLEGAL_ADDRESS", "`Device::synchronize`", "restart"] {
            assert!(error.to_string().contains(part), "no {part:?} in {error}");
        }
    }
    // The host's memory is as it was, and the books are right.
    device.allocate_kind(MemoryKind::Host, 100, "host").unwrap();
    assert_eq!(device.memory().available(), 0, "{}", device.memory());
}
