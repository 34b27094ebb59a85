//! What a kernel is given to run.

use std::sync::Arc;

use super::stream::Stream;
use super::workers::Workers;
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::memory::{Access, Locks, Region};
use crate::num::Element;
use crate::op::{Op, Operand, Scaled};

/// A validated operation, the bytes of its operands, and where to run.
///
/// The buffers are locked for the operation: inputs are shared slices, each output can be taken
/// once, mutably. Asking for bytes waits for device work that conflicts.
pub struct Launch<'a> {
    /// The operation.
    pub op: &'a Op,
    /// The machine.
    pub caps: &'a Caps,
    /// Threads for CPU kernels.
    pub workers: &'a Workers,
    kernel: &'a str,
    locks: &'a Locks<'a>,
    #[cfg_attr(
        not(any(feature = "cuda", feature = "emulator")),
        allow(dead_code, reason = "for GPUs")
    )]
    stream: Option<&'a Arc<dyn Stream>>,
}

/// The bytes of a block-scaled input.
#[derive(Clone, Copy, Debug)]
pub struct ScaledBytes<'a> {
    /// Codes, rows padded to whole blocks.
    pub codes: &'a [u8],
    /// Block scales, in the operand's scale layout.
    pub scales: &'a [u8],
    /// The tensor scale; 1 for formats without one.
    pub tensor_scale: f32,
}

/// The bytes of a block-scaled output.
#[derive(Debug)]
pub struct ScaledBytesMut<'a> {
    /// Codes, rows padded to whole blocks.
    pub codes: &'a mut [u8],
    /// Block scales, in the operand's scale layout.
    pub scales: &'a mut [u8],
    /// The tensor scale, for formats that have one.
    pub tensor_scale: Option<&'a mut [u8]>,
}

impl<'a> Launch<'a> {
    /// Binds an operation to its locked buffers, for the kernel of that name.
    pub fn new(
        op: &'a Op,
        kernel: &'a str,
        locks: &'a Locks<'a>,
        caps: &'a Caps,
        workers: &'a Workers,
    ) -> Launch<'a> {
        Launch { op, caps, workers, kernel, locks, stream: None }
    }

    /// The same on a stream.
    pub(crate) fn on_stream(self, stream: Option<&'a Arc<dyn Stream>>) -> Self {
        Launch { stream, ..self }
    }

    /// The stream to run on, if the device has any.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn stream(&self) -> Option<&'a Arc<dyn Stream>> {
        self.stream
    }

    /// The locked buffers.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn locks(&self) -> &'a Locks<'a> {
        self.locks
    }

    fn error(&self, problem: impl Into<String>) -> Error {
        Error::kernel(self.kernel, problem)
    }

    /// The bytes of an input region.
    pub fn read(&self, region: &Region) -> Result<&'a [u8]> {
        match self.locks.read(region.buffer())? {
            Some(bytes) => Ok(&bytes[region.range()]),
            None => Err(self.refuse(region, Access::Read)),
        }
    }

    /// Copies an input region that the host can not touch.
    pub(super) fn copy(&self, region: &Region, to: &mut [u8]) -> Result<()> {
        match self.locks.copy(region.buffer(), region.offset(), to)? {
            true => Ok(()),
            false => Err(self.refuse(region, Access::Read)),
        }
    }

    /// The bytes of an output region, once.
    pub fn write(&self, region: &Region) -> Result<&'a mut [u8]> {
        match self.locks.write(region.buffer())? {
            Some(bytes) => Ok(&mut bytes[region.range()]),
            None => Err(self.refuse(region, Access::Write)),
        }
    }

    /// Why a region can not be used so.
    pub(crate) fn refuse(&self, region: &Region, access: Access) -> Error {
        let label = region.buffer().label();
        self.error(match (self.locks.access(region.buffer()), access) {
            (None, _) => format!("buffer `{label}` is not an operand"),
            (_, Access::Read) => format!("`{label}` is not an input"),
            (_, Access::Write) => format!("`{label}` is not an output, or was taken before"),
        })
    }

    /// The elements of a dense input, from its first one on; strides apply.
    pub fn read_dense<E: Element>(&self, operand: &Operand) -> Result<&'a [E]> {
        let bytes = self.read(self.dense_region::<E>(operand)?)?;
        bytemuck::try_cast_slice(bytes).map_err(|e| self.misaligned::<E>(operand, e))
    }

    /// The elements of a dense output, from its first one on, once; strides apply.
    pub fn write_dense<E: Element>(&self, operand: &Operand) -> Result<&'a mut [E]> {
        let bytes = self.write(self.dense_region::<E>(operand)?)?;
        bytemuck::try_cast_slice_mut(bytes).map_err(|e| self.misaligned::<E>(operand, e))
    }

    /// The bytes of a block-scaled input.
    pub fn read_scaled(&self, scaled: &Scaled) -> Result<ScaledBytes<'a>> {
        let data = scaled.data.as_ref().ok_or_else(|| self.no_data())?;
        let tensor_scale = match &data.tensor_scale {
            Some(region) => {
                let bytes = self.read(region)?;
                let first = bytes.first_chunk().ok_or_else(|| self.error("empty tensor scale"))?;
                f32::from_le_bytes(*first)
            }
            None => 1.0,
        };
        Ok(ScaledBytes {
            codes: self.read(&data.codes)?,
            scales: self.read(&data.scales)?,
            tensor_scale,
        })
    }

    /// The bytes of a block-scaled output, once.
    pub fn write_scaled(&self, scaled: &Scaled) -> Result<ScaledBytesMut<'a>> {
        let data = scaled.data.as_ref().ok_or_else(|| self.no_data())?;
        Ok(ScaledBytesMut {
            codes: self.write(&data.codes)?,
            scales: self.write(&data.scales)?,
            tensor_scale: data.tensor_scale.as_ref().map(|r| self.write(r)).transpose()?,
        })
    }

    fn dense_region<'o, E: Element>(&self, operand: &'o Operand) -> Result<&'o Region> {
        match operand {
            Operand::Dense(dense) if dense.dtype == E::DTYPE => {
                dense.data.as_ref().ok_or_else(|| self.no_data())
            }
            _ => Err(self.error(format!("{operand} was asked for as {}", E::DTYPE))),
        }
    }

    fn no_data(&self) -> Error {
        self.error("an operand has no data")
    }

    fn misaligned<E: Element>(&self, operand: &Operand, e: bytemuck::PodCastError) -> Error {
        self.error(format!("{operand} can not be read as {} in place ({e}); copy it", E::DTYPE))
    }
}
