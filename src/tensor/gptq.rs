//! Quantising with error feedback.

use super::any::AnyTensor;
use super::dense::Tensor;
use super::scaled::ScaledTensor;
use crate::error::{Error, Result};
use crate::format::{BlockFormat, Format, HessianFactor, Quantizer, RowQuantizer, amax};
use crate::num::{DType, Float};
use crate::op::Scaled;

const OP: &str = "quantize_gptq";

impl<E: Float> Tensor<E, 2> {
    /// A linear layer's weight `[out, in]` in block format `F`, quantised for the inputs that
    /// `factor` describes: each row's values in turn make good for the error of those before, in
    /// the manner of GPTQ. The formulas are [`RowQuantizer::quantize_row_gptq`]'s.
    ///
    /// A step of preparing a model, not of running it: done by the host, rows spread over the
    /// device's [workers](crate::Device::workers).
    ///
    /// ```
    /// use ferrocerium::format::{HessianFactor, Nvfp4, Quantizer};
    /// use ferrocerium::{Device, Tensor};
    /// let device = Device::cpu();
    /// // 64 inputs of a layer that differ little from one another, and its weights.
    /// let x = Tensor::from_fn(&device, [64, 32], |[i, j]| 1.0 + ((i * 7 + j * j) as f32).sin())?;
    /// let w = Tensor::from_fn(&device, [8, 32], |[i, j]| ((i * 32 + j) as f32 * 0.7).sin())?;
    ///
    /// let hessian: Tensor<f32, 2> = x.t().matmul(&x)?;
    /// let factor = HessianFactor::new(32, &hessian.to_vec()?, 0.01)?;
    /// let error = |q: &Tensor<f32, 2>| -> ferrocerium::Result<f32> {
    ///     let (y, exact) = (x.matmul(&q.t())?, x.matmul(&w.t())?);
    ///     Ok(y.to_vec()?.iter().zip(exact.to_vec()?).map(|(a, b)| (a - b).powi(2)).sum())
    /// };
    /// let with = w.quantize_gptq::<Nvfp4>(Quantizer::Mse, &factor)?.dequantize()?;
    /// let without = w.quantize_with::<Nvfp4>(Quantizer::Mse)?.dequantize()?;
    /// assert!(error(&with)? < 0.5 * error(&without)?);
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Value`] for NaN and infinity, for a quantiser that does not make `F`, and for
    /// formats whose rows share scales; [`Error::Shape`] for a factor of another size than `in`;
    /// [`Error::OutOfMemory`].
    pub fn quantize_gptq<F: BlockFormat>(
        &self,
        quantizer: Quantizer,
        factor: &HessianFactor,
    ) -> Result<ScaledTensor<F, 2>> {
        AnyTensor::from(self.clone()).quantize_gptq(F::FORMAT, quantizer, factor)?.scaled()
    }
}

impl AnyTensor {
    /// A linear layer's weight `[out, in]` in a block format, quantised with error feedback: see
    /// [`Tensor::quantize_gptq`].
    ///
    /// # Errors
    /// As there; [`Error::Shape`] for another rank than 2.
    pub fn quantize_gptq(
        &self,
        format: Format,
        quantizer: Quantizer,
        factor: &HessianFactor,
    ) -> Result<Self> {
        let &[_, k] = &self.shape()[..] else {
            let problem = format!("it is {self}: a matrix is expected, with a Hessian of its own");
            return Err(Error::shape(OP, "self", problem));
        };
        let weight = self.cast(DType::F32)?.tensor::<f32, 2>()?;
        let weight = weight.to_vec()?;
        let mut scaled = Scaled::spec(format, &self.operand().dims())?;
        scaled.allocate(|bytes, label| self.device().allocate(bytes, label))?;
        let layout = scaled.layout()?;
        let amax = amax(&weight).map_err(|found| {
            let (row, col) = (found.index / k.max(1), found.index % k.max(1));
            let problem = format!("[{row}, {col}] is {}, which no block format holds", found.value);
            Error::value(OP, "self", problem)
        })?;
        let rows = RowQuantizer::new(&layout, quantizer, amax)?;
        let Some(data) = &scaled.data else {
            return Err(Error::layout(OP, "self", "a specification has no data"));
        };
        if let Some(scale) = &data.tensor_scale {
            scale.buffer().write()?.copy_from_slice(&rows.tensor_scale().to_ne_bytes());
        }
        {
            let mut codes = data.codes.buffer().write()?;
            let mut scales = data.scales.buffer().write()?;
            let width = layout.scale_cols() * layout.spec().scale.size();
            let outputs =
                codes.chunks_mut(layout.row_bytes().max(1)).zip(scales.chunks_mut(width.max(1)));
            let mut jobs: Vec<_> = weight
                .chunks(k.max(1))
                .zip(outputs)
                .map(|(src, (codes, scales))| (src, codes, scales, Ok(0.0)))
                .collect();
            self.device().workers().chunks_mut(&mut jobs, 1, |row, jobs| {
                for (src, codes, scales, done) in jobs {
                    *done = rows.quantize_row_gptq(row, factor, src, codes, scales);
                }
            });
            jobs.into_iter().try_for_each(|(.., done)| done.map(drop))?;
        }
        Ok(AnyTensor::from_operand(self.device(), scaled.into()))
    }
}
