//! Tensors laid side by side.

use super::dense::Tensor;
use super::matmul::require_same_device;
use super::shape::check_axis;
use crate::error::{Error, Result};
use crate::num::Element;

impl<E: Element, const R: usize> Tensor<E, R> {
    /// The tensors one after the other along `axis`, copied into one.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// let a = Tensor::from_host(&device, [2, 1], &[1, 2])?;
    /// let b = Tensor::from_host(&device, [2, 2], &[3, 4, 5, 6])?;
    /// assert_eq!(Tensor::concat(1, &[&a, &b])?.to_vec()?, [1, 3, 4, 2, 5, 6]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`] for no tensors, [`Error::Shape`] when the axis is not there or shapes
    /// differ elsewhere, [`Error::Device`] across devices.
    pub fn concat(axis: usize, tensors: &[&Self]) -> Result<Self> {
        const OP: &str = "concat";
        check_axis::<R>(OP, axis)?;
        let first = first(OP, tensors)?;
        let mut shape = first.shape;
        shape[axis] = 0;
        for (i, tensor) in tensors.iter().enumerate() {
            require_same_device(&first.device, &tensor.device)?;
            let beside = |other: usize| other == axis || tensor.shape[other] == first.shape[other];
            if !(0..R).all(beside) {
                return Err(Error::shape(
                    OP,
                    "tensors",
                    format!(
                        "tensor {i} is {:?}, tensor 0 is {:?}: only dimension {axis} may differ",
                        tensor.shape, first.shape
                    ),
                ));
            }
            // Sizes of tensors that hold no bytes can be anything.
            shape[axis] = shape[axis].checked_add(tensor.shape[axis]).ok_or_else(|| {
                Error::shape(OP, "tensors", "the sizes add up to more than a usize can count")
            })?;
        }
        let out = Tensor::zeros(&first.device, shape)?;
        let sizes: Vec<usize> = tensors.iter().map(|t| t.shape[axis]).collect();
        for (piece, tensor) in out.split(axis, &sizes)?.iter().zip(tensors) {
            piece.copy_from(tensor)?;
        }
        Ok(out)
    }

    /// Tensors of one shape as the slices of a new dimension before `axis`, copied: `S` is
    /// `R + 1`.
    ///
    /// # Errors
    /// Those of [`Tensor::concat`] and [`Tensor::unsqueeze`].
    pub fn stack<const S: usize>(axis: usize, tensors: &[&Self]) -> Result<Tensor<E, S>> {
        let shape = first("stack", tensors)?.shape;
        let unsqueezed = tensors.iter().enumerate().map(|(i, tensor)| {
            if tensor.shape != shape {
                return Err(Error::shape(
                    "stack",
                    "tensors",
                    format!("tensor {i} is {:?}, tensor 0 is {shape:?}: not equal", tensor.shape),
                ));
            }
            tensor.unsqueeze(axis)
        });
        let unsqueezed = unsqueezed.collect::<Result<Vec<Tensor<E, S>>>>()?;
        Tensor::concat(axis, &unsqueezed.iter().collect::<Vec<_>>())
    }
}

fn first<'t, E: Element, const R: usize>(
    op: &'static str,
    tensors: &[&'t Tensor<E, R>],
) -> Result<&'t Tensor<E, R>> {
    tensors.first().copied().ok_or_else(|| {
        Error::value(op, "tensors", "there are none; their shape would be unknown: pass at least 1")
    })
}
