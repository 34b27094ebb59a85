//! KERNELS.md lists the kernels that there are.
#![cfg(feature = "cpu")]

use std::fmt::Write;

use ferrocerium::Device;
use ferrocerium::registry::{KernelInfo, KernelRegistry};

/// The rows of the kernels that are meant to be chosen.
fn rows(registry: &KernelRegistry) -> String {
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let mut rows = String::new();
    for kernel in registry.list().iter().filter(|k| !k.name.starts_with("reference.")) {
        let KernelInfo { name, op, summary, numerics, deterministic, batch_invariant, .. } = kernel;
        let (runs, rows_alone) = (yes_no(*deterministic), yes_no(*batch_invariant));
        let op = op.name();
        writeln!(rows, "| `{name}` | {op} | {summary} | {numerics} | {runs} | {rows_alone} |")
            .unwrap();
    }
    rows
}

/// The rows of a table whose kernel is of that backend.
fn rows_of(table: &str, backend: &str) -> String {
    let start = format!("| `{backend}.");
    table.split_inclusive('\n').filter(|row| row.starts_with(&start)).collect()
}

#[test]
fn the_table_of_kernels_is_that_of_the_registries() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/KERNELS.md");
    let file = std::fs::read_to_string(path).unwrap();
    let head = file.find("|---|").map_or(file.len(), |at| at + file[at..].find('\n').unwrap() + 1);
    let mut wanted = file[..head].to_owned() + &rows(Device::cpu().registry());
    // Without NVRTC there is no telling: those rows stay as they are.
    #[cfg(feature = "emulator")]
    match Device::emulated(ferrocerium::caps::Arch::SM121A) {
        Ok(gpu) => wanted += &rows(gpu.registry()),
        Err(_) => wanted += &rows_of(&file, "cuda"),
    }
    #[cfg(not(feature = "emulator"))]
    {
        wanted += &rows_of(&file, "cuda");
    }
    if std::env::var_os("FERROCERIUM_BLESS").is_some() {
        std::fs::write(path, &wanted).unwrap();
    } else {
        let how =
            "FERROCERIUM_BLESS=1 cargo test --all-features --test kernel_table writes it anew";
        assert!(file == wanted, "KERNELS.md is out of date: {how}\n{wanted}");
    }
}
