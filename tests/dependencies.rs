//! What the crate pulls in: few crates, and no compiler but Rust's.

use std::collections::BTreeSet;
use std::process::Command;

/// Most crates the default features may depend on, for this machine.
const MOST: usize = 48;

/// Build tools that compile C or look for system libraries.
const TOOLS: [&str; 5] = ["bindgen", "cc", "cmake", "pkg-config", "vcpkg"];

/// The names of the crates that `cargo tree` finds with the lock file as it is.
fn crates(arguments: &[&str]) -> BTreeSet<String> {
    let tree = |network: &[&str]| {
        Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--prefix", "none", "--format", "{p}"])
            .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
            .args(network)
            .args(arguments)
            .output()
            .expect("cargo runs, as it built this test")
    };
    // Building all tests fetches what is needed here; building this one alone may not.
    let mut output = tree(&["--offline"]);
    if !output.status.success() {
        output = tree(&[]);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn needs_more_than_rust(name: &str) -> bool {
    // These two are declarations only, of kernel interfaces and of Windows' libraries.
    let declarations = matches!(name, "linux-raw-sys" | "windows-sys");
    TOOLS.contains(&name) || (name.ends_with("-sys") || name.ends_with("_sys")) && !declarations
}

#[test]
fn the_default_features_depend_on_few_crates() {
    let found = crates(&["--package", "ferrocerium", "--edges", "normal,build"]);
    assert!(found.contains("ferrocerium"), "{found:?}");
    assert!(found.len() <= MOST, "{} crates, at most {MOST}: {found:?}", found.len());
}

#[test]
fn no_feature_needs_a_c_compiler_or_a_system_library() {
    let found = crates(&["--package", "ferrocerium", "--all-features", "--edges", "normal,build"]);
    let faults: Vec<_> = found.iter().filter(|name| needs_more_than_rust(name)).collect();
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn the_examples_and_chores_need_no_c_compiler_either() {
    let found = crates(&["--workspace", "--all-features", "--edges", "normal,build,dev"]);
    assert!(found.contains("xtask"), "{found:?}");
    let faults: Vec<_> = found.iter().filter(|name| needs_more_than_rust(name)).collect();
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn crates_that_compile_c_are_told_from_those_that_do_not() {
    for name in ["cc", "onig_sys", "openssl-sys", "bindgen"] {
        assert!(needs_more_than_rust(name), "{name}");
    }
    for name in ["cfg-if", "sysinfo", "linux-raw-sys", "half"] {
        assert!(!needs_more_than_rust(name), "{name}");
    }
}
