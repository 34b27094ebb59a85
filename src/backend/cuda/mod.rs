//! GPUs: CUDA C++ kernels, compiled at first use for exactly the machine's architecture.
//!
//! ```text
//! kernels/*.cu ── Program ── NVRTC ──► PTX, kept on disk ── Driver ──► modules
//!                                                            │
//! Operand regions ── Call ── addresses ── Grid, arguments ── launch
//! ```
//!
//! Sources are embedded, so nothing but the NVRTC library is needed. What launches is behind
//! one small trait; with feature `emulator` it is [`ptx_vm`], see [`Device::emulated`]. All
//! else (sources, compiler, cache, kernels and their registry entries) does not know the
//! difference.
//!
//! A kernel is a file here with its [`Kernel`] implementation, and one of the same name in
//! `kernels/`.
//!
//! [`Device::emulated`]: crate::Device::emulated

mod args;
mod attention;
mod cache;
mod driver;
mod elementwise;
mod emulated;
mod epilogue;
mod gemm;
mod gpu;
mod norm;
mod nvrtc;
mod recorded;
mod rows;
mod softmax;
mod source;

use std::sync::Arc;

pub use cache::CACHE_VARIABLE;
pub use driver::{Grid, ModuleId};
pub use gpu::{Call, Gpu, Program};
pub use nvrtc::NVRTC_VARIABLE;
pub use recorded::{Launched, Recording};

use crate::caps::Caps;
use crate::registry::Kernel;
use rows::Registered;

/// Every GPU kernel, for one GPU.
pub fn kernels(gpu: &Arc<Gpu>) -> impl Iterator<Item = Arc<dyn Kernel>> {
    let gemm = gemm::Family::ALL.map(|family| gemm::GemmKernel::new(family, gpu.clone()));
    let gemm = gemm.into_iter().map(|kernel| Arc::new(kernel) as Arc<dyn Kernel>);
    let attention = attention::AttentionKernel::new(gpu.clone());
    let rows = [norm::NORM, softmax::SOFTMAX, elementwise::ELEMENTWISE];
    let rows = rows.map(|kernel| Registered::new(kernel, gpu.clone()));
    let rows = rows.into_iter().map(|kernel| Arc::new(kernel) as Arc<dyn Kernel>);
    gemm.chain([Arc::new(attention) as Arc<dyn Kernel>]).chain(rows)
}

/// Every program that these kernels can ask for on such a machine, for compiling ahead.
pub fn programs(caps: &Caps) -> Vec<Program> {
    let rows = vec![norm::program(), softmax::program(), elementwise::program()];
    [gemm::programs(caps), attention::programs(), rows].concat()
}
