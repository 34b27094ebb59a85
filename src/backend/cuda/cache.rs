//! Compiled kernels on disk.
//!
//! One file an entry, named by a hash of its key. The file repeats the key and ends in a
//! checksum: what is damaged, foreign or of another key counts as absent and is written anew.
//! A file appears whole or not at all; nothing fails for want of a cache.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The environment variable that names the folder of compiled kernels; empty for no cache.
pub const CACHE_VARIABLE: &str = "FERROCERIUM_KERNEL_CACHE";

/// What every entry begins with; the number changes with the format.
const MAGIC: &[u8] = b"ferrocerium kernel 1\n";

/// How the names of entries end.
const EXTENSION: &str = "kernel";

/// The most bytes that entries take together.
const LIMIT: u64 = 256 << 20;

/// `$XDG_CACHE_HOME/ferrocerium`, or `~/.cache/ferrocerium`.
pub(super) fn user_folder() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    cache.map(|cache| cache.join("ferrocerium"))
}

/// How the names of files end that are being written.
const PARTIAL: &str = "partial";

/// How long nobody writes a file: one that is older was left behind by a process that was ended.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A folder of entries, or none.
#[derive(Debug)]
pub(super) struct DiskCache {
    folder: Option<PathBuf>,
    limit: u64,
}

impl DiskCache {
    /// The folder that the environment names, or that of the user.
    pub(super) fn of_environment() -> Self {
        let folder = match std::env::var_os(CACHE_VARIABLE) {
            Some(name) if name.is_empty() => None,
            Some(name) => Some(name.into()),
            None => user_folder().map(|folder| folder.join("kernels")),
        };
        DiskCache { folder, limit: LIMIT }
    }

    /// The entry of a key.
    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.path(key)?;
        let payload = decode(&fs::read(&path).ok()?, key)?;
        // Read lately: among the last to be removed.
        let touched = fs::File::options().append(true).open(&path);
        let _ = touched.and_then(|file| file.set_modified(SystemTime::now()));
        Some(payload)
    }

    /// Keeps an entry; where that fails, the next process compiles again.
    pub(super) fn put(&self, key: &str, payload: &[u8]) {
        let Some(path) = self.path(key) else { return };
        if let Err(error) = write(&path, &encode(key, payload)) {
            tracing::debug!(path = %path.display(), %error, "a compiled kernel is not kept");
        }
        self.prune();
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        let name = format!("{:016x}.{EXTENSION}", hash(key.as_bytes()));
        Some(self.folder.as_ref()?.join(name))
    }

    /// Removes the entries that were used longest ago, until the rest is within the limit, and what
    /// processes left behind that were ended while they wrote.
    fn prune(&self) {
        let entries = self.folder.as_ref().and_then(|folder| folder.read_dir().ok());
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let (path, meta) = (entry.as_ref().ok()?.path(), entry.ok()?.metadata().ok()?);
                let modified = meta.modified().ok()?;
                let is = |kind: &str| path.extension().is_some_and(|extension| extension == kind);
                if is(PARTIAL) && modified.elapsed().is_ok_and(|age| age > ABANDONED) {
                    let _ = fs::remove_file(&path);
                }
                is(EXTENSION).then_some((modified, meta.len(), path))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|file| file.1).sum();
        for (_, len, path) in files {
            if total <= self.limit {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= len;
            }
        }
    }
}

/// Writes beside the place and moves there in one step.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let partial = path.with_extension(format!("{}-{number}.{PARTIAL}", std::process::id()));
    let written = fs::File::create_new(&partial).and_then(|mut file| file.write_all(bytes));
    let moved = written.and_then(|()| fs::rename(&partial, path));
    if moved.is_err() {
        let _ = fs::remove_file(&partial);
    }
    moved
}

/// Magic, length of the key, key, payload, checksum of all that.
fn encode(key: &str, payload: &[u8]) -> Vec<u8> {
    let len = (key.len() as u64).to_le_bytes();
    let mut bytes = [MAGIC, &len[..], key.as_bytes(), payload].concat();
    let sum = hash(&bytes).to_le_bytes();
    bytes.extend_from_slice(&sum);
    bytes
}

fn decode(bytes: &[u8], key: &str) -> Option<Vec<u8>> {
    let (body, sum) = bytes.split_last_chunk()?;
    if hash(body) != u64::from_le_bytes(*sum) {
        return None;
    }
    let (len, rest) = body.strip_prefix(MAGIC)?.split_first_chunk()?;
    if u64::from_le_bytes(*len) != key.len() as u64 {
        return None;
    }
    rest.strip_prefix(key.as_bytes()).map(<[u8]>::to_vec)
}

