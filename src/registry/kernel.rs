//! The interface of a kernel.

use std::fmt;
use std::time::Duration;

use super::launch::Launch;
use crate::caps::Caps;
use crate::error::Result;
use crate::op::{Op, OpKind};

/// One implementation of one operation.
///
/// Implement it to bring your own; [`examples/custom_kernel.rs`] shows one, start to finish. It gets
/// operand descriptors and locked bytes, and states for itself what it takes:
///
/// ```
/// use ferrocerium::caps::Caps;
/// use ferrocerium::op::{Function, Op, OpKind};
/// use ferrocerium::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};
/// use ferrocerium::{DType, Device, Result, Tensor};
///
/// /// `-x` of contiguous f32.
/// struct Negate(KernelInfo);
///
/// impl Kernel for Negate {
///     fn info(&self) -> &KernelInfo {
///         &self.0
///     }
///
///     fn supports(&self, op: &Op, _: &Caps) -> Result<(), Unsupported> {
///         match op {
///             Op::Elementwise(op) if op.function == Function::Neg => {}
///             _ => return Err(Unsupported::because("it only negates")),
///         }
///         let plain = |o: &ferrocerium::op::Operand| {
///             o.as_dense().is_some_and(|d| d.dtype == DType::F32 && d.is_contiguous())
///         };
///         match op.operands().iter().all(|u| plain(u.operand)) {
///             true => Ok(()),
///             false => Err(Unsupported::because("operands must be contiguous f32")),
///         }
///     }
///
///     fn cost(&self, op: &Op, _: &Caps) -> Cost {
///         Cost { seconds: op.work() * 1e-10 }
///     }
///
///     fn launch(&self, launch: &Launch<'_>) -> Result<()> {
///         let Op::Elementwise(op) = launch.op else { return Ok(()) };
///         let (x, out) = (launch.read_dense::<f32>(&op.a)?, launch.write_dense::<f32>(&op.out)?);
///         out.iter_mut().zip(x).for_each(|(out, x)| *out = -x);
///         Ok(())
///     }
/// }
///
/// let device = Device::cpu();
/// let info = KernelInfo::new("mine.negate", OpKind::Elementwise, "one pass");
/// device.registry().register(Negate(info))?;
/// let x = Tensor::from_host(&device, [2], &[1.0f32, -2.0])?;
/// assert_eq!(x.neg()?.to_vec()?, [-1.0, 2.0]);
/// assert_eq!(device.launches()["mine.negate"], 1);
/// # Ok::<(), ferrocerium::Error>(())
/// ```
///
/// [`examples/custom_kernel.rs`]: https://github.com/ferrocerium/ferrocerium/blob/main/examples/custom_kernel.rs
pub trait Kernel: Send + Sync + 'static {
    /// Name, operation and properties.
    fn info(&self) -> &KernelInfo;

    /// Whether the operation, as specified, can run on a machine like this; the reason when not.
    ///
    /// Must depend on nothing but its arguments: the answer decides a choice that is promised to
    /// be the same every time.
    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported>;

    /// An estimate of the time it takes. Called only where [`Kernel::supports`] holds.
    fn cost(&self, op: &Op, caps: &Caps) -> Cost;

    /// Which of its variants runs the operation, in a few words for
    /// [`explain`](crate::Device::explain). Called only where [`Kernel::supports`] holds.
    fn variant(&self, op: &Op, caps: &Caps) -> Option<String> {
        let _ = (op, caps);
        None
    }

    /// Runs a validated operation that it supports.
    ///
    /// # Errors
    /// Whatever only data can show: an index out of range, a NaN where none may be.
    fn launch(&self, launch: &Launch<'_>) -> Result<()>;
}

/// What a kernel says of itself.
#[derive(Clone, Debug)]
pub struct KernelInfo {
    /// Unique in a registry: `"<backend>.<operation>[.<variant>]"`.
    pub name: String,
    /// The operation it implements.
    pub op: OpKind,
    /// One line: how it does it.
    pub summary: String,
    /// What it does to the numbers.
    pub numerics: Numerics,
    /// Whether it is meant to be chosen, or is there so that everything runs.
    pub tier: Tier,
    /// Whether a row's result is the same bits whatever else is in the batch.
    pub batch_invariant: bool,
    /// Whether results are the same bits from run to run.
    pub deterministic: bool,
}

