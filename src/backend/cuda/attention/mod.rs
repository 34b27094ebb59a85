//! Attention: on tensor cores where operands are 16-bit elements or become such exactly
//! ([`flash`]), else a query of a head a block ([`general`]).

mod flash;
mod general;
mod key_runs;
mod plan;
mod tiles;

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use super::args::Matrix;
use super::gpu::{Call, Gpu, Program};
use crate::caps::{Caps, Isa};
use crate::error::{Error, Result};
use crate::memory::Access;
use crate::op::{Attention, AttentionSizes, KvLayout, Operand, Sequence};
use crate::registry::{Kernel, Launch};

/// Every kernel, in order of registration.
pub(super) fn kernels(gpu: &Arc<Gpu>) -> impl Iterator<Item = Arc<dyn Kernel>> {
    let flash = plan::Variant::ALL.map(|variant| flash::FlashKernel::new(variant, gpu.clone()));
    let flash = flash.into_iter().map(|kernel| Arc::new(kernel) as Arc<dyn Kernel>);
    let general = general::AttentionKernel::new(gpu.clone());
    flash.chain([Arc::new(general) as Arc<dyn Kernel>])
}

/// Every program that such a machine can run, at the usual head sizes.
pub(super) fn programs(caps: &Caps) -> Vec<Program> {
    let mut programs = general::programs();
    if caps.has(Isa::Mma) {
        programs.extend(plan::programs(caps));
    }
    programs
}

/// `Lengths`
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
struct Lengths {
    data: u64,
    wrong: u64,
    step: i64,
    dtype: i32,
    reserved: i32,
}

impl Lengths {
    /// Binds lengths that the GPU alone knows.
    fn bind(lengths: &Operand, sizes: &AttentionSizes, call: &mut Call<'_, '_>) -> Result<Self> {
        let (dims, most) = (lengths.dims(), sizes.kv_rows);
        let read = Matrix::bind_indices(call, "kv_lens", lengths, Access::Read, &dims)?;
        let wrong = call.watch(move |word| {
            let problem = format!("element {} is not 0 to {most}, what there is room for", !word);
            Error::value("attention", "kv_lens", problem)
        })?;
        Ok(Lengths { data: read.address, wrong, step: read.col, dtype: read.dtype, reserved: 0 })
    }
}

/// The sequences of an operation, and its lengths where the GPU alone knows them: operations that
/// are recorded are run again for others, and what is in memory of the GPU's own is not waited for.
/// The sequences are as long as there is room for then.
fn sequences<'o>(
    op: &'o Attention,
    sizes: &AttentionSizes,
    launch: &Launch<'_>,
) -> Result<(Vec<Sequence>, Option<&'o Operand>)> {
    let own = match &op.kv {
        KvLayout::Batched { kv_lens: Some(lengths) } if op.cu_seqlens_q.is_none() => Some(lengths),
        _ => None,
    };
    let own = own.filter(|lengths| launch.defers(lengths));
    let room = || vec![sizes.kv_rows as i64; sizes.batch];
    let sequences = op.sequences(|operand| match own {
        Some(_) => Ok(room()),
        None => launch.read_indices(operand),
    })?;
    Ok((sequences, own))
}
