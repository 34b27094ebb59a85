//! From stored bytes to elements of any type, a stretch at a time.

use half::{bf16, f16};

#[cfg(feature = "gguf")]
use super::gguf::BlockType;
#[cfg(feature = "gguf")]
use crate::error::Result;
use crate::num::{DType, E8M0, F8E4M3, F8E5M2, Scalar, UE4M3};

/// Values decoded at once: a multiple of every block length, and small enough for the nearest
/// cache.
#[cfg(feature = "gguf")]
const STRETCH: usize = 4096;

/// Decodes whole blocks through `f32`, in as many equal slices as there are scales, each value
/// multiplied by its slice's. The lengths have been checked by the header's reader.
#[cfg(feature = "gguf")]
pub(super) fn blocks<E: Scalar>(
    block: BlockType,
    bytes: &[u8],
    scales: &[f32],
    out: &mut [E],
) -> Result<()> {
    if scales.is_empty() || out.len() < scales.len() {
        return Ok(());
    }
    let (slice, slice_bytes) = (out.len() / scales.len(), bytes.len() / scales.len());
    let mut values = [0.0; STRETCH];
    let stretch_bytes = STRETCH / block.block_len() * block.block_bytes();
    let slices = bytes.chunks_exact(slice_bytes).zip(out.chunks_exact_mut(slice));
    for ((bytes, out), scale) in slices.zip(scales) {
        for (bytes, out) in bytes.chunks(stretch_bytes).zip(out.chunks_mut(STRETCH)) {
            let values = &mut values[..out.len()];
            block.decode(bytes, values)?;
            if *scale != 1.0 {
                values.iter_mut().for_each(|x| *x *= scale);
            }
            E::from_f32_slice(values, out);
        }
    }
    Ok(())
}

/// Converts elements in one rounding; `None` for a type that is not one number an element.
pub(super) fn elements<E: Scalar>(dtype: DType, bytes: &[u8], out: &mut [E]) -> Option<()> {
    if dtype == E::DTYPE {
        bytemuck::cast_slice_mut(out).copy_from_slice(bytes);
        return Some(());
    }
    match dtype {
        DType::F32 => through_f32::<f32, E>(bytes, out),
        DType::BF16 => through_f32::<bf16, E>(bytes, out),
        DType::F16 => through_f32::<f16, E>(bytes, out),
        DType::F8E4M3 => through_f32::<F8E4M3, E>(bytes, out),
        DType::F8E5M2 => through_f32::<F8E5M2, E>(bytes, out),
        DType::E8M0 => through_f32::<E8M0, E>(bytes, out),
        DType::UE4M3 => through_f32::<UE4M3, E>(bytes, out),
        DType::I8 => through_f32::<i8, E>(bytes, out),
        DType::U8 => through_f32::<u8, E>(bytes, out),
        DType::I16 => through_f32::<i16, E>(bytes, out),
        DType::U16 => through_f32::<u16, E>(bytes, out),
        DType::F64 => through_f64::<f64, E>(bytes, out),
        DType::I32 => through_f64::<i32, E>(bytes, out),
        DType::U32 => through_f64::<u32, E>(bytes, out),
        DType::I64 => through_f64::<i64, E>(bytes, out),
        DType::U64 => through_f64::<u64, E>(bytes, out),
        DType::E2M1x2 => return None,
    }
    Some(())
}

/// For types that `f32` holds exactly. The bytes may be misaligned.
fn through_f32<S: Scalar, E: Scalar>(bytes: &[u8], out: &mut [E]) {
    for (bytes, y) in bytes.chunks_exact(size_of::<S>()).zip(out) {
        *y = E::from_f32(bytemuck::pod_read_unaligned::<S>(bytes).to_f32());
    }
}

/// For wider types. 64-bit integers beyond 2^53 round to `f64` first.
fn through_f64<S: Scalar, E: Scalar>(bytes: &[u8], out: &mut [E]) {
    for (bytes, y) in bytes.chunks_exact(size_of::<S>()).zip(out) {
        *y = E::from_f64(bytemuck::pod_read_unaligned::<S>(bytes).to_f64());
    }
}
