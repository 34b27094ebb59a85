//! Runs the examples as programs.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::{Command, Output};

/// An example that cargo built along with this test, as it does for `cargo test` as a whole;
/// for a single test, `cargo build --examples` with the same features comes first.
pub fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    // target/<profile>/deps/<test>: examples are target/<profile>/examples/<name>.
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let path: PathBuf = profile.join("examples").join(name);
    let path = path.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.is_file(), "{} is not built: cargo build --examples", path.display());
    let mut command = Command::new(path);
    command.env_remove("FERROCERIUM_KERNEL").env("NO_COLOR", "1");
    command
}

/// Runs a program to its end; stdout and stderr as text.
#[track_caller]
pub fn finish(command: &mut Command) -> (Output, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

/// Stdout of a run that must succeed.
#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    let (output, out, err) = finish(command);
    assert!(output.status.success(), "{command:?}: {:?}\n{err}", output.status);
    out
}

/// Asserts that a run fails as users expect: exit code 1, nothing on stdout, and one line on
/// stderr that holds each of `parts`.
#[track_caller]
pub fn fails(command: &mut Command, parts: &[&str]) {
    let (output, out, err) = finish(command);
    assert_eq!(output.status.code(), Some(1), "{command:?}\n{out}\n{err}");
    assert_eq!((out.as_str(), err.lines().count()), ("", 1), "{command:?}\n{err}");
    assert!(err.starts_with("error: "), "{err}");
    for part in parts {
        assert!(err.contains(part), "no {part:?} in {err}");
    }
}
