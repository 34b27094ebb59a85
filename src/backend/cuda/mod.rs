//! GPUs: CUDA C++ kernels, compiled at first use for exactly the machine's architecture.
//!
//! ```text
//! kernels/*.cu ── Program ── NVRTC ──► PTX or cubin, kept on disk ── Driver ──► modules
//!                                                                     │
//! Operand regions ── Call ── addresses ── Grid, arguments ── launch ── stream ── work
//! ```
//!
//! Sources are embedded, so nothing but the NVRTC library is needed. What launches is behind a few
//! small traits (`driver`): with feature `cuda` a GPU's driver, see `Device::cuda`; with feature
//! `emulator` the crate `ptx-vm`, see `Device::emulated`. All else (sources, compiler, cache,
//! streams and what they keep alive, kernels and their registry entries) does not know the
//! difference.
//!
//! A kernel is a file here with its [`Kernel`] implementation, and one of the same name in
//! `kernels/`.

mod arg_reduce;
mod args;
mod attention;
mod attributes;
mod cache;
mod convert;
mod driver;
mod dry;
mod elementwise;
#[cfg(feature = "emulator")]
mod emulated;
mod epilogue;
mod failure;
mod gather;
mod gemm;
mod gpu;
mod lock;
#[cfg(feature = "cuda")]
mod native;
mod norm;
mod nvrtc;
mod nvtx;
mod quantize;
mod recorded;
mod reduce;
mod rope;
mod rows;
mod scatter;
mod shares;
mod softmax;
mod source;
mod stream;
mod top_k;
mod views;

use std::sync::Arc;

pub use attributes::Attributes;
pub use cache::CACHE_VARIABLE;
pub use driver::{Grid, ModuleId};
pub use gpu::{Call, Compiled, Gpu, Program};
pub use nvrtc::NVRTC_VARIABLE;
pub use recorded::{Launched, Recording};

use crate::backend::reference;
use crate::caps::Caps;
use crate::device::{Device, DeviceBuilder};
use crate::error::Result;
use crate::op::OpKind;
use crate::registry::{Kernel, KernelRegistry, Workers};
use rows::Registered;

/// Every GPU kernel, for one GPU.
pub fn kernels(gpu: &Arc<Gpu>) -> impl Iterator<Item = Arc<dyn Kernel>> {
    let products = [OpKind::Gemm, OpKind::GroupedGemm].into_iter().flat_map(|op| {
        let tiles = gemm::Family::ALL.map(|family| gemm::TileKernel::new(op, family, gpu.clone()));
        let tiles = tiles.into_iter().map(|kernel| Arc::new(kernel) as Arc<dyn Kernel>);
        tiles.chain([Arc::new(gemm::StreamKernel::new(op, gpu.clone())) as Arc<dyn Kernel>])
    });
    let rows = [
        convert::CONVERT,
        quantize::QUANTIZE,
        norm::NORM,
        elementwise::ELEMENTWISE,
        gather::GATHER,
        scatter::SCATTER,
        rope::ROPE,
        softmax::SOFTMAX,
        reduce::REDUCE,
        arg_reduce::ARG_REDUCE,
        top_k::TOP_K,
    ];
    let rows = rows.map(|kernel| Registered::new(kernel, gpu.clone()));
    let rows = rows.into_iter().map(|kernel| Arc::new(kernel) as Arc<dyn Kernel>);
    products.chain(attention::kernels(gpu)).chain(rows)
}

/// Every program that these kernels can ask for on such a machine, for compiling ahead.
pub fn programs(caps: &Caps) -> Vec<Program> {
    let single = vec![
        convert::program(),
        gather::program(),
        scatter::program(),
        rope::program(),
        softmax::program(),
        top_k::program(),
    ];
    let several = [
        quantize::programs(),
        norm::programs(),
        elementwise::programs(),
        reduce::programs(),
        arg_reduce::programs(),
    ];
    [gemm::programs(caps), attention::programs(caps), single, several.concat()].concat()
}

/// A device of a GPU, of its kernels and those of the reference.
fn device(builder: DeviceBuilder, name: &str, caps: Caps, gpu: &Arc<Gpu>) -> Result<Device> {
    let memory_kind = builder.memory_kind(&caps.memory_kinds)?;
    let pool = builder.pool(name).with_backend(gpu.streams().clone(), &caps.memory_kinds);
    let caps = Caps { isa: builder.allowed_isa(caps.isa.clone()), memory_kind, ..caps };
    let registry = KernelRegistry::from_kernels(kernels(gpu).chain(reference::kernels()));
    Device::from_parts(name, caps, pool, Workers::sequential(), registry, builder.request())
        .with_accelerator(gpu.clone())
}
