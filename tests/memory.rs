//! Budgets: what the system is found to have, and what happens beyond it.
//!
//! The system's files are recordings under a folder, so that any machine can be played.

#[path = "common/folder.rs"]
mod folder;

use ferrocerium::memory::{Buffer, Limit, LimitSource, Pool, SystemMemory};
use ferrocerium::{Device, Error, Tensor};

use folder::Folder;

const KIB: u64 = 1024;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// `/proc/meminfo` of a DGX Spark after a large file was written: page cache is nearly all there
/// is, and free memory is what a driver would report.
const SPARK: &str = "\
MemTotal:       127535224 kB
MemFree:        43516732 kB
MemAvailable:   121423872 kB
Buffers:          310788 kB
Cached:         77340416 kB
SwapCached:            0 kB
SwapTotal:      16777212 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
";

/// A recording of the system's files.
struct Machine(Folder);

impl Machine {
    fn new(name: &str) -> Self {
        Machine(Folder::new(&format!("memory-{name}")))
    }

    fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        std::fs::create_dir_all(self.0.path().join(path).parent().unwrap()).unwrap();
        self.0.write(path, text);
        self
    }

    fn meminfo(self, text: impl AsRef<[u8]>) -> Self {
        self.file("proc/meminfo", text)
    }

    /// A machine with that many bytes available of twice as many.
    fn with_available(self, bytes: u64) -> Self {
        let (total, available) = (2 * bytes / KIB, bytes / KIB);
        self.meminfo(format!("MemTotal: {total} kB\nMemAvailable: {available} kB\n"))
    }

    fn system(&self) -> SystemMemory {
        SystemMemory::under(self.0.path()).with_reserve(Some(0))
    }

    fn limits(&self) -> Vec<Limit> {
        self.system().limits()
    }

    fn available(&self) -> Vec<u64> {
        self.limits().iter().map(|limit| limit.available).collect()
    }
}

#[test]
fn page_cache_that_can_be_dropped_counts_as_available() {
    let machine = Machine::new("spark").meminfo(SPARK);
    assert_eq!(machine.available(), [121_423_872 * KIB]);
    let limits = SystemMemory::under(machine.0.path()).limits();
    // 1/32 of 121.6 GiB, within 64 MiB and 4 GiB.
    let reserve = 127_535_224 * KIB / 32;
    let free = 121_423_872 * KIB;
    let source = LimitSource::System { free, total: 127_535_224 * KIB, promised: 0, reserve };
    assert_eq!(limits, [Limit { available: free - reserve, source }]);
    assert_eq!(
        limits[0].to_string(),
        "112.0 GiB by the system: 115.8 GiB available of 121.6 GiB, less 3.8 GiB kept free"
    );
}

#[test]
fn meminfo_of_any_make_gives_a_limit_or_none() {
    let cases: [(&str, &str, &[u64]); 9] = [
        ("old", "MemTotal: 1000 kB\nMemFree: 300 kB\nCached: 400 kB\n", &[500 * KIB]),
        ("bytes", "MemTotal: 5000\nMemAvailable: 4000\n", &[4000]),
        ("tabs", "MemTotal:\t9 kB\nMemAvailable:\t\t8\tkB\n", &[8 * KIB]),
        // More than there is can not be available.
        ("more", "MemTotal: 10 kB\nMemAvailable: 20 kB\n", &[10 * KIB]),
        ("prefix", "MemTotalX: 1 kB\nMemTotal: 10 kB\nMemAvailable: 5 kB\n", &[5 * KIB]),
        ("empty", "", &[]),
        ("overflow", "MemTotal: 18446744073709551615 kB\nMemAvailable: 5 kB\n", &[]),
        ("negative", "MemTotal: -5 kB\nMemAvailable: 5 kB\n", &[]),
        ("unit", "MemTotal: 5 MB\nMemAvailable: 5 MB\n", &[]),
    ];
    for (name, text, expected) in cases {
        assert_eq!(Machine::new(name).meminfo(text).available(), expected, "{name}");
    }
    assert_eq!(Machine::new("binary").meminfo([0xFF, 0xFE, 0]).available(), [0u64; 0]);
    assert_eq!(Machine::new("nothing").available(), [0u64; 0]);
}

