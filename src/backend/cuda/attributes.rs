//! What a GPU's driver says of it, and what follows for memory.

use crate::caps::{Arch, MemoryKind};
use crate::error::{Error, Result};

/// A GPU's attributes, as its driver gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attributes {
    /// Its name.
    pub name: String,
    /// Compute capability: major and minor number.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub units: usize,
    /// Bytes of its memory.
    pub memory: u64,
    /// Whether that is the host's memory too.
    pub integrated: bool,
    /// Whether it reads and writes any memory of the process, mapped files too.
    pub pageable_access: bool,
    /// Whether it does so by the host's page tables.
    pub host_page_tables: bool,
    /// Whether the host may touch managed memory while the GPU runs.
    pub concurrent_managed: bool,
    /// Whether a pool gives memory in the order of a stream.
    pub pools: bool,
}

impl Attributes {
    /// The architecture that kernels are compiled for.
    ///
    /// # Errors
    /// [`Error::Device`] for a compute capability that no architecture here has.
    pub fn arch(&self) -> Result<Arch> {
        let (major, minor) = self.capability;
        Arch::of_capability(major, minor).ok_or_else(|| {
            let known = Arch::ALL.map(|arch| arch.name()).join(", ");
            Error::device(format!(
                "{} has compute capability {major}.{minor}, for which there are no kernels here; \
                 there are some for {known}",
                self.name
            ))
        })
    }

    /// The kinds of memory that kernels reach, that for results first: the host's where the GPU
    /// shares it and reads all of it in place, its own where it has some.
    ///
    /// ```text
    /// GB10            host, mapped, pinned, managed, device
    /// H200 in a server                    device, pinned, managed
    /// ```
    pub fn memory_kinds(&self) -> Vec<MemoryKind> {
        let managed = self.concurrent_managed.then_some(MemoryKind::Managed);
        let pageable = [MemoryKind::Host, MemoryKind::Mapped];
        let pageable = pageable.into_iter().filter(|_| self.pageable_access);
        let shared = pageable.chain([MemoryKind::Pinned]).chain(managed);
        match self.integrated {
            true => shared.chain([MemoryKind::Device]).collect(),
            false => [MemoryKind::Device].into_iter().chain(shared).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use MemoryKind::{Device, Host, Managed, Mapped, Pinned};

    use super::*;

    fn gb10() -> Attributes {
        Attributes {
            name: "NVIDIA GB10".to_owned(),
            capability: (12, 1),
            units: 48,
            memory: 128 << 30,
            integrated: true,
            pageable_access: true,
            host_page_tables: true,
            concurrent_managed: true,
            pools: true,
        }
    }

    #[test]
    fn memory_follows_from_what_the_driver_says() {
        let gb10 = gb10();
        assert_eq!(gb10.memory_kinds(), [Host, Mapped, Pinned, Managed, Device]);
        let h200 = Attributes { integrated: false, pageable_access: false, ..gb10.clone() };
        assert_eq!(h200.memory_kinds(), [Device, Pinned, Managed]);
        // Linux can give a discrete GPU the process's pages: they are far away all the same.
        let paging = Attributes { integrated: false, ..gb10.clone() };
        assert_eq!(paging.memory_kinds(), [Device, Host, Mapped, Pinned, Managed]);
        let jetson = Attributes { pageable_access: false, concurrent_managed: false, ..gb10 };
        assert_eq!(jetson.memory_kinds(), [Pinned, Device]);
    }

    #[test]
    fn architectures_are_looked_up_and_never_guessed() {
        for (capability, name) in [
            ((8, 0), "sm_80"),
            ((8, 6), "sm_86"),
            ((8, 9), "sm_89"),
            ((9, 0), "sm_90a"),
            ((10, 0), "sm_100a"),
            ((12, 0), "sm_120a"),
            ((12, 1), "sm_121a"),
        ] {
            assert_eq!(Attributes { capability, ..gb10() }.arch().unwrap().name(), name);
        }
        for capability in [(7, 5), (8, 7), (9, 1), (10, 3), (11, 0), (12, 2), (13, 0)] {
            let error = Attributes { capability, ..gb10() }.arch().unwrap_err().to_string();
            let number = format!("{}.{}", capability.0, capability.1);
            assert!(error.contains(&number) && error.contains("sm_121a"), "{error}");
        }
    }
}
