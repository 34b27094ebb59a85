//! Where operations really run.
//!
#![doc = include_str!("../../KERNELS.md")]
//!
//! `device.registry().list()` has the same at run time, with kernels of your own.

#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "emulator")]
pub mod cuda;
pub mod reference;

use crate::device::Device;
use crate::error::Result;

impl Device {
    /// The fastest device that is there.
    ///
    /// # Errors
    /// None today; with a GPU present, whatever its driver reports.
    pub fn best() -> Result<Device> {
        #[cfg(feature = "cpu")]
        return Ok(Device::cpu());
        #[cfg(not(feature = "cpu"))]
        return Ok(Device::reference());
    }
}
