//! Memory control groups of Linux, versions 1 and 2.

use std::path::{Component, Path, PathBuf};

use super::system::read;

/// A group that has a limit.
pub(super) struct Group {
    pub path: PathBuf,
    pub limit: u64,
    pub used: u64,
    pub reclaimable: u64,
}

/// How a version names its files and fields.
struct Version {
    /// Where its hierarchy is mounted, one after the other until one is there.
    mounts: &'static [&'static str],
    /// Limits: the lowest one counts.
    limits: &'static [&'static str],
    used: &'static str,
    /// Fields of `memory.stat`: page cache that was used once, and again.
    inactive: &'static str,
    active: &'static str,
}

const V2: Version = Version {
    mounts: &["sys/fs/cgroup", "sys/fs/cgroup/unified"],
    // Beyond `memory.high` a group is not killed but slowed down until it is of no use.
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    inactive: "inactive_file",
    active: "active_file",
};

const V1: Version = Version {
    mounts: &["sys/fs/cgroup/memory"],
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    inactive: "total_inactive_file",
    active: "total_active_file",
};

/// Limits from here on mean "none": v1 says so with the largest whole number of pages.
const UNLIMITED: u64 = 1 << 60;

/// The groups that limit this process: its own and those around it, innermost first.
pub(super) fn groups(root: &Path) -> Vec<Group> {
    let Some(text) = read(&root.join("proc/self/cgroup")) else { return Vec::new() };
    let mut groups = Vec::new();
    for line in text.lines() {
        // "4:memory,cpu:/path" in version 1, "0::/path" in version 2.
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if controllers.is_empty() {
            groups.extend(V2.groups(root, path));
        } else if controllers.split(',').any(|c| c == "memory") {
            groups.extend(V1.groups(root, path));
        }
    }
    groups
}

impl Version {
    /// The folders from that of `path` up to the mount. In a container the mount may show the
    /// container's own group at its top, and `path` may be one outside: folders that are not
    /// there are passed over.
    fn groups(&self, root: &Path, path: &str) -> Vec<Group> {
        // Seen from another namespace the path goes up first.
        let names = Path::new(path).components().filter(|c| matches!(c, Component::Normal(_)));
        let path: PathBuf = names.collect();
        let of_mount = |mount: &&str| -> Vec<Group> {
            let mount = root.join(mount);
            path.ancestors().filter_map(|path| self.group(mount.join(path))).collect()
        };
        self.mounts.iter().map(of_mount).find(|groups| !groups.is_empty()).unwrap_or_default()
    }

    fn group(&self, path: PathBuf) -> Option<Group> {
        let number = |name: &str| read(&path.join(name))?.trim().parse::<u64>().ok();
        let limit = self.limits.iter().filter_map(|name| number(name)).min();
        let limit = limit.filter(|limit| *limit < UNLIMITED)?;
        let used = number(self.used)?;
        let stat = read(&path.join("memory.stat")).unwrap_or_default();
        let field = |key: &str| {
            stat.lines()
                .find_map(|line| line.split_once(' ').filter(|(k, _)| *k == key)?.1.parse().ok())
        };
        // As the kernel's own estimate has it: half of what is in regular use stays.
        let reclaimable = field(self.inactive).unwrap_or(0u64);
        let reclaimable = reclaimable.saturating_add(field(self.active).unwrap_or(0u64) / 2);
        Some(Group { path, limit, used, reclaimable: reclaimable.min(used) })
    }
}
