//! What the operating system has left for this process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::cgroup;
use super::limit::{Limit, LimitSource};

/// The part of the memory, of the machine or of a control group, that stays free unless
/// `DeviceBuilder::memory_reserve` says otherwise: 1/32, within [`RESERVE_MIN`] and
/// [`RESERVE_MAX`].
const RESERVE_SHARE: u64 = 32;
/// Least reserve by default.
pub const RESERVE_MIN: u64 = 64 << 20;
/// Largest reserve by default.
pub const RESERVE_MAX: u64 = 4 << 30;

/// Longest file of the kernel that is read.
const MAX_FILE: u64 = 1 << 20;

/// Where the limits of the operating system are read: `/proc/meminfo`, and the memory control
/// groups (v1 and v2) of the process and around it.
///
/// Where those files are not, as outside Linux, there are no such limits.
#[derive(Clone, Debug)]
pub struct SystemMemory {
    root: PathBuf,
    reserve: Option<u64>,
}

impl Default for SystemMemory {
    fn default() -> Self {
        Self::under("/")
    }
}

impl SystemMemory {
    /// The same files under another root: a recording, say.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), reserve: None }
    }

    /// Bytes to keep free instead of the default: 1/32 of the memory, at least [`RESERVE_MIN`] and
    /// at most [`RESERVE_MAX`].
    #[must_use]
    pub fn with_reserve(self, bytes: Option<u64>) -> Self {
        Self { reserve: bytes, ..self }
    }

    /// Reads every limit that there is. Files that are missing or make no sense are passed over.
    pub fn limits(&self) -> Vec<Limit> {
        self.limits_beside(0)
    }

    /// The limits for a request of which `own` bytes have been booked in [`Promise`]s already.
    pub(super) fn limits_beside(&self, own: u64) -> Vec<Limit> {
        let untouched = self.untouched(own);
        let groups = cgroup::groups(&self.root).into_iter().map(|group| {
            let held = group.used.saturating_sub(group.reclaimable);
            let reserve = self.reserve_of(group.limit);
            Limit {
                available: less(group.limit, &[held, untouched, reserve]),
                source: LimitSource::Cgroup {
                    path: group.path,
                    limit: group.limit,
                    used: group.used,
                    reclaimable: group.reclaimable,
                    promised: untouched,
                    reserve,
                },
            }
        });
        self.machine(untouched).into_iter().chain(groups).collect()
    }

    fn machine(&self, promised: u64) -> Option<Limit> {
        let text = read(&self.root.join("proc/meminfo"))?;
        let total = kilobytes(&text, "MemTotal")?;
        // Kernels before 3.14 do not say; this is what they would have said, less some caution.
        let estimate = || {
            let free = kilobytes(&text, "MemFree")?;
            Some(free.saturating_add(kilobytes(&text, "Cached").unwrap_or(0) / 2))
        };
        let free = kilobytes(&text, "MemAvailable").or_else(estimate)?.min(total);
        let reserve = self.reserve_of(total);
        let available = less(free, &[promised, reserve]);
        Some(Limit { available, source: LimitSource::System { free, total, promised, reserve } })
    }

    pub(super) fn reserve_of(&self, memory: u64) -> u64 {
        self.reserve.unwrap_or((memory / RESERVE_SHARE).clamp(RESERVE_MIN, RESERVE_MAX))
    }

    /// Bytes of live buffers, but for `own`, that are not resident: at least what was booked
    /// beyond the process's anonymous memory, swapped or not.
    fn untouched(&self, own: u64) -> u64 {
        let resident = || {
            let text = read(&self.root.join("proc/self/status"))?;
            let swapped = kilobytes(&text, "VmSwap").unwrap_or(0);
            Some(kilobytes(&text, "RssAnon")?.saturating_add(swapped))
        };
        let booked = BOOKED.load(Ordering::Relaxed).saturating_sub(own);
        resident().map_or(0, |resident| booked.saturating_sub(resident))
    }
}

fn less(from: u64, parts: &[u64]) -> u64 {
    parts.iter().fold(from, |left, part| left.saturating_sub(*part))
}

/// Bytes of all buffers of the process that came from the system.
static BOOKED: AtomicU64 = AtomicU64::new(0);

/// Bytes that the system will be asked for, counted from before it is looked at until they are
/// freed: two threads that look at once both see what the other wants.
#[derive(Debug)]
pub(super) struct Promise(u64);

impl Promise {
    pub(super) fn new(bytes: u64) -> Self {
        BOOKED.fetch_add(bytes, Ordering::Relaxed);
        Promise(bytes)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        BOOKED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// A small file of the kernel; `None` when it is not there, too long or not text.
pub(super) fn read(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

/// The bytes in the line `key:   123 kB`.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let mut words = line.split_ascii_whitespace();
    let n: u64 = words.next()?.parse().ok()?;
    match words.next() {
        Some("kB") => n.checked_mul(1024),
        None => Some(n),
        Some(_) => None,
    }
}
