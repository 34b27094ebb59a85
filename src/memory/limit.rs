//! What keeps an allocation from being granted, with the numbers behind it.

use std::fmt;
use std::path::PathBuf;

use crate::error::Bytes;

/// Something that limits how much more memory may be allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes that may still be allocated under it.
    pub available: u64,
    /// What it is, and how `available` was computed.
    pub source: LimitSource,
}

/// What a [`Limit`] comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitSource {
    /// `DeviceBuilder::memory_limit`: `limit − used`.
    Budget {
        /// The limit for the bytes in live buffers.
        limit: u64,
        /// Those bytes.
        used: u64,
    },
    /// The machine: `free − promised − reserve`.
    System {
        /// What the system says can be allocated without swapping (`MemAvailable`): unlike
        /// `MemFree`, and unlike what GPU drivers report, it counts page cache that can be dropped.
        free: u64,
        /// The machine's memory.
        total: u64,
        /// Bytes of live buffers that nobody has touched yet, and that `free` still counts.
        promised: u64,
        /// What is left to the rest of the machine.
        reserve: u64,
    },
    /// A GPU's own memory, by what its driver says: `free − reserve`.
    Driver {
        /// What the driver says is free, and what of its pool nobody uses.
        free: u64,
        /// The GPU's memory.
        total: u64,
        /// What is left to the driver and to other programs.
        reserve: u64,
    },
    /// A control group of the process, or one around it:
    /// `limit − (used − reclaimable) − promised − reserve`.
    Cgroup {
        /// The group's folder.
        path: PathBuf,
        /// The group's limit.
        limit: u64,
        /// What its processes use, page cache included.
        used: u64,
        /// Page cache that can be dropped.
        reclaimable: u64,
        /// As in [`LimitSource::System`].
        promised: u64,
        /// What is left to the rest of the group.
        reserve: u64,
    },
}

impl LimitSource {
    /// What could be done about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            LimitSource::Budget { .. } => "raise Device::builder().memory_limit(..)",
            LimitSource::System { .. } => {
                "end other programs, or lower Device::builder().memory_reserve(..)"
            }
            LimitSource::Driver { .. } => {
                "end other programs on the GPU, or lower Device::builder().memory_reserve(..)"
            }
            LimitSource::Cgroup { .. } => {
                "raise the limit of the container or control group, or lower \
                 Device::builder().memory_reserve(..)"
            }
        }
    }
}

impl fmt::Display for Limit {
    /// `5.2 GiB by the system: 6.0 GiB available of 23.5 GiB, less 0.8 GiB kept free`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Bytes(self.available), self.source)
    }
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("by ")?;
        match self {
            LimitSource::Budget { limit, used } => {
                write!(f, "the memory limit: {} less {} in use", Bytes(*limit), Bytes(*used))
            }
            LimitSource::System { free, total, promised, reserve } => {
                write!(f, "the system: {} available of {}", Bytes(*free), Bytes(*total))?;
                write_less(f, *promised, *reserve)
            }
            LimitSource::Driver { free, total, reserve } => {
                write!(f, "the driver: {} free of {}", Bytes(*free), Bytes(*total))?;
                write_less(f, 0, *reserve)
            }
            LimitSource::Cgroup { path, limit, used, reclaimable, promised, reserve } => {
                write!(
                    f,
                    "control group {}: {} less {} in use, of which {} can be dropped",
                    path.display(),
                    Bytes(*limit),
                    Bytes(*used),
                    Bytes(*reclaimable)
                )?;
                write_less(f, *promised, *reserve)
            }
        }
    }
}

fn write_less(f: &mut fmt::Formatter<'_>, promised: u64, reserve: u64) -> fmt::Result {
    if promised > 0 {
        write!(f, ", less {} allocated but not yet touched", Bytes(promised))?;
    }
    write!(f, ", less {} kept free", Bytes(reserve))
}
