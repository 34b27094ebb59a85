//! Writing a file.

use std::path::Path;

use super::header::{MAGIC, PREFIX};
use crate::error::{Error, Result};
use crate::io::partial::Partial;
use crate::num::DType;
use crate::op::Operand;
use crate::tensor::AnyTensor;

/// The data begins at a multiple of this, as in NumPy's own files.
const ALIGNMENT: usize = 64;

/// Writes a tensor to a file (version 1, C order) that `numpy.load` reads, under its name once it
/// is whole.
///
/// bf16 and FP8, of which NumPy knows nothing, are written as bytes without a meaning (`V2`,
/// `V1`): `numpy.load(path).view(ml_dtypes.bfloat16)` gives them theirs.
///
/// # Errors
/// [`Error::DType`] for block formats and packed FP4, which NumPy has no elements for;
/// [`Error::Layout`] for a tensor that is not contiguous; [`Error::Io`].
pub fn save(path: impl AsRef<Path>, tensor: &AnyTensor) -> Result<()> {
    let (op, arg) = ("save", "tensor");
    let dense = match tensor.operand() {
        Operand::Dense(dense) if dense.dtype != DType::E2M1x2 => dense,
        _ => {
            let problem = format!("it is {tensor}; an array has whole elements: dequantize it");
            return Err(Error::dtype(op, arg, problem));
        }
    };
    if !dense.is_contiguous() {
        let problem = format!("{tensor} with strides {}; contiguous() it first", dense.strides);
        return Err(Error::layout(op, arg, problem));
    }
    let Some(region) = &dense.data else {
        return Err(Error::layout(op, arg, format!("{tensor} has no data")));
    };
    let header = header(dense.dtype, &dense.dims);
    let data = region.buffer().read()?;
    let out = Partial::open(path.as_ref())?;
    let written = out
        .io(out.file.set_len(0))
        .and_then(|()| out.write_all_at(&header, 0))
        .and_then(|()| out.write_all_at(&data[region.range()], header.len() as u64))
        .and_then(|()| out.finish());
    written.inspect_err(|_| out.discard())
}

/// The file up to its data.
fn header(dtype: DType, shape: &[usize]) -> Vec<u8> {
    // One size is a tuple too: `(2,)`.
    let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let text = format!(
        "{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}",
        descr(dtype),
        if shape.len() == 1 { sizes.trim_end() } else { sizes.trim_end_matches(", ") }
    );
    let start = (PREFIX + text.len() + 1).next_multiple_of(ALIGNMENT);
    // At most MAX_RANK sizes: far less than two bytes can count.
    let length = (start - PREFIX) as u16;
    let mut out = [&MAGIC[..], &[1, 0], &length.to_le_bytes(), text.as_bytes()].concat();
    out.resize(start - 1, b' ');
    out.push(b'\n');
    out
}

fn descr(dtype: DType) -> &'static str {
    match dtype {
        DType::U8 => "|u1",
        DType::I8 => "|i1",
        DType::U16 => "<u2",
        DType::I16 => "<i2",
        DType::U32 => "<u4",
        DType::I32 => "<i4",
        DType::U64 => "<u8",
        DType::I64 => "<i8",
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::BF16 => "<V2",
        DType::F8E4M3 | DType::F8E5M2 | DType::UE4M3 | DType::E8M0 | DType::E2M1x2 => "|V1",
    }
}
