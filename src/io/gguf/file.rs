//! A GGUF file, mapped.

use std::path::Path;

use super::{Header, Metadata};
use crate::error::Result;
use crate::io::entry::{Entry, Stored};
use crate::memory::{Buffer, Region, SourceFile};

/// An open GGUF file: its checked header over the mapped bytes.
///
/// ```no_run
/// use ferrocerium::io::Gguf;
///
/// let file = Gguf::open("model.gguf")?;
/// println!("{:?}", file.metadata().str("general.architecture")?);
/// for t in file.header().tensors() {
///     println!("{} {:?} {}", t.name, t.shape, t.block);
/// }
/// # Ok::<(), ferrocerium::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Gguf {
    file: SourceFile,
    buffer: Buffer,
    header: Header,
}

impl Gguf {
    /// Reads the file's header and maps the file, which must not change while it is open.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when it can not be mapped, and those of [`Header::parse`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = SourceFile::open(path)?;
        let header = Header::read(&file)?;
        Ok(Self { buffer: file.map()?, file, header })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        self.header.metadata()
    }

    /// The mapped file.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    pub(in crate::io) fn entries(&self) -> Result<Vec<Entry>> {
        let entry = |t: &super::TensorInfo| {
            Ok(Entry {
                name: t.name.clone(),
                stored: t.block.dtype().map_or(Stored::Blocks(t.block), Stored::Elements),
                shape: t.shape.clone(),
                region: Region::new(self.buffer.clone(), t.bytes.start, t.bytes.len())?,
                file: self.file.clone(),
            })
        };
        self.header.tensors().iter().map(entry).collect()
    }
}
