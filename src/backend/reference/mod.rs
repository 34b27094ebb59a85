//! The oracle: plain loops in f64, written to be read beside the formula.
//!
//! Every kernel here does the same three steps: load its operands as [`Array`]s of f64 (each
//! value exactly what its type or format says), compute the formula of the operation's
//! documentation with plain loops, store the result with one rounding to the output's type. It
//! is meant to be believed, not to be fast.

mod arg_reduce;
mod array;
mod attention;
mod convert;
mod elementwise;
mod gather;
mod gemm;
mod grouped_gemm;
mod kernel;
mod norm;
mod reduce;
mod rope;
mod scatter;
mod softmax;
mod top_k;

pub use array::Array;
#[cfg(feature = "testing")]
pub(crate) use elementwise::evaluate;

use std::sync::Arc;

use crate::caps::Caps;
use crate::device::{Device, DeviceBuilder};
use crate::op::OpKind;
use crate::registry::{Kernel, KernelRegistry, Workers};

/// The reference kernel of every operation.
pub fn kernels() -> impl Iterator<Item = Arc<dyn Kernel>> {
    OpKind::ALL.into_iter().map(|op| Arc::new(kernel::Reference::new(op)) as Arc<dyn Kernel>)
}

impl Device {
    /// The reference device: every operation in plain f64 loops on the calling thread.
    pub fn reference() -> Self {
        Self::builder().reference()
    }
}

impl DeviceBuilder {
    /// A reference device with these limits. It always runs on the calling thread.
    pub fn reference(self) -> Device {
        Device::from_parts(
            "reference",
            Caps::cpu(1),
            self.pool("reference"),
            Workers::sequential(),
            KernelRegistry::from_kernels(kernels()),
            self.request(),
        )
    }
}
