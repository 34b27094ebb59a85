//! The side of the crate that calls NVIDIA's driver, on machines without a GPU: the tests of
//! `hardware` in another process, where the stand-in of `cuda-vm` is found instead of the driver.

use std::path::PathBuf;
use std::process::Command;

/// What the stand-in is told of the GPU that it is to be.
const CAPABILITY: &str = "CUDA_VM_CAPABILITY";

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

/// Runs the tests of `hardware` where the driver has a GPU of that capability.
fn hardware(capability: &str) {
    if !cfg!(target_os = "linux") || stands_in() {
        return;
    }
    let Some(library) = library() else {
        assert!(std::env::var("CI").is_err(), "no stand-in of the driver beside the tests");
        return eprintln!("skipped: no stand-in of the driver beside the tests");
    };
    let folder = std::env::temp_dir()
        .join(format!("ferrocerium-driver-{}-{capability}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(library, folder.join("libcuda.so")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["hardware::", "--nocapture", "--test-threads=1"]);
    let output =
        command.env("LD_LIBRARY_PATH", &folder).env(CAPABILITY, capability).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let text = text.join("\n");
    println!("{text}");
    assert!(output.status.success(), "{}: its output is above", output.status);
    assert!(text.contains("results in managed memory"), "no GPU was found: its output is above");
}

#[test]
fn a_driver_of_sm_90a_is_called_as_it_wants_to_be() {
    hardware("9.0");
}

#[test]
fn a_driver_of_sm_121a_is_called_as_it_wants_to_be() {
    hardware("12.1");
}
