//! An open file, and the ways to a tensor.

use std::path::Path;

use super::Header;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::memory::{Region, SourceFile, prefer_huge_pages};
use crate::num::{DType, Element};
use crate::op::{Dense, Dims};
use crate::tensor::{AnyTensor, Tensor};

/// An array in a `.npy` file.
///
/// ```
/// use ferrocerium::{Device, Tensor, io::npy};
///
/// let device = Device::cpu();
/// # let folder = std::env::temp_dir().join(format!("ferrocerium-npy-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let path = folder.join("x.npy");
/// let x = Tensor::from_host(&device, [2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// npy::save(&path, &x.into())?;                    // for numpy.load
/// let file = npy::Npy::open(&path)?;
/// assert_eq!(file.header().shape, [2, 3]);
/// let mapped: Tensor<f32, 2> = file.get(&device)?;  // the file's own bytes
/// let read: Tensor<f32, 2> = file.read(&device)?;   // a copy in memory
/// assert_eq!(mapped.to_vec()?, read.to_vec()?);
/// # drop((mapped, file));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Npy {
    header: Header,
    file: SourceFile,
}

impl Npy {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`Error::Io`] when it can not be opened, [`Error::File`] as [`Header::parse`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = SourceFile::open(path)?;
        Ok(Self { header: Header::read(&file)?, file })
    }

    /// What the file says of its data.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The array in place: no byte is copied. An array in Fortran order is a view with the strides
    /// of that. The file must not change while the tensor lives; see
    /// [`Buffer::map_file`](crate::memory::Buffer::map_file).
    ///
    /// # Errors
    /// [`Error::DType`] or [`Error::Shape`] when the array's type or rank is another,
    /// [`Error::Layout`] for big-endian or misaligned data (then [`read`](Self::read) it),
    /// [`Error::Io`] when the file can not be mapped.
    pub fn get<E: Element, const R: usize>(&self, device: &Device) -> Result<Tensor<E, R>> {
        self.in_place(device, "get", self.is::<E>("get")?)?.tensor()
    }

    /// The array read into memory of the device, in the byte order of the machine.
    ///
    /// # Errors
    /// [`Error::DType`] or [`Error::Shape`] when the array's type or rank is another,
    /// [`Error::OutOfMemory`], [`Error::File`] and [`Error::Io`] when the file can not be read.
    pub fn read<E: Element, const R: usize>(&self, device: &Device) -> Result<Tensor<E, R>> {
        self.in_memory(device, "read", self.is::<E>("read")?)?.tensor()
    }

    /// As [`get`](Self::get), of any type and rank.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`Error::DType`] for bytes without a meaning.
    pub fn any(&self, device: &Device) -> Result<AnyTensor> {
        self.in_place(device, "any", self.dtype("any")?)
    }

    /// As [`read`](Self::read), of any type and rank.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`Error::DType`] for bytes without a meaning.
    pub fn read_any(&self, device: &Device) -> Result<AnyTensor> {
        self.in_memory(device, "read_any", self.dtype("read_any")?)
    }

    fn describe(&self) -> String {
        let Header { shape, descr, .. } = &self.header;
        format!("{} is {shape:?} of {descr:?}", self.file.path().display())
    }

    fn dtype(&self, op: &'static str) -> Result<DType> {
        self.header.dtype.ok_or_else(|| {
            let problem = format!("{}, bytes without a meaning: name it as E", self.describe());
            Error::dtype(op, "file", problem)
        })
    }

    /// That the array's elements are of `E`, or bytes that can be.
    fn is<E: Element>(&self, op: &'static str) -> Result<DType> {
        let fits = match self.header.dtype {
            Some(dtype) => dtype == E::DTYPE,
            None => self.header.size == size_of::<E>(),
        };
        fits.then_some(E::DTYPE).ok_or_else(|| {
            let problem = format!("{}, not {}; any() takes what it is", self.describe(), E::DTYPE);
            Error::dtype(op, "E", problem)
        })
    }

    fn in_place(&self, device: &Device, op: &'static str, dtype: DType) -> Result<AnyTensor> {
        let start = self.header.data.start;
        if self.header.big_endian || !start.is_multiple_of(dtype.size()) {
            let problem = format!(
                "{}, with its data from byte {start}: only little-endian, aligned data is used in \
                 place; use read()",
                self.describe()
            );
            return Err(Error::layout(op, "file", problem));
        }
        let region = Region::new(self.file.map()?, start, self.header.data.len())?;
        self.tensor(device, dtype, region)
    }

    fn in_memory(&self, device: &Device, op: &'static str, dtype: DType) -> Result<AnyTensor> {
        let Header { data, size, big_endian, .. } = &self.header;
        // Before memory is asked for: the shape may be more than a tensor has.
        self.dense(dtype)?;
        let buffer = device.allocate(data.len(), format!("{op} {}", self.file.path().display()))?;
        buffer.fill(|bytes| {
            prefer_huge_pages(bytes);
            self.file.read_at(data.start as u64, bytes)?;
            if *big_endian {
                bytes.chunks_exact_mut(*size).for_each(<[u8]>::reverse);
            }
            Ok(())
        })?;
        self.tensor(device, dtype, Region::whole(buffer))
    }

    fn dense(&self, dtype: DType) -> Result<Dense> {
        let shape = &self.header.shape;
        if !self.header.fortran_order {
            return Dense::spec(dtype, shape);
        }
        let reversed: Vec<usize> = shape.iter().rev().copied().collect();
        let mut dense = Dense::spec(dtype, &reversed)?;
        let strides: Vec<usize> = dense.strides.iter().rev().copied().collect();
        (dense.dims, dense.strides) = (Dims::new(shape)?, Dims::new(&strides)?);
        Ok(dense)
    }

    fn tensor(&self, device: &Device, dtype: DType, region: Region) -> Result<AnyTensor> {
        let mut dense = self.dense(dtype)?;
        dense.data = Some(region);
        Ok(AnyTensor::from_operand(device, dense.into()))
    }
}
