//! Outputs under test: poisoned memory before, their bytes after.

use std::ops::Range;

use super::blocks::compare_blocks;
use super::bounds::{Verdict, compare};
use super::expected::Expected;
use crate::Device;
use crate::error::Result;
use crate::format::{QuantizeOptions, Quantizer};
use crate::memory::{Buffer, Region};
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::{Op, Operand, Scaled, ScaledData};

/// Bytes before and after each part of an output that must stay as they are. A multiple of any
/// alignment that a kernel may ask for.
const GUARD: usize = 256;

/// An output in poisoned memory.
pub(super) struct Output {
    operand: Operand,
    poison: u8,
}

/// The bytes of an output: elements in row-major order; or codes, scales and tensor scale.
pub(super) type Parts = Vec<Vec<u8>>;

/// The operation with poisoned memory of its own for each output.
pub(super) fn with_outputs(device: &Device, op: &Op, poison: u8) -> Result<(Op, Vec<Output>)> {
    let mut op = op.clone();
    let mut outputs = Vec::new();
    for slot in op.outputs_mut() {
        let region = |len: usize, skip: usize| -> Result<Region> {
            let buffer = device.allocate(GUARD + skip + len + GUARD, "output under test")?;
            buffer.copy_from_host(0, &vec![poison; buffer.len()])?;
            Region::new(buffer, GUARD + skip, len)
        };
        match slot {
            Operand::Dense(dense) => {
                let size = dense.dtype.size();
                // Views begin anywhere.
                let skip = if dense.is_contiguous() { 0 } else { size };
                dense.data = Some(region(dense.span()? * size, skip)?);
            }
            Operand::Scaled(scaled) => {
                let layout = scaled.layout()?;
                scaled.data = Some(ScaledData {
                    codes: region(layout.codes_len(), 0)?,
                    scales: region(layout.scales_bytes(), 0)?,
                    tensor_scale: match layout.tensor_scale_len() {
                        0 => None,
                        n => Some(region(n * size_of::<f32>(), 0)?),
                    },
                });
            }
        }
        outputs.push(Output { operand: slot.clone(), poison });
    }
    Ok((op, outputs))
}

impl Output {
    /// What was written; an error when that was not only the output.
    pub(super) fn parts(&self) -> Result<Parts, String> {
        let whole = |region: &Region| [region.range()].into_iter();
        match &self.operand {
            Operand::Dense(dense) => {
                let Some(region) = &dense.data else { return Ok(Vec::new()) };
                let size = dense.dtype.size();
                let element = |at: usize| {
                    let start = region.offset() + at * size;
                    start..start + size
                };
                let elements = dense.offsets().into_iter().map(element);
                Ok(vec![self.take(region.buffer(), elements)?])
            }
            Operand::Scaled(Scaled { data: Some(data), .. }) => {
                let parts = [Some(&data.codes), Some(&data.scales), data.tensor_scale.as_ref()];
                let take = |region: &Region| self.take(region.buffer(), whole(region));
                parts.into_iter().flatten().map(take).collect()
            }
            Operand::Scaled(_) => Ok(Vec::new()),
        }
    }

    /// The bytes at `ranges`; all others must still be poison.
    fn take(
        &self,
        buffer: &Buffer,
        ranges: impl Iterator<Item = Range<usize>>,
    ) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; buffer.len()];
        buffer.copy_to_host(0, &mut bytes).map_err(|e| e.to_string())?;
        let mut taken = Vec::new();
        for range in ranges {
            taken.extend_from_slice(&bytes[range.clone()]);
            bytes[range].fill(self.poison);
        }
        match bytes.iter().position(|&b| b != self.poison) {
            None => Ok(taken),
            Some(at) => Err(format!(
                "byte {at} of the {} bytes around output {} was written, which is no part of it",
                bytes.len(),
                self.operand
            )),
        }
    }
}

/// The largest error, as a share of what is allowed, or what is wrong.
pub(super) fn check(
    operand: &Operand,
    options: Option<QuantizeOptions>,
    parts: &Parts,
    expected: &Expected,
) -> Result<f64, String> {
    match (operand, expected) {
        (Operand::Dense(dense), Expected::Values { values, errors }) => {
            let found = numbers(dense.dtype, parts.first().map_or(&[], |p| p));
            let mut worst = 0.0f64;
            for (i, ((found, exact), error)) in found.iter().zip(values).zip(errors).enumerate() {
                match compare(dense.dtype, *found, *exact, *error) {
                    Verdict::Within(ratio) => worst = worst.max(ratio),
                    Verdict::Wrong => {
                        return Err(format!(
                            "element {i} of {operand} is {found:e}, not {exact:e} ± {error:e}"
                        ));
                    }
                }
            }
            Ok(worst)
        }
        (Operand::Dense(dense), Expected::OneOf(right)) => {
            let found = numbers(dense.dtype, parts.first().map_or(&[], |p| p));
            let wrong = found.iter().zip(right).position(|(&found, right)| {
                let index = found as i64;
                index as f64 != found || !right.contains(&index)
            });
            match wrong {
                None => Ok(0.0),
                Some(i) => Err(format!(
                    "element {i} of {operand} is {}, not one of {:?}",
                    found[i], right[i]
                )),
            }
        }
        (Operand::Scaled(scaled), Expected::Values { values, errors }) => {
            let default = || Quantizer::default_for(scaled.format).into();
            compare_blocks(scaled, options.unwrap_or_else(default), parts, values, errors)
        }
        (Operand::Scaled(_), Expected::OneOf(_)) => Err(format!("{operand} holds no indices")),
    }
}

/// Numbers of a type.
fn numbers(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    fn read<E: Scalar>(bytes: &[u8]) -> Vec<f64> {
        let number = |chunk: &[u8]| bytemuck::pod_read_unaligned::<E>(chunk).to_f64();
        bytes.chunks_exact(size_of::<E>()).map(number).collect()
    }
    match dtype {
        DType::F64 => read::<f64>(bytes),
        DType::F32 => read::<f32>(bytes),
        DType::BF16 => read::<bf16>(bytes),
        DType::F16 => read::<f16>(bytes),
        DType::F8E4M3 => read::<F8E4M3>(bytes),
        DType::F8E5M2 => read::<F8E5M2>(bytes),
        DType::I64 => read::<i64>(bytes),
        DType::I32 => read::<i32>(bytes),
        DType::I16 => read::<i16>(bytes),
        DType::I8 => read::<i8>(bytes),
        DType::U64 => read::<u64>(bytes),
        DType::U32 => read::<u32>(bytes),
        DType::U16 => read::<u16>(bytes),
        DType::U8 | DType::E2M1x2 | DType::E8M0 | DType::UE4M3 => read::<u8>(bytes),
    }
}
