//! The CPU kernels that are written to be fast.

mod arg_reduce;
mod attention;
mod convert;
mod elementwise;
mod epilogue;
mod factors;
mod floats;
mod gather;
mod gemm;
mod grouped_gemm;
mod int8;
mod line_kernel;
mod lines;
mod norm;
mod offsets;
mod outputs;
mod product;
mod reduce;
mod rope;
mod rows;
mod scatter;
mod simd;
mod softmax;
mod top_k;

use std::sync::Arc;

use self::factors::Arithmetic;
use super::reference;
use crate::caps::Caps;
use crate::device::{Device, DeviceBuilder};
use crate::error::Result;
use crate::registry::{Kernel, KernelRegistry, Workers};

/// Every fast CPU kernel.
pub fn kernels() -> impl Iterator<Item = Arc<dyn Kernel>> {
    // Of kernels that are limited by memory alike the first is chosen.
    let kernels: [Arc<dyn Kernel>; 9] = [
        Arc::new(gemm::GemmKernel::new(Arithmetic::Fp4)),
        Arc::new(gemm::GemmKernel::new(Arithmetic::Int8)),
        Arc::new(gemm::GemmKernel::new(Arithmetic::Floats)),
        Arc::new(grouped_gemm::GroupedGemmKernel::new(Arithmetic::Fp4)),
        Arc::new(grouped_gemm::GroupedGemmKernel::new(Arithmetic::Int8)),
        Arc::new(grouped_gemm::GroupedGemmKernel::new(Arithmetic::Floats)),
        Arc::new(gather::GatherKernel::new()),
        Arc::new(scatter::ScatterKernel::new()),
        Arc::new(attention::AttentionKernel::new()),
    ];
    let lines = line_kernel::LineKernel::OPS.into_iter();
    let lines = lines.map(|op| Arc::new(line_kernel::LineKernel::new(op)) as Arc<dyn Kernel>);
    kernels.into_iter().chain(lines)
}

impl Device {
    /// The CPU with all of its cores, and no limit on memory but the system's.
    pub fn cpu() -> Self {
        let builder = Self::builder().isa_of_environment().unwrap_or_else(|error| {
            tracing::warn!(%error, "every instruction set is used");
            Self::builder()
        });
        let threads = builder.default_threads();
        builder.cpu_with(threads)
    }
}

impl DeviceBuilder {
    /// The CPU with these limits.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) for 0 threads, and for a name in
    /// [`ISA_VARIABLE`](crate::device::ISA_VARIABLE) that is no instruction set's.
    pub fn cpu(self) -> Result<Device> {
        let threads = self.thread_count()?;
        Ok(self.isa_of_environment()?.cpu_with(threads))
    }

    fn cpu_with(self, threads: usize) -> Device {
        let workers = Workers::with_threads(threads);
        Device::from_parts(
            "cpu",
            Caps { isa: self.allowed_isa(simd::detect()), ..Caps::cpu(workers.threads()) },
            self.pool("cpu"),
            workers,
            KernelRegistry::from_kernels(kernels().chain(reference::kernels())),
            self.request(),
        )
    }
}
