//! Measuring which kernel is fastest.

use std::time::{Duration, Instant};

use super::Device;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::registry::{Explanation, Request, Tier, Verdict};

/// Runs of each kernel after one that does not count; the median counts.
const RUNS: usize = 5;

impl Device {
    /// Runs the operation with each kernel that may be chosen for it and is no fallback, 6 times
    /// each, and has the fastest one run operations like it from now on. Gives the times, fastest
    /// first; none where only fallbacks run it.
    ///
    /// What the operation writes is written by the last kernel that ran. See
    /// [`Tuning`](crate::registry::Tuning) for what is alike, and for keeping it on disk.
    ///
    /// ```
    /// # use ferrocerium::{Device, Tensor, op::Gemm};
    /// let device = Device::cpu();
    /// let x = Tensor::full(&device, [64, 64], 1.0f32)?;
    /// let y = Tensor::<f32, 2>::zeros(&device, [64, 64])?;
    /// for (kernel, time) in device.tune(&Gemm::new(x.operand(), x.operand(), y.operand()).into())? {
    ///     println!("{kernel}: {time:?}");
    /// }
    /// # Ok::<(), ferrocerium::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Device::run`].
    pub fn tune(&self, op: &Op) -> Result<Vec<(String, Duration)>> {
        op.validate()?;
        op.require_data()?;
        let explanation: Explanation = self.registry().explain(op, self.caps(), &self.request);
        if explanation.chosen().is_none() {
            return Err(Error::NoKernel {
                op: op.to_string(),
                device: self.name().to_owned(),
                explanation: explanation.to_string(),
            });
        }
        let eligible = explanation.candidates.into_iter().filter(|candidate| {
            candidate.info.tier == Tier::Fast && !matches!(candidate.verdict, Verdict::Rejected(_))
        });
        let mut times = Vec::new();
        for candidate in eligible {
            let name = candidate.info.name;
            let request = Request { kernel: Some(name.clone()), ..(*self.request).clone() };
            let device = self.with_request(request);
            device.run(op)?;
            device.synchronize()?;
            let mut runs = [Duration::ZERO; RUNS];
            for time in &mut runs {
                let start = Instant::now();
                device.run(op)?;
                device.synchronize()?;
                *time = start.elapsed();
            }
            runs.sort();
            times.push((name, runs[RUNS / 2]));
        }
        times.sort_by_key(|(_, time)| *time);
        if let Some((fastest, _)) = times.first() {
            self.registry().update_tuning(|t| t.set_fastest(op, self.caps(), fastest));
        }
        Ok(times)
    }
}
