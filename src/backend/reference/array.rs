//! Operands as plain row-major f64.

use crate::error::{Error, Result};
use crate::format::{self, Quantizer};
use crate::num::{DType, E2M1x2, E8M0, Element, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, f16};
use crate::op::{Dense, Dims, Operand, Scaled};
use crate::registry::Launch;

/// A row-major array of f64: an operand's values, exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes, outermost first.
    pub dims: Vec<usize>,
    /// Values in row-major order.
    pub data: Vec<f64>,
}

/// Runs `$body` with `$E` standing for the Rust type of a data type that holds numbers.
macro_rules! with_scalar {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            DType::F64 => {
                type $E = f64;
                $body
            }
            DType::F32 => {
                type $E = f32;
                $body
            }
            DType::BF16 => {
                type $E = bf16;
                $body
            }
            DType::F16 => {
                type $E = f16;
                $body
            }
            DType::F8E4M3 => {
                type $E = F8E4M3;
                $body
            }
            DType::F8E5M2 => {
                type $E = F8E5M2;
                $body
            }
            DType::E8M0 => {
                type $E = E8M0;
                $body
            }
            DType::UE4M3 => {
                type $E = UE4M3;
                $body
            }
            DType::I64 => {
                type $E = i64;
                $body
            }
            DType::I32 => {
                type $E = i32;
                $body
            }
            DType::I16 => {
                type $E = i16;
                $body
            }
            DType::I8 => {
                type $E = i8;
                $body
            }
            DType::U64 => {
                type $E = u64;
                $body
            }
            DType::U32 => {
                type $E = u32;
                $body
            }
            DType::U16 => {
                type $E = u16;
                $body
            }
            DType::U8 => {
                type $E = u8;
                $body
            }
            DType::E2M1x2 => Err(Error::dtype(
                "reference",
                "operand",
                "packed codes without scales are not numbers; wrap them in a block format",
            )),
        }
    };
}

pub(super) use with_scalar;

impl Array {
    /// Zeros.
    pub fn zeros(dims: &[usize]) -> Result<Self> {
        let len = Dims::new(dims)?.numel()?;
        Ok(Array { dims: dims.to_vec(), data: vec![0.0; len] })
    }

    /// The values of an input, in row-major order of its logical sizes.
    pub fn load(launch: &Launch<'_>, operand: &Operand) -> Result<Self> {
        match operand {
            Operand::Dense(dense) => {
                with_scalar!(dense.dtype, E => load_dense::<E>(launch, operand, dense))
            }
            Operand::Scaled(scaled) => load_scaled(launch, scaled),
        }
    }

    /// The values of an input that may be left out.
    pub fn load_opt(launch: &Launch<'_>, operand: Option<&Operand>) -> Result<Option<Self>> {
        operand.map(|operand| Self::load(launch, operand)).transpose()
    }

    /// Stores into an output: one rounding to its type. A block-scaled output is quantised from
    /// the values rounded to f32, which is what quantisers take.
    pub fn store(
        &self,
        launch: &Launch<'_>,
        operand: &Operand,
        quantize: QuantizeWith,
    ) -> Result<()> {
        match operand {
            Operand::Dense(dense) => {
                with_scalar!(dense.dtype, E => store_dense::<E>(self, launch, operand, dense))
            }
            Operand::Scaled(scaled) => store_scaled(self, launch, scaled, quantize),
        }
    }

    /// Rounds each value to an output's type, as storing it there would.
    pub fn round_to(&mut self, dtype: DType) -> Result<()> {
        fn round<E: Scalar>(values: &mut [f64]) -> Result<()> {
            values.iter_mut().for_each(|x| *x = E::from_f64(*x).to_f64());
            Ok(())
        }
        with_scalar!(dtype, E => round::<E>(&mut self.data))
    }

    /// The last size, and how many rows of it there are.
    pub fn rows_cols(&self) -> (usize, usize) {
        match self.dims.split_last() {
            Some((&cols, rows)) => (rows.iter().product(), cols),
            None => (1, 1),
        }
    }

    /// The position of the first element of the matrix (last two sizes) at a batch index, which
    /// may be into sizes that the leading sizes broadcast to.
    pub fn matrix_start(&self, batch: &[usize]) -> usize {
        let (leading, matrix) = self.dims.split_at(self.dims.len() - 2);
        let batch = &batch[batch.len() - leading.len()..];
        let at = leading.iter().zip(batch).fold(0, |at, (&d, &i)| at * d + i.min(d - 1));
        at * matrix[0] * matrix[1]
    }

    /// The value at an index into sizes that this array broadcasts to (aligned at the last
    /// dimension): where it has size 1, the index does not matter.
    pub fn broadcast_get(&self, index: &[usize]) -> f64 {
        let index = &index[index.len() - self.dims.len()..];
        let at = self.dims.iter().zip(index).fold(0, |at, (&d, &i)| at * d + i.min(d - 1));
        self.data[at]
    }
}

