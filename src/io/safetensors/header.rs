//! One file's header.

use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use crate::error::{Error, Result};
use crate::memory::SourceFile;
use crate::memory::scratch;
use crate::num::DType;

/// Longest header in bytes, as in the `safetensors` crate.
pub const MAX_HEADER: usize = 100_000_000;
/// Bytes of the header's length.
const LENGTH_BYTES: usize = size_of::<u64>();

/// A tensor in a safetensors file: where it is and how it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// The tensor's name.
    pub name: String,
    /// The element type; none for types that this crate has no element for (`C64`, `F6_E2M3`,
    /// `F6_E3M2`). `F4` is [`DType::E2M1x2`], `BOOL` is [`DType::U8`] (0 or 1).
    pub dtype: Option<DType>,
    /// The element type as the file names it.
    pub dtype_name: &'static str,
    /// Sizes in elements of `dtype`, outermost first: an `F4` tensor's last size is half of what
    /// the file says, since two codes are one [`DType::E2M1x2`].
    pub shape: Vec<usize>,
    /// The bytes it takes, from the beginning of the file.
    pub bytes: Range<usize>,
    /// Which of the model's files it is in.
    pub file: usize,
}

fn element(dtype: Dtype) -> (Option<DType>, &'static str) {
    match dtype {
        Dtype::BOOL => (Some(DType::U8), "BOOL"),
        Dtype::F4 => (Some(DType::E2M1x2), "F4"),
        Dtype::U8 => (Some(DType::U8), "U8"),
        Dtype::I8 => (Some(DType::I8), "I8"),
        Dtype::F8_E5M2 => (Some(DType::F8E5M2), "F8_E5M2"),
        Dtype::F8_E4M3 => (Some(DType::F8E4M3), "F8_E4M3"),
        Dtype::F8_E8M0 => (Some(DType::E8M0), "F8_E8M0"),
        Dtype::I16 => (Some(DType::I16), "I16"),
        Dtype::U16 => (Some(DType::U16), "U16"),
        Dtype::F16 => (Some(DType::F16), "F16"),
        Dtype::BF16 => (Some(DType::BF16), "BF16"),
        Dtype::I32 => (Some(DType::I32), "I32"),
        Dtype::U32 => (Some(DType::U32), "U32"),
        Dtype::F32 => (Some(DType::F32), "F32"),
        Dtype::F64 => (Some(DType::F64), "F64"),
        Dtype::I64 => (Some(DType::I64), "I64"),
        Dtype::U64 => (Some(DType::U64), "U64"),
        Dtype::C64 => (None, "C64"),
        Dtype::F6_E2M3 => (None, "F6_E2M3"),
        Dtype::F6_E3M2 => (None, "F6_E3M2"),
        _ => (None, "an unknown type"),
    }
}

/// Reads the header of the file `file`, of which `path` is named in errors and `index` noted in
/// each [`TensorInfo::file`]. Tensors come in the order of their data.
///
/// # Errors
/// [`Error::File`] when the header is cut short, longer than [`MAX_HEADER`], no JSON of the
/// expected form, has offsets with gaps or overlaps, sizes that do not match the shape, an empty
/// name, or does not describe the file to its last byte.
pub fn parse_header(file: &[u8], path: &Path, index: usize) -> Result<Vec<TensorInfo>> {
    let header_len = header_len(file.first_chunk(), file.len() as u64, path)?;
    let header = &file[LENGTH_BYTES..LENGTH_BYTES + header_len];
    tensors(header, file.len() - LENGTH_BYTES - header_len, path, index)
}

/// As [`parse_header`], reading the header and nothing else.
///
/// # Errors
/// As [`parse_header`], and [`Error::Io`].
pub fn read_header(file: &SourceFile, index: usize) -> Result<Vec<TensorInfo>> {
    let mut length = [0; LENGTH_BYTES];
    let has_length = file.len() >= LENGTH_BYTES as u64;
    if has_length {
        file.read_at(0, &mut length)?;
    }
    let header_len = header_len(has_length.then_some(&length), file.len(), file.path())?;
    let mut header = scratch(header_len, 0)?;
    file.read_at(LENGTH_BYTES as u64, &mut header)?;
    let Ok(file_len) = usize::try_from(file.len()) else {
        return Err(Error::file(file.path(), "larger than can be addressed here"));
    };
    tensors(&header, file_len - LENGTH_BYTES - header_len, file.path(), index)
}

/// The length of the header, which is within the file and [`MAX_HEADER`].
fn header_len(length: Option<&[u8; LENGTH_BYTES]>, file_len: u64, path: &Path) -> Result<usize> {
    let fail = |problem: String| Error::file(path, problem);
    let Some(length) = length else {
        return Err(fail(format!(
            "{file_len} bytes; a safetensors file begins with {LENGTH_BYTES} bytes of header \
             length: the file is truncated, fetch it again"
        )));
    };
    let length = u64::from_le_bytes(*length);
    let header_len = usize::try_from(length).ok().filter(|n| *n <= MAX_HEADER).ok_or_else(|| {
        fail(format!(
            "the header length is {length}, at most {MAX_HEADER} is read: not a safetensors file?"
        ))
    })?;
    let left = file_len - LENGTH_BYTES as u64;
    if length > left {
        return Err(fail(format!(
            "the header says it has {length} bytes but {left} are left: the file is truncated or \
             not a safetensors file"
        )));
    }
    Ok(header_len)
}

/// The tensors of a header that `data_len` bytes follow.
fn tensors(header: &[u8], data_len: usize, path: &Path, index: usize) -> Result<Vec<TensorInfo>> {
    let fail = |problem: String| Error::file(path, problem);
    // Trailing spaces pad the header, which JSON allows.
    let metadata: Metadata = serde_json::from_slice(header)
        .map_err(|e| fail(format!("the header is not a safetensors header: {e}")))?;
    if metadata.data_len() != data_len {
        return Err(fail(format!(
            "the header describes {} bytes of tensors, the file has {}: it is truncated or \
             damaged, fetch it again",
            metadata.data_len(),
            data_len
        )));
    }
    let data_start = LENGTH_BYTES + header.len();
    let mut tensors = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        if name.is_empty() || name.contains('\0') {
            return Err(fail(format!("tensor name {name:?} is empty or has a zero byte")));
        }
        // The crate's check stops at a size of zero; products of other sizes are taken here later.
        let extent = info.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
        if extent.is_none() {
            return Err(fail(format!("tensor {name:?} of shape {:?} overflows", info.shape)));
        }
        let (dtype, dtype_name) = element(info.dtype);
        let mut shape = info.shape.clone();
        if dtype == Some(DType::E2M1x2) {
            match shape.last_mut() {
                Some(k) if k.is_multiple_of(2) => *k /= 2,
                _ => {
                    return Err(fail(format!(
                        "tensor {name:?} of type F4 has shape {shape:?}; rows of an odd length \
                         are not read"
                    )));
                }
            }
        }
        let (start, end) = info.data_offsets;
        let bytes = data_start + start..data_start + end;
        tensors.push(TensorInfo { name, dtype, dtype_name, shape, bytes, file: index });
    }
    Ok(tensors)
}
