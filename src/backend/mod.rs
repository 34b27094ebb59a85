//! Where operations really run.
//!
#![doc = include_str!("../../KERNELS.md")]
//!
//! `device.registry().list()` has the same at run time, with kernels of your own.

#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::error::Result;

impl Device {
    /// The fastest device that is there: the first NVIDIA GPU that there are kernels for (feature
    /// `cuda`), else the CPU.
    ///
    /// On a GPU with memory of its own, results live there: `to_vec` reads them, and `host` is an
    /// error that says so; `Device::builder().memory(..)` asks for another kind.
    ///
    /// # Errors
    /// With such a GPU present, whatever its driver reports, and where NVRTC is not there.
    pub fn best() -> Result<Device> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = best_gpu() {
            return Device::cuda(gpu);
        }
        #[cfg(feature = "cpu")]
        return Ok(Device::cpu());
        #[cfg(not(feature = "cpu"))]
        return Ok(Device::reference());
    }
}

/// The first GPU that there are kernels for.
#[cfg(feature = "cuda")]
fn best_gpu() -> Option<usize> {
    (0..Device::cuda_count()).find(|&index| {
        let arch = cuda::Attributes::of_cuda(index).and_then(|attributes| attributes.arch());
        if let Err(error) = &arch {
            tracing::warn!(%error, "a GPU is passed over");
        }
        arch.is_ok()
    })
}
