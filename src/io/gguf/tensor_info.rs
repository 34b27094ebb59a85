//! What the file says of each tensor.

use std::ops::Range;

use super::blocks::BlockType;
use super::reader::Reader;
use crate::error::Result;

/// Most tensors that are read from a file.
pub const MAX_TENSORS: usize = 1 << 20;
/// Most dimensions of a tensor, as in ggml.
pub const MAX_DIMS: usize = 4;
/// Longest tensor name in bytes. ggml itself stops at 64.
pub const MAX_TENSOR_NAME: usize = 1024;
/// Bytes of the shortest tensor entry: a one-byte name, no dimension, type, offset.
pub(super) const MIN_INFO_BYTES: usize = 8 + 1 + 4 + 4 + 8;

/// A tensor in a GGUF file: where it is and how it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// The tensor's name.
    pub name: String,
    /// How its values are stored.
    pub block: BlockType,
    /// Sizes, outermost first. The last one is the contiguous one, cut into blocks.
    pub shape: Vec<usize>,
    /// The bytes it takes, from the beginning of the file.
    pub bytes: Range<usize>,
}

impl TensorInfo {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads one entry. `bytes` is relative to the data section until the header's end is known.
    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self> {
        let name = r.string("a tensor name", MAX_TENSOR_NAME)?.to_owned();
        if name.is_empty() || name.contains('\0') {
            return Err(r.fail(format_args!(
                "tensor name {name:?} is empty or has a zero byte; the file is damaged"
            )));
        }
        let what = format!("tensor {name:?}");
        let n_dims = r.u32(&what)?;
        let n_dims = usize::try_from(n_dims).ok().filter(|n| *n <= MAX_DIMS).ok_or_else(|| {
            r.fail(format_args!("{what} has {n_dims} dimensions; at most {MAX_DIMS} are read"))
        })?;
        let mut shape = Vec::with_capacity(n_dims);
        // Zero sizes count as 1 here, so that the product of any of the sizes is known to fit.
        let mut extent = 1usize;
        for _ in 0..n_dims {
            let dim = usize::try_from(r.u64(&what)?).ok();
            let product = dim.and_then(|dim| extent.checked_mul(dim.max(1)));
            let (Some(dim), Some(product)) = (dim, product) else {
                return Err(r.fail(format_args!(
                    "{what} has more elements than can be addressed; the file is damaged"
                )));
            };
            shape.push(dim);
            extent = product;
        }
        let len: usize = shape.iter().product();
        let code = r.u32(&what)?;
        let block = BlockType::from_code(code).ok_or_else(|| {
            r.fail(format_args!(
                "{what} is stored as ggml type {code}, which is not known here; convert the file \
                 to one of {}",
                BlockType::decodable_names()
            ))
        })?;
        let inner = shape.first().copied().unwrap_or(1);
        if !inner.is_multiple_of(block.block_len()) {
            return Err(r.fail(format_args!(
                "{what} has rows of {inner} values, not a multiple of the {} of a {block} block",
                block.block_len()
            )));
        }
        shape.reverse();
        let offset = r.u64(&what)?;
        let bytes = (len / block.block_len()).checked_mul(block.block_bytes());
        let start = usize::try_from(offset).ok();
        let end = start.zip(bytes).and_then(|(start, bytes)| start.checked_add(bytes));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(r.fail(format_args!(
                "{what} ends past the address space: {len} values of {block} at offset {offset}"
            )));
        };
        Ok(Self { name, block, shape, bytes: start..end })
    }
}
