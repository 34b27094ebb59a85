//! Rotations of what linear layers multiply, in blocks, by Hadamard matrices.
//!
//! ```text
//! x·Wᵀ = (x·R)·(W·R)ᵀ,   R = diag(H, …, H) / √b
//! ```
//!
//! H has b rows and elements 1 and −1 (Sylvester's), so R is orthogonal, and symmetric: an input that
//! is larger than the others is spread over its block. What that does to a model whose weights are
//! then quantised, with error feedback and without, is in the README.

use anyhow::{Context, Result, ensure};
use ferrocerium::{AnyTensor, Device, Float, Tensor, bf16, f16};

/// Inputs of a block at most: a matrix is made of as many rows.
const LARGEST: usize = 1024;

/// Inputs that are multiplied at once, where there are many rows: to go through rows as short as a
/// block takes longer than to multiply them, and zeros change nothing.
const WIDE: usize = 64;

/// Which inputs of a model's layers are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotatedInputs {
    /// Inputs of a block.
    pub block: usize,
    /// Whether those of o come rotated: by v, whose outputs attention mixes and nothing else.
    pub by_values: bool,
}

/// R, for inputs on one device.
pub struct Rotation {
    inputs: RotatedInputs,
    /// `diag(H, …, H)` of 1, 2, 4, … blocks, up to [`WIDE`] inputs, in each type that activations have.
    matrices: Vec<[AnyTensor; 3]>,
}

impl Rotation {
    /// In blocks of `block` inputs, a power of two.
    pub fn new(device: &Device, inputs: RotatedInputs) -> Result<Self> {
        let block = inputs.block;
        ensure!(
            block.is_power_of_two() && block <= LARGEST,
            "inputs rotated in blocks of {block}: a power of two up to {LARGEST} is expected"
        );
        fn matrix<E: Float>(device: &Device, block: usize, size: usize) -> Result<AnyTensor> {
            let element = |[i, j]: [usize; 2]| match (i & j & (block - 1)).count_ones() % 2 {
                _ if i / block != j / block => E::from_f32(0.0),
                0 => E::from_f32(1.0),
                _ => E::from_f32(-1.0),
            };
            Ok(Tensor::from_fn(device, [size, size], element)?.into())
        }
        let sizes = std::iter::successors(Some(block), |size| Some(2 * size));
        let sizes = sizes.take_while(|&size| size <= WIDE.max(block));
        let matrices = sizes.map(|size| {
            Ok([
                matrix::<f32>(device, block, size)?,
                matrix::<bf16>(device, block, size)?,
                matrix::<f16>(device, block, size)?,
            ])
        });
        Ok(Rotation { inputs, matrices: matrices.collect::<Result<_>>()? })
    }

    /// The largest block up to `most`, a power of two, that the widths of all inputs are multiples of.
    pub fn block_for(widths: impl Iterator<Item = usize>, most: usize) -> usize {
        let common = widths.fold(most, |bits, width| bits | width);
        1 << common.trailing_zeros()
    }

    /// What it rotates.
    pub fn inputs(&self) -> RotatedInputs {
        self.inputs
    }

    /// A weight `[out, in]` for inputs that are rotated: of v with outputs that are, where o's come
    /// so.
    pub fn weight(&self, weight: &Tensor<f32, 2>, is_v: bool) -> Result<Tensor<f32, 2>> {
        let rotated = self.of(weight)?;
        match is_v && self.inputs.by_values {
            true => Ok(self.of(&rotated.t().contiguous()?)?.t().contiguous()?),
            false => Ok(rotated),
        }
    }

    /// `x·R`, rounded once.
    pub fn of<A: Float>(&self, x: &Tensor<A, 2>) -> Result<Tensor<A, 2>> {
        let (b, [m, k]) = (self.inputs.block, x.shape());
        ensure!(k.is_multiple_of(b), "rows of {k} have no whole blocks of {b} to be rotated");
        let mut wider = self.matrices.iter().enumerate().rev();
        let fitting = wider.find(|(i, _)| *i == 0 || m > 1 && k.is_multiple_of(b << i));
        let matrix = fitting
            .and_then(|(_, types)| types.iter().find(|matrix| matrix.dtype() == Some(A::DTYPE)));
        let matrix = matrix.with_context(|| format!("rotation of {}", A::DTYPE))?;
        let size = matrix.shape()[0];
        let blocks = x.reshape([m * k / size, size])?.gemm(matrix).alpha(1.0 / (b as f32).sqrt());
        Ok(blocks.run::<A>()?.reshape([m, k])?)
    }
}
