//! Attention: on tensor cores where operands are 16-bit elements or become such exactly
//! ([`flash`]), else a query of a head a block ([`general`]).

mod flash;
mod general;
mod tiles;

use std::sync::Arc;

use super::gpu::{Gpu, Program};
use crate::caps::{Caps, Isa};
use crate::registry::Kernel;

/// Every kernel, in order of registration.
pub(super) fn kernels(gpu: &Arc<Gpu>) -> impl Iterator<Item = Arc<dyn Kernel>> {
    let flash = flash::Variant::ALL.map(|variant| flash::FlashKernel::new(variant, gpu.clone()));
    let flash = flash.into_iter().map(|kernel| Arc::new(kernel) as Arc<dyn Kernel>);
    let general = general::AttentionKernel::new(gpu.clone());
    flash.chain([Arc::new(general) as Arc<dyn Kernel>])
}

/// Every program that such a machine can run, at the usual head sizes.
pub(super) fn programs(caps: &Caps) -> Vec<Program> {
    let mut programs = general::programs();
    if caps.has(Isa::Mma) {
        programs.extend(flash::programs());
    }
    programs
}
