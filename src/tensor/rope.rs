//! Rotary position embedding.

use super::dense::Tensor;
use super::gather::IndexElement;
use super::matmul::require_same_device;
use crate::error::Result;
use crate::num::Float;
use crate::op::{Positions, Rope, RopeFrequencies, RopeStyle};

impl<E: Float, const R: usize> Tensor<E, R> {
    /// Queries or keys `[.., seq, heads, d]` rotated by their positions `start`, `start + 1`, …:
    /// see [`Rope`] for the formula.
    ///
    /// ```
    /// use ferrocerium::op::{RopeFrequencies, RopeScaling, RopeStyle};
    /// use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// let frequencies = RopeFrequencies::new(10_000.0, 2, &RopeScaling::None)?;
    /// let x = Tensor::from_host(&device, [2, 1, 2], &[1.0f32, 0.0, 1.0, 0.0])?;
    /// let y = x.rope(&frequencies, RopeStyle::HalfSplit, 0)?;
    /// assert_eq!(y.to_vec()?, [1.0, 0.0, 1f32.cos(), 1f32.sin()]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) below 3 dimensions, or where more elements are to be
    /// rotated than a head has.
    pub fn rope(
        &self,
        frequencies: &RopeFrequencies,
        style: RopeStyle,
        start: usize,
    ) -> Result<Self> {
        self.rotated(frequencies, style, Positions::From(start))
    }

    /// [`Tensor::rope`] into memory that is there, such as the place of new keys in a cache.
    ///
    /// ```
    /// use ferrocerium::op::{RopeFrequencies, RopeScaling, RopeStyle};
    /// use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// let frequencies = RopeFrequencies::new(10_000.0, 2, &RopeScaling::None)?;
    /// let cache = Tensor::<f32, 3>::zeros(&device, [8, 1, 2])?;
    /// let key = Tensor::from_host(&device, [1, 1, 2], &[1.0f32, 0.0])?;
    /// key.rope_into(&frequencies, RopeStyle::HalfSplit, 5, &cache.slice(0, 5..6)?)?;
    /// assert_eq!(cache.host()?[[5, 0, 0]], 5f32.cos());
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Tensor::rope`]; [`Error::Shape`](crate::Error::Shape) where `out` has other
    /// sizes; [`Error::Device`](crate::Error::Device) across devices.
    pub fn rope_into<O: Float>(
        &self,
        frequencies: &RopeFrequencies,
        style: RopeStyle,
        start: usize,
        out: &Tensor<O, R>,
    ) -> Result<()> {
        require_same_device(self.device(), out.device())?;
        self.rotate_into(frequencies, style, Positions::From(start), out)
    }

    /// [`Tensor::rope`] with a position for each element of the sequence: `[.., seq]`, leading
    /// sizes 1 or left out where they are shared.
    ///
    /// # Errors
    /// Those of [`Tensor::rope`]; [`Error::Shape`](crate::Error::Shape) when the sizes do not
    /// broadcast to those of the tensor; [`Error::Device`](crate::Error::Device) across devices.
    pub fn rope_at<I: IndexElement, const P: usize>(
        &self,
        frequencies: &RopeFrequencies,
        style: RopeStyle,
        positions: &Tensor<I, P>,
    ) -> Result<Self> {
        require_same_device(self.device(), positions.device())?;
        self.rotated(frequencies, style, Positions::Given(positions.operand()))
    }

    fn rotated(
        &self,
        frequencies: &RopeFrequencies,
        style: RopeStyle,
        positions: Positions,
    ) -> Result<Self> {
        let out = Tensor::for_result(self.device(), self.shape())?;
        self.rotate_into(frequencies, style, positions, &out)?;
        Ok(out)
    }

    fn rotate_into<O: Float>(
        &self,
        frequencies: &RopeFrequencies,
        style: RopeStyle,
        positions: Positions,
        out: &Tensor<O, R>,
    ) -> Result<()> {
        let op = Rope {
            x: self.operand(),
            positions,
            style,
            frequencies: frequencies.clone(),
            out: out.operand(),
        };
        self.device().run(&op.into())
    }
}
