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

/// R, for inputs on one device.
pub struct Rotation {
    block: usize,
    /// H in each type that activations have.
    matrices: [AnyTensor; 3],
}

impl Rotation {
    /// In blocks of `block` inputs, a power of two.
    pub fn new(device: &Device, block: usize) -> Result<Self> {
        ensure!(
            block.is_power_of_two() && block <= LARGEST,
            "inputs rotated in blocks of {block}: a power of two up to {LARGEST} is expected"
        );
        fn matrix<E: Float>(device: &Device, block: usize) -> Result<AnyTensor> {
            let odd = |i: usize| ((i / block) & (i % block)).count_ones() % 2 == 1;
            let sign = |i: usize| if odd(i) { -1.0 } else { 1.0 };
            let signs: Vec<E> = (0..block * block).map(|i| E::from_f32(sign(i))).collect();
            Ok(Tensor::from_host(device, [block, block], &signs)?.into())
        }
        let matrices = [
            matrix::<f32>(device, block)?,
            matrix::<bf16>(device, block)?,
            matrix::<f16>(device, block)?,
        ];
        Ok(Rotation { block, matrices })
    }

    /// The largest block up to `most`, a power of two, that the widths of all inputs are multiples of.
    pub fn block_for(widths: impl Iterator<Item = usize>, most: usize) -> usize {
        let common = widths.fold(most, |bits, width| bits | width);
        1 << common.trailing_zeros()
    }

    /// Inputs of a block.
    pub fn block(&self) -> usize {
        self.block
    }

    /// `x·R`, rounded once.
    pub fn of<A: Float>(&self, x: &Tensor<A, 2>) -> Result<Tensor<A, 2>> {
        let (b, [m, k]) = (self.block, x.shape());
        ensure!(k.is_multiple_of(b), "rows of {k} have no whole blocks of {b} to be rotated");
        let matrix = self.matrices.iter().find(|matrix| matrix.dtype() == Some(A::DTYPE));
        let matrix = matrix.with_context(|| format!("rotation of {}", A::DTYPE))?;
        let blocks = x.reshape([m * k / b, b])?.gemm(matrix).alpha(1.0 / (b as f32).sqrt());
        Ok(blocks.run::<A>()?.reshape([m, k])?)
    }
}