/// FNV-1a, the same in every version of this crate and of Rust.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    struct Scratch(DiskCache);

    impl Scratch {
        fn new(name: &str, limit: u64) -> Self {
            let name = format!("ferrocerium-cache-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            let _ = fs::remove_dir_all(&folder);
            Scratch(DiskCache { folder: Some(folder), limit })
        }

        fn files(&self) -> Vec<PathBuf> {
            let folder = self.0.folder.as_ref().unwrap();
            folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.folder.as_ref().unwrap());
        }
    }

    #[test]
    fn an_entry_comes_back_for_its_key_only() {
        let cache = Scratch::new("key", 1000);
        assert_eq!(cache.0.get("a"), None);
        cache.0.put("a", b"compiled");
        assert_eq!(cache.0.get("a").as_deref(), Some(&b"compiled"[..]));
        assert_eq!(cache.0.get("b"), None);
        // An entry of another key under this key's name, as a collision would leave it.
        fs::rename(cache.0.path("a").unwrap(), cache.0.path("b").unwrap()).unwrap();
        assert_eq!(cache.0.get("b"), None);
        cache.0.put("a", b"");
        assert_eq!(cache.0.get("a").as_deref(), Some(&b""[..]));
    }

    #[test]
    fn a_damaged_entry_is_absent_and_written_anew() {
        let cache = Scratch::new("damage", 1000);
        cache.0.put("key", b"compiled");
        let path = cache.0.path("key").unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            assert_eq!(cache.0.get("key"), None, "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(cache.0.get("key"), None, "cut at {at}");
        }
        cache.0.put("key", b"compiled");
        assert_eq!(cache.0.get("key").as_deref(), Some(&b"compiled"[..]));
    }

    #[test]
    fn the_entries_used_longest_ago_make_room() {
        let cache = Scratch::new("limit", 700);
        for (age, key) in [(3, "oldest"), (2, "old"), (1, "recent")] {
            cache.0.put(key, &[0; 150]);
            let file = fs::File::options().append(true).open(cache.0.path(key).unwrap()).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        }
        fs::write(cache.0.folder.as_ref().unwrap().join("foreign.txt"), [0; 1000]).unwrap();
        assert!(cache.0.get("oldest").is_some());
        cache.0.put("new", &[0; 150]);
        assert!(cache.0.get("old").is_none());
        assert!(["oldest", "recent", "new"].iter().all(|key| cache.0.get(key).is_some()));
        assert_eq!(cache.files().len(), 4);
    }

    /// Names the folder to the process that the next test ends.
    const FOLDER: &str = "FERROCERIUM_TEST_CACHE_FOLDER";
    /// Names the number that it begins with.
    const FIRST: &str = "FERROCERIUM_TEST_CACHE_FIRST";
    const KEYS: u32 = 3;

    #[test]
    fn entries_are_written_until_the_process_is_killed() {
        let Some(folder) = std::env::var_os(FOLDER) else { return };
        let first = std::env::var(FIRST).unwrap().parse().unwrap();
        let cache = DiskCache { folder: Some(folder.into()), limit: LIMIT };
        for number in first..u32::MAX {
            let payload = number.to_le_bytes().repeat(100_000);
            cache.put(&(number % KEYS).to_string(), &payload);
        }
    }

    #[test]
    fn a_process_killed_at_any_moment_leaves_old_entries_or_new_ones_and_none_torn() {
        let cache = Scratch::new("kill", LIMIT);
        let folder = cache.0.folder.as_ref().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let seed = now.subsec_nanos();
        let mut wait = u64::from(seed);
        let mut newest = [0; KEYS as usize];
        let mut first = 1;
        for _ in 0..15 {
            let test = "entries_are_written_until_the_process_is_killed";
            let mut writer = std::process::Command::new(std::env::current_exe().unwrap())
                .args([test, "--test-threads=1"])
                .env(FOLDER, folder)
                .env(FIRST, first.to_string())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            // Its first words: by then it has been loaded, which may take longer than what follows.
            let mut words = writer.stdout.take().unwrap();
            words.read_exact(&mut [0]).unwrap();
            wait = wait.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            std::thread::sleep(Duration::from_micros(10_000 + (wait >> 48)));
            writer.kill().unwrap();
            writer.wait().unwrap();
            for (key, newest) in (0u32..).zip(&mut newest) {
                let name = key.to_string();
                let found = cache.0.get(&name);
                let there = cache.0.path(&name).unwrap().exists();
                assert_eq!(found.is_some(), there, "torn, seed {seed}");
                let Some(found) = found else { continue };
                let number = u32::from_le_bytes(found[..4].try_into().unwrap());
                assert!(found == number.to_le_bytes().repeat(100_000), "mixed, seed {seed}");
                assert_eq!(number % KEYS, key, "seed {seed}");
                assert!(number >= *newest, "{number} after {newest}, seed {seed}");
                *newest = number;
                first = first.max(number + 1);
            }
        }
        assert!(first > 1, "nothing was ever written, seed {seed}");
        // What was left behind goes when it is old.
        let partial = folder.join("0.1-1.partial");
        fs::write(&partial, "left").unwrap();
        let file = fs::File::options().append(true).open(&partial).unwrap();
        file.set_modified(SystemTime::now() - 2 * ABANDONED).unwrap();
        cache.0.put("0", b"compiled");
        assert!(!partial.exists());
    }

    #[test]
    fn without_a_folder_nothing_is_kept() {
        let cache = DiskCache { folder: None, limit: 0 };
        cache.put("a", b"compiled");
        assert_eq!(cache.get("a"), None);
        let unwritable = DiskCache { folder: Some("/dev/null/cache".into()), limit: 0 };
        unwritable.put("a", b"compiled");
        assert_eq!(unwritable.get("a"), None);
    }
}