#[test]
fn a_version_2_group_limits_to_what_is_not_in_use_or_can_be_dropped() {
    let machine = Machine::new("v2")
        .with_available(100 * GIB)
        .file("proc/self/cgroup", "0::/user.slice/job\n")
        .file("sys/fs/cgroup/user.slice/job/memory.max", "8589934592\n")
        .file("sys/fs/cgroup/user.slice/job/memory.high", "max\n")
        .file("sys/fs/cgroup/user.slice/job/memory.current", "6442450944\n")
        .file(
            "sys/fs/cgroup/user.slice/job/memory.stat",
            "anon 1\nfile 2\ninactive_file 3221225472\nactive_file 2147483648\n",
        )
        .file("sys/fs/cgroup/user.slice/memory.max", "max\n");
    // 8 − (6 − 3 − 2/2)
    assert_eq!(machine.available(), [100 * GIB, 6 * GIB]);
    let text = machine.limits()[1].to_string();
    for part in ["6.0 GiB by control group", "user.slice/job", "8.0 GiB less 6.0 GiB in use", "4.0"]
    {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

#[test]
fn every_group_around_the_process_counts() {
    let machine = Machine::new("nested")
        .file("proc/self/cgroup", "0::/a/b/c\n")
        .file("sys/fs/cgroup/a/memory.max", "4000000\n")
        .file("sys/fs/cgroup/a/memory.current", "1000000\n")
        .file("sys/fs/cgroup/a/b/memory.max", "3000000\n")
        .file("sys/fs/cgroup/a/b/memory.high", "2000000\n")
        .file("sys/fs/cgroup/a/b/memory.current", "500000\n");
    assert_eq!(machine.available(), [1_500_000, 3_000_000]);
}

#[test]
fn a_version_1_group_limits_too_unless_its_limit_means_none() {
    let group = |limit: &str| {
        Machine::new("v1")
            .file("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/a:b\n0::/\n")
            .file("sys/fs/cgroup/memory/docker/a:b/memory.limit_in_bytes", limit)
            .file("sys/fs/cgroup/memory/docker/a:b/memory.usage_in_bytes", "1000\n")
            .file("sys/fs/cgroup/memory/docker/a:b/memory.stat", "total_inactive_file 400\n")
    };
    assert_eq!(group("5000\n").available(), [4400]);
    assert_eq!(group("9223372036854771712\n").available(), [0u64; 0]);
}

#[test]
fn a_container_finds_its_group_at_the_top_of_the_mount() {
    // The path is one of the host, whose folders the container does not see.
    let machine = Machine::new("container")
        .file("proc/self/cgroup", "4:memory:/docker/0123456789ab\n")
        .file("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000\n")
        .file("sys/fs/cgroup/memory/memory.usage_in_bytes", "500\n");
    assert_eq!(machine.available(), [1500]);
    let machine = Machine::new("namespace")
        .file("proc/self/cgroup", "0::/../../other\n")
        .file("sys/fs/cgroup/memory.max", "2000\n")
        .file("sys/fs/cgroup/memory.current", "2500\n");
    assert_eq!(machine.available(), [0]);
}

#[test]
fn groups_with_odd_files_are_passed_over() {
    for (i, (text, limit, used)) in [
        ("0::/g\n", "many\n", "1\n"),
        ("0::/g\n", "-1\n", "1\n"),
        ("0::/g\n", "99999999999999999999999\n", "1\n"),
        ("0::/g\n", "1000\n", ""),
        ("0:/g\n", "1000\n", "1\n"),
        ("", "1000\n", "1\n"),
        ("nonsense", "1000\n", "1\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let machine = Machine::new(&format!("odd{i}"))
            .file("proc/self/cgroup", text)
            .file("sys/fs/cgroup/g/memory.max", limit)
            .file("sys/fs/cgroup/g/memory.current", used);
        assert_eq!(machine.available(), [0u64; 0], "{text:?} {limit:?} {used:?}");
    }
}

#[test]
fn what_was_allocated_but_not_touched_is_taken_off() {
    let machine = Machine::new("promised")
        .with_available(10 * GIB)
        .file("proc/self/status", "Name:\ttest\nVmSwap:\t       0 kB\nRssAnon:\t       0 kB\n");
    let pool = Pool::within_system("test", u64::MAX, machine.system());
    // Never written to: the system's own figures do not show it.
    let _held = Buffer::host(&pool, 3 * GIB as usize, "held").unwrap();
    let left = pool.report().available();
    // Other tests of this process hold some, for moments, too.
    assert!((6 * GIB..=7 * GIB).contains(&left), "{left}");
    let text = pool.report().to_string();
    assert!(text.contains("allocated but not yet touched"), "{text}");
    let refused = Buffer::host(&pool, 8 * GIB as usize, "more").unwrap_err().to_string();
    assert!(refused.contains("largest: `held` 3.0 GiB"), "{refused}");
}

#[test]
fn a_request_beyond_the_system_is_refused_with_the_numbers() {
    let machine = Machine::new("refused").with_available(GIB);
    let pool = Pool::within_system("test", 8 * GIB, machine.system());
    // Far more than this machine has: refused before any memory is touched, or asked for.
    match Buffer::host(&pool, 4 << 40, "weights").unwrap_err() {
        Error::OutOfMemory { label, device, request, used, available, explanation } => {
            assert_eq!((label.as_str(), device.as_str()), ("weights", "test"));
            assert_eq!((request, used, available), (4 << 40, 0, GIB));
            let limit = "by the system: 1.0 GiB available of 2.0 GiB";
            assert!(explanation.contains(limit), "{explanation}");
        }
        other => panic!("{other}"),
    }
    let over_budget = Buffer::host(&Pool::new("test", MIB), 2 * MIB as usize, "x").unwrap_err();
    let text = over_budget.to_string();
    for part in ["2.0 MiB for `x` on test", "at most 1.0 MiB more", "memory limit", "memory_limit"]
    {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

#[test]
fn the_tightest_limit_binds_and_all_are_reported() {
    let machine = Machine::new("tightest")
        .with_available(3 * GIB)
        .file("proc/self/cgroup", "0::/\n")
        .file("sys/fs/cgroup/memory.max", format!("{}", 2 * GIB))
        .file("sys/fs/cgroup/memory.current", format!("{GIB}"));
    let report = |budget| Pool::within_system("test", budget, machine.system()).report();
    let available = |budget| -> Vec<u64> {
        report(budget).limits.iter().map(|limit| limit.available).collect()
    };
    assert_eq!(available(4 * GIB), [GIB, 3 * GIB, 4 * GIB]);
    assert_eq!(available(GIB / 2), [GIB / 2, GIB, 3 * GIB]);
    assert_eq!(report(GIB / 2).budget, GIB / 2);
    assert_eq!(report(u64::MAX).limits.len(), 2);
    assert!(report(4 * GIB).to_string().contains("at most 1.0 GiB more"));
}

#[test]
fn the_system_is_looked_at_again_before_large_allocations_and_after_many_small_ones() {
    let machine = Machine::new("again").with_available(GIB);
    let pool = Pool::within_system("test", u64::MAX, machine.system());
    let small = || Buffer::host(&pool, MIB as usize, "small");
    let first = small().unwrap();
    // Another program has taken it all since.
    let machine = machine.with_available(0);
    assert!(Buffer::host(&pool, 64 * MIB as usize, "large").is_err());
    let granted: Vec<_> = (0..).map_while(|_| small().ok()).take(1000).collect();
    assert_eq!(granted.len(), 63, "64 MiB in all, without asking");
    drop((first, granted));
    let machine = machine.with_available(GIB);
    assert!(Buffer::host(&pool, 256 * MIB as usize, "large").is_ok());
    drop(machine);
}

#[test]
fn a_refused_request_leaves_nothing_booked() {
    let machine = Machine::new("books").with_available(GIB);
    let pool = Pool::within_system("test", u64::MAX, machine.system());
    assert!(Buffer::host(&pool, 2 * GIB as usize, "x").is_err());
    let report = pool.report();
    assert_eq!((report.used, report.peak, report.buffers), (0, 0, 0));
    drop(Buffer::host(&pool, MIB as usize, "y").unwrap());
    assert_eq!((pool.report().used, pool.report().peak), (0, MIB));
}

#[test]
fn a_device_is_limited_by_the_machine_it_runs_on() {
    let report = Device::builder().memory_limit(1 << 50).reference().memory();
    if cfg!(target_os = "linux") {
        let system = report.limits.iter().any(|l| matches!(l.source, LimitSource::System { .. }));
        assert!(system && report.available() < 1 << 50, "{report}");
    }
    let all = Device::builder().memory_reserve(u64::MAX).reference();
    let refused = Tensor::<f32, 1>::zeros(&all, [1]);
    assert_eq!(refused.is_err(), cfg!(target_os = "linux"));
}
