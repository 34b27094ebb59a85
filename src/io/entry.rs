//! A tensor in a file: what is stored where, and the ways to a tensor of the crate.

use std::fmt;

use super::decode;
#[cfg(feature = "gguf")]
use super::gguf::BlockType;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::memory::scratch;
use crate::memory::{Region, SourceFile};
use crate::num::{DType, Element, Scalar};
use crate::tensor::{AnyTensor, Tensor};

/// How the values of an [`Entry`] are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stored {
    /// Elements of this crate, usable in place.
    Elements(DType),
    /// Blocks of ggml, which are decoded or repacked.
    #[cfg(feature = "gguf")]
    Blocks(BlockType),
    /// A type that is not read here, by its name in the file.
    Other(&'static str),
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stored::Elements(dtype) => dtype.fmt(f),
            #[cfg(feature = "gguf")]
            Stored::Blocks(block) => block.fmt(f),
            Stored::Other(name) => f.pad(name),
        }
    }
}

/// A tensor in a file.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// How its values are stored.
    pub stored: Stored,
    /// Sizes in elements (for blocks: in values), outermost first.
    pub shape: Vec<usize>,
    /// Its bytes in the mapped file.
    pub region: Region,
    /// The same file, for reading. The region's offset is the file's.
    pub(super) file: SourceFile,
}

impl Entry {
    pub(super) fn describe(&self) -> String {
        format!(
            "{:?} in {} is {:?} {}",
            self.name,
            self.file.path().display(),
            self.shape,
            self.stored
        )
    }

    fn dtype(&self, op: &'static str) -> Result<DType> {
        match self.stored {
            Stored::Elements(dtype) => Ok(dtype),
            #[cfg(feature = "gguf")]
            Stored::Blocks(_) => Err(Error::dtype(
                op,
                "name",
                format!("{}: blocks have no element type; use decode()", self.describe()),
            )),
            Stored::Other(_) => Err(self.unreadable(op)),
        }
    }

    pub(super) fn unreadable(&self, op: &'static str) -> Error {
        Error::dtype(op, "name", format!("{}, a type that is not read here", self.describe()))
    }

    pub(super) fn shape<const R: usize>(&self, op: &'static str) -> Result<[usize; R]> {
        <[usize; R]>::try_from(&self.shape[..]).map_err(|_| {
            Error::shape(
                op,
                "R",
                format!("{}, of {} dimensions, not {R}", self.describe(), self.shape.len()),
            )
        })
    }

    /// Checks that the tensor holds elements of `E`, and gives its shape.
    fn expect<E: Element, const R: usize>(&self, op: &'static str) -> Result<[usize; R]> {
        if self.dtype(op)? != E::DTYPE {
            return Err(Error::dtype(
                op,
                "E",
                format!("{}, not {}; use decode() to convert", self.describe(), E::DTYPE),
            ));
        }
        self.shape(op)
    }

    /// Whether elements of that type can be used where they lie.
    pub(super) fn is_aligned(&self, dtype: DType) -> bool {
        // Every element type is as aligned as it is large.
        self.region.offset().is_multiple_of(dtype.size())
    }

    fn check_alignment(&self, op: &'static str, dtype: DType) -> Result<()> {
        if self.is_aligned(dtype) {
            return Ok(());
        }
        let (offset, align) = (self.region.offset(), dtype.size());
        Err(Error::layout(
            op,
            "name",
            format!(
                "{} and begins at byte {offset}, not a multiple of {align}, so it can not be used \
                 in place; use copy()",
                self.describe()
            ),
        ))
    }

    pub(super) fn get<E: Element, const R: usize>(&self, device: &Device) -> Result<Tensor<E, R>> {
        let shape = self.expect::<E, R>("get")?;
        self.check_alignment("get", E::DTYPE)?;
        Tensor::from_buffer(device, self.region.buffer().clone(), self.region.offset(), shape)
    }

    pub(super) fn any(&self, device: &Device) -> Result<AnyTensor> {
        let dtype = self.dtype("any")?;
        self.check_alignment("any", dtype)?;
        let (buffer, offset) = (self.region.buffer().clone(), self.region.offset());
        AnyTensor::from_buffer(device, dtype, &self.shape, buffer, offset)
    }

    pub(super) fn copy<E: Element, const R: usize>(&self, device: &Device) -> Result<Tensor<E, R>> {
        let shape = self.expect::<E, R>("copy")?;
        let out = Tensor::<E, R>::zeros_labelled(device, shape, &self.name)?;
        let source = self.region.buffer().read()?;
        out.region().buffer().copy_from_host(0, &source[self.region.range()])?;
        Ok(out)
    }

    /// Decodes the values. Blocks are cut into as many equal slices as there are scales, and
    /// multiplied by them.
    pub(super) fn decode_into<E: Scalar>(&self, scales: &[f32], out: &mut [E]) -> Result<()> {
        let source = self.region.buffer().read()?;
        self.decode_bytes(&source[self.region.range()], scales, out)
    }

    /// As [`decode_into`](Self::decode_into), of a stretch of the bytes that is given: whole
    /// elements, or whole blocks.
    pub(super) fn decode_bytes<E: Scalar>(
        &self,
        bytes: &[u8],
        scales: &[f32],
        out: &mut [E],
    ) -> Result<()> {
        // Without blocks there is nothing to scale.
        #[cfg(not(feature = "gguf"))]
        let _ = scales;
        match self.stored {
            Stored::Elements(dtype) => {
                decode::elements(dtype, bytes, out).ok_or_else(|| self.unreadable("decode"))
            }
            #[cfg(feature = "gguf")]
            Stored::Blocks(block) => decode::blocks(block, bytes, scales, out),
            Stored::Other(_) => Err(self.unreadable("decode")),
        }
    }

    /// Fills `out` with the tensor's bytes from `offset` on, by reading them from the file.
    pub(super) fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.file.read_at((self.region.offset() + offset) as u64, out)
    }

    /// All values of a small tensor, by reading them from the file.
    pub(super) fn read_f32s(&self) -> Result<Vec<f32>> {
        let mut bytes = scratch(self.region.len(), 0u8)?;
        let mut values = scratch(self.shape.iter().product(), 0.0f32)?;
        self.read_at(0, &mut bytes)?;
        self.decode_bytes(&bytes, &[1.0], &mut values)?;
        Ok(values)
    }

    /// The one f32 of a tensor that is a scale.
    pub(super) fn scalar(&self) -> Result<f32> {
        let mut value = [0.0f32];
        if self.shape.iter().product::<usize>() != 1 {
            return Err(Error::file(
                self.file.path(),
                format!("{}; a scale of one element was expected", self.describe()),
            ));
        }
        self.decode_into(&[1.0], &mut value)?;
        Ok(value[0])
    }
}