/// Moves elements as they are, bit for bit: the one at row-major position `p` of `dst` comes from
/// position `source(p)` of `src`, which has the same type.
pub(super) fn copy_elements(
    launch: &Launch<'_>,
    src: &Operand,
    dst: &Operand,
    source: impl Fn(usize) -> usize,
) -> Result<()> {
    match dst.dtype() {
        Some(DType::E2M1x2) => map_elements::<E2M1x2, _>(launch, src, dst, source, |x| x),
        Some(dtype) => {
            with_scalar!(dtype, E => map_elements::<E, E>(launch, src, dst, source, |x| x))
        }
        None => Err(not_dense()),
    }
}

/// The element at row-major position `p` of `dst` is `f` of the one at position `source(p)` of
/// `src`.
pub(super) fn map_elements<S: Element, D: Element>(
    launch: &Launch<'_>,
    src: &Operand,
    dst: &Operand,
    source: impl Fn(usize) -> usize,
    f: impl Fn(S) -> D,
) -> Result<()> {
    let (Operand::Dense(from), Operand::Dense(to)) = (src, dst) else { return Err(not_dense()) };
    let (input, output) = (launch.read_dense::<S>(src)?, launch.write_dense::<D>(dst)?);
    for (position, offset) in to.offsets().into_iter().enumerate() {
        output[offset] = f(input[strided(source(position), &from.dims, &from.strides)]);
    }
    Ok(())
}

fn not_dense() -> Error {
    Error::layout("reference", "operand", "plain elements are expected")
}

/// The strided offset of a row-major position.
fn strided(mut position: usize, dims: &[usize], strides: &[usize]) -> usize {
    let mut offset = 0;
    for (&d, &s) in dims.iter().zip(strides).rev() {
        offset += position % d * s;
        position /= d;
    }
    offset
}

/// The index, into sizes `dims`, of a row-major position.
pub(super) fn unravel(mut position: usize, dims: &[usize]) -> Vec<usize> {
    let mut index = vec![0; dims.len()];
    for (i, &d) in index.iter_mut().zip(dims).rev() {
        *i = position % d;
        position /= d;
    }
    index
}

fn load_dense<E: Scalar>(launch: &Launch<'_>, operand: &Operand, dense: &Dense) -> Result<Array> {
    let elements = launch.read_dense::<E>(operand)?;
    let mut array = Array::zeros(&dense.dims)?;
    for (value, offset) in array.data.iter_mut().zip(dense.offsets()) {
        *value = elements[offset].to_f64();
    }
    Ok(array)
}

fn store_dense<E: Scalar>(
    array: &Array,
    launch: &Launch<'_>,
    operand: &Operand,
    dense: &Dense,
) -> Result<()> {
    let elements = launch.write_dense::<E>(operand)?;
    for (value, offset) in array.data.iter().zip(dense.offsets()) {
        elements[offset] = E::from_f64(*value);
    }
    Ok(())
}

fn load_scaled(launch: &Launch<'_>, scaled: &Scaled) -> Result<Array> {
    let layout = scaled.layout()?;
    let bytes = launch.read_scaled(scaled)?;
    let mut stored = Array::zeros(&scaled.dims)?;
    let (codes, scales) = (bytes.codes, bytes.scales);
    format::dequantize_f64(&layout, codes, scales, bytes.tensor_scale, &mut stored.data)?;
    if !scaled.transposed {
        return Ok(stored);
    }
    let logical = scaled.logical_dims();
    let mut array = Array::zeros(&logical)?;
    let &[.., k, rows] = &logical[..] else { return Ok(stored) };
    for (matrix, source) in
        array.data.chunks_mut((rows * k).max(1)).zip(stored.data.chunks((rows * k).max(1)))
    {
        for row in 0..rows {
            for col in 0..k {
                matrix[col * rows + row] = source[row * k + col];
            }
        }
    }
    Ok(array)
}

/// How a block-scaled output is quantised.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuantizeWith {
    /// `None` for the format's default.
    pub quantizer: Option<Quantizer>,
    /// `None` for the one that the values call for.
    pub tensor_scale: Option<f32>,
}

fn store_scaled(
    array: &Array,
    launch: &Launch<'_>,
    scaled: &Scaled,
    with: QuantizeWith,
) -> Result<()> {
    let layout = scaled.layout()?;
    let bytes = launch.write_scaled(scaled)?;
    let values: Vec<f32> = array.data.iter().map(|&x| x as f32).collect();
    let options = format::QuantizeOptions {
        quantizer: with.quantizer.unwrap_or_else(|| Quantizer::default_for(scaled.format)),
        tensor_scale: with.tensor_scale,
    };
    let tensor_scale = bytes.tensor_scale.map(bytemuck::try_from_bytes_mut::<f32>).transpose();
    let tensor_scale = tensor_scale.map_err(|e| {
        Error::layout("quantize", "tensor_scale", format!("it is not an aligned f32: {e}"))
    })?;
    let out = format::Quantized { codes: bytes.codes, scales: bytes.scales, tensor_scale };
    format::quantize(&layout, options, &values, out)
}