impl KernelInfo {
    /// A deterministic, batch-invariant kernel of class [`Numerics::AsGiven`].
    pub fn new(name: impl Into<String>, op: OpKind, summary: impl Into<String>) -> Self {
        KernelInfo {
            name: name.into(),
            op,
            summary: summary.into(),
            numerics: Numerics::AsGiven,
            tier: Tier::Fast,
            batch_invariant: true,
            deterministic: true,
        }
    }

    /// The same kernel, marked as a fallback.
    pub fn fallback(mut self) -> Self {
        self.tier = Tier::Fallback;
        self
    }
}

/// What a kernel does to numbers, from the strictest class to the freest. An operation asks for
/// the freest class it accepts ([`Request::numerics`](super::Request)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Numerics {
    /// Operands enter with the values their types say; sums are kept in f32 or wider.
    #[default]
    AsGiven,
    /// What stands between two products is rounded to the operands' 16-bit type: attention's
    /// weights, before they meet values.
    RoundedIntermediates,
    /// Sums are kept in less than f32 in places.
    ReducedAccumulation,
    /// Operands are rounded to a narrower format inside the kernel.
    ///
    /// Of matrix products: A's rows of f32, bf16 or f16, before they meet FP4, to int8 in blocks of
    /// 16 along k. The scale s of a block is 1/127 of its largest magnitude, at least 2⁻¹⁰⁰; codes
    /// are the integers nearest to x / s, ties to even. So an element moves by at most half of s,
    /// and a product by at most `Σ s/2 · |b|`. Rows with a value of 2¹⁰⁰ or more, an infinity or NaN
    /// are multiplied as they are.
    NarrowedOperands,
    /// Operands are rounded to eight bits inside the kernel, also those that a format holds which is as
    /// wide.
    ///
    /// Of attention: queries, keys, weights and values to MXFP8, E4M3 codes of which 32 share an E8M0
    /// scale s. Blocks are along the head, or 32 consecutive keys for weights and values; s is the
    /// least power of two, from 2⁻¹²⁷ on, that is at least 1/448 of the block's largest magnitude, of
    /// weights at least that within a 128th. So an element x moves by at most the larger of `|x|/16`
    /// and `2⁻¹⁰·s`. Keys that a query does not see have a part in a block's scale, but in nothing
    /// else.
    EightBitOperands,
    /// Operands are rounded to four bits inside the kernel.
    ///
    /// Of attention: queries, keys, weights and values to NVFP4, E2M1 codes of which 16 share a UE4M3
    /// scale s, in units u of an f32. Blocks are along the head, or 16 consecutive keys for weights and
    /// values; u is 1/2688 of a query's largest magnitude, or of what is the largest of keys and
    /// values so far, and of 1 for weights. A block's s·u is a sixth of its largest magnitude within a
    /// 16th and 2⁻¹⁰·u. So an element x moves by at most the larger of `|x|/5` and
    /// `s·u/4`, and by `6·2⁻¹⁰·u`. Keys that a query does not see have a part in a block's scale and in
    /// u, but in nothing else.
    FourBitOperands,
}

impl fmt::Display for Numerics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Numerics::AsGiven => "as given",
            Numerics::RoundedIntermediates => "rounded intermediates",
            Numerics::ReducedAccumulation => "reduced accumulation",
            Numerics::NarrowedOperands => "narrowed operands",
            Numerics::EightBitOperands => "eight-bit operands",
            Numerics::FourBitOperands => "four-bit operands",
        })
    }
}

/// Whether a kernel is meant to be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Written to be fast.
    Fast,
    /// Written so that everything runs; an error in strict mode.
    Fallback,
}

/// Why a kernel does not run an operation, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(pub String);

impl Unsupported {
    /// The reason.
    pub fn because(reason: impl Into<String>) -> Self {
        Unsupported(reason.into())
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An estimate of how long a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Cost {
    /// Seconds.
    pub seconds: f64,
}

impl Cost {
    /// The larger of the time for `flops` at `flops_per_second` and for `bytes` at
    /// `bytes_per_second`: a roofline.
    pub fn roofline(flops: f64, flops_per_second: f64, bytes: f64, bytes_per_second: f64) -> Self {
        Cost { seconds: (flops / flops_per_second).max(bytes / bytes_per_second) }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Duration::try_from_secs_f64(self.seconds) {
            Ok(time) => write!(f, "{time:.2?}"),
            Err(_) => write!(f, "{} s", self.seconds),
        }
    }
}
