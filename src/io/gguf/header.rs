//! The whole header, checked against the file it stands in.

use std::collections::HashMap;
use std::path::Path;

use super::metadata::Metadata;
use super::reader::Reader;
use super::tensor_info::{MAX_TENSORS, MIN_INFO_BYTES, TensorInfo};
use crate::error::{Error, Result};
use crate::memory::SourceFile;
use crate::memory::resize;

/// Largest `general.alignment` that is accepted.
pub const MAX_ALIGNMENT: usize = 1 << 20;
/// Alignment of the data when the file does not state one.
const DEFAULT_ALIGNMENT: u64 = 32;
const MAGIC: &[u8; 4] = b"GGUF";

/// Everything a GGUF file says before its data.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    version: u32,
    metadata: Metadata,
    alignment: usize,
    data_start: usize,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl Header {
    /// Reads the header of the file `file`, of which `path` is named in errors.
    ///
    /// # Errors
    /// [`Error::File`] when the bytes are not a little-endian GGUF file of version 2 or 3, are
    /// cut short, exceed a limit of this module, hold a name twice, or describe a tensor that is
    /// misaligned, leaves the file or overlaps another.
    pub fn parse(file: &[u8], path: &Path) -> Result<Self> {
        Self::parse_from(&mut Reader::new(file, file.len(), path), file.len(), path)
    }

    /// Reads the header of a file, and no more of it than that and as much again.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and [`Error::Io`].
    pub fn read(file: &SourceFile) -> Result<Self> {
        /// What is read at first: enough for a model without its vocabulary.
        const FIRST: usize = 1 << 16;
        let Ok(len) = usize::try_from(file.len()) else {
            return Err(Error::file(file.path(), "larger than can be addressed here"));
        };
        let mut bytes = Vec::new();
        let mut wanted = FIRST;
        loop {
            let have = bytes.len();
            resize(&mut bytes, wanted.max(2 * have).min(len), 0)?;
            file.read_at(have as u64, &mut bytes[have..])?;
            let mut r = Reader::new(&bytes, len, file.path());
            match (Self::parse_from(&mut r, len, file.path()), r.wanted()) {
                (Err(_), Some(more)) => wanted = more,
                (result, _) => return result,
            }
        }
    }

    fn parse_from(r: &mut Reader<'_>, file_len: usize, path: &Path) -> Result<Self> {
        let magic = r.take(MAGIC.len(), "the GGUF magic")?;
        if magic != MAGIC {
            return Err(Error::file(
                path,
                format!(
                    "begins with {:02x?}, not \"GGUF\": not a GGUF file; for safetensors pass the \
                     .safetensors file or its folder",
                    magic
                ),
            ));
        }
        let version = r.u32("the version")?;
        match version {
            2 | 3 => {}
            // Versions are small: a file of the other byte order has its version in the top byte.
            v if v > 0xFFFF && v.swap_bytes() <= 0xFFFF => {
                return Err(Error::file(
                    path,
                    "a big-endian GGUF file; only little-endian ones are read: convert it with \
                     gguf_convert_endian.py of the gguf package",
                ));
            }
            v => {
                return Err(Error::file(
                    path,
                    format!(
                        "GGUF version {v}; versions 2 and 3 are read: convert the model again with \
                         a current llama.cpp"
                    ),
                ));
            }
        }
        let tensor_count = r.u64("the tensor count")?;
        let metadata_count = r.u64("the metadata count")?;
        // Checked before the metadata is read: both counts speak of the same remaining bytes.
        r.check_count(tensor_count, "the tensor count", MAX_TENSORS, MIN_INFO_BYTES)?;
        let metadata = Metadata::read(r, metadata_count)?;
        let alignment = alignment(&metadata, path)?;
        let tensor_count =
            r.check_count(tensor_count, "the tensor count", MAX_TENSORS, MIN_INFO_BYTES)?;
        let mut tensors = Vec::with_capacity(tensor_count);
        let mut by_name = HashMap::with_capacity(tensor_count);
        for i in 0..tensor_count {
            let tensor = TensorInfo::read(r)?;
            if by_name.insert(tensor.name.clone(), i).is_some() {
                return Err(r.fail(format_args!("tensor {:?} is there twice", tensor.name)));
            }
            tensors.push(tensor);
        }
        // `position` is at most the length of a slice, which leaves room for the alignment.
        let data_start = r.position().next_multiple_of(alignment);
        place(&mut tensors, data_start, alignment, file_len, path)?;
        Ok(Self { version, metadata, alignment, data_start, tensors, by_name })
    }

    /// The format version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Alignment of the data section and of each tensor in it.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Where the data section begins in the file.
    pub fn data_start(&self) -> usize {
        self.data_start
    }

    /// Every tensor, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }
}

fn alignment(metadata: &Metadata, path: &Path) -> Result<usize> {
    let key = "general.alignment";
    let stated = metadata.u64(key).map_err(|e| Error::file(path, e.to_string()))?;
    let found = stated.unwrap_or(DEFAULT_ALIGNMENT);
    usize::try_from(found).ok().filter(|a| a.is_power_of_two() && *a <= MAX_ALIGNMENT).ok_or_else(
        || {
            Error::file(
                path,
                format!("{key} is {found}; expected a power of two up to {MAX_ALIGNMENT}"),
            )
        },
    )
}

/// Moves each tensor's range from the data section to the file, refusing what does not fit.
fn place(
    tensors: &mut [TensorInfo],
    data_start: usize,
    alignment: usize,
    file_len: usize,
    path: &Path,
) -> Result<()> {
    for t in tensors.iter_mut() {
        if !t.bytes.start.is_multiple_of(alignment) {
            return Err(Error::file(
                path,
                format!(
                    "tensor {:?} is at offset {}, not a multiple of the alignment {alignment}",
                    t.name, t.bytes.start
                ),
            ));
        }
        let moved = |at: usize| at.checked_add(data_start);
        let range = moved(t.bytes.start).zip(moved(t.bytes.end));
        // An empty tensor may stand where the padding before it would begin past the end.
        let Some((start, end)) = range.filter(|(s, e)| *e <= file_len || s == e) else {
            return Err(Error::file(
                path,
                format!(
                    "tensor {:?} needs bytes {} to {} of the data section, which has {}: the \
                     file is truncated or damaged; fetch it again",
                    t.name,
                    t.bytes.start,
                    t.bytes.end,
                    file_len.saturating_sub(data_start)
                ),
            ));
        };
        t.bytes = if start == end { start.min(file_len)..start.min(file_len) } else { start..end };
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|t| !t.bytes.is_empty()).collect();
    order.sort_unstable_by_key(|t| t.bytes.start);
    for pair in order.windows(2) {
        if pair[0].bytes.end > pair[1].bytes.start {
            return Err(Error::file(
                path,
                format!(
                    "tensors {:?} (bytes {:?}) and {:?} (bytes {:?}) overlap; the file is damaged",
                    pair[0].name, pair[0].bytes, pair[1].name, pair[1].bytes
                ),
            ));
        }
    }
    Ok(())
}
