//! Putting slices where indices say.

use super::dense::Tensor;
use super::gather::IndexElement;
use super::matmul::require_same_device;
use crate::error::Result;
use crate::num::Element;
use crate::op::Scatter;

impl<E: Element, const R: usize> Tensor<E, R> {
    /// Moves each slice of `src` along dimension `axis` into this tensor's memory, to the place that
    /// its index names: `self[.., indices[i], ..] = src[.., i, ..]`. Other places are left as they
    /// are; of several slices for one place the last one stays. Clones and views see it.
    ///
    /// The places are data: a recorded [`Graph`](crate::device::Graph) puts slices elsewhere each
    /// time that they change, such as new keys into a cache.
    ///
    /// ```
    /// use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// let cache = Tensor::<f32, 2>::zeros(&device, [4, 2])?;
    /// let rows = Tensor::from_host(&device, [2, 2], &[1.0f32, 2.0, 3.0, 4.0])?;
    /// let at = Tensor::from_host(&device, [2], &[3u32, 1])?;
    /// cache.scatter_from(0, &at, &rows)?;
    /// assert_eq!(cache.to_vec()?, [0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 1.0, 2.0]);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) for an index out of range, on a GPU where the tensor is
    /// read; [`Error::Shape`](crate::Error::Shape) for a missing axis or sizes that differ along
    /// another one; [`Error::Layout`](crate::Error::Layout) when both lie in one buffer;
    /// [`Error::Device`](crate::Error::Device) across devices.
    pub fn scatter_from<I: IndexElement>(
        &self,
        axis: usize,
        indices: &Tensor<I, 1>,
        src: &Tensor<E, R>,
    ) -> Result<()> {
        require_same_device(self.device(), indices.device())?;
        require_same_device(self.device(), src.device())?;
        let (src, indices, out) = (src.operand(), indices.operand(), self.operand());
        self.device().run(&Scatter { src, indices, axis, out }.into())
    }
}
