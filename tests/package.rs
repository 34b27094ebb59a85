//! What is published: all that users build, run and read, and nothing that only this repository
//! needs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The files `cargo package` would put into the crate.
fn packaged() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["package", "--list", "--allow-dirty", "--offline", "--package", "ferrocerium"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .output()
        .expect("cargo runs, as it built this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|l| l.replace('\\', "/")).collect()
}

/// The files below a folder of this package, with their paths in it.
fn files_below(folder: &str, found: &mut Vec<String>) {
    let Ok(entries) = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).read_dir() else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let name = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            files_below(&name, found);
        } else {
            found.push(name);
        }
    }
}

#[test]
fn everything_users_build_run_and_read_is_published() {
    let packaged = packaged();
    let mut wanted: Vec<String> =
        ["Cargo.toml", "README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"]
            .map(str::to_owned)
            .into();
    for folder in ["src", "kernels", "examples"] {
        files_below(folder, &mut wanted);
    }
    let missing: Vec<_> = wanted.iter().filter(|file| !packaged.contains(*file)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn nothing_that_only_the_repository_needs_is_published() {
    let private = [".ci/", ".cargo/", "xtask/", "ptx-vm/", "cuda-vm/", "target/", "tests/"];
    let packaged = packaged();
    let extra: Vec<_> =
        packaged.iter().filter(|file| private.iter().any(|p| file.starts_with(p))).collect();
    assert!(extra.is_empty(), "{extra:?}");
}
