//! Matrix products.

use super::epilogue::{Finisher, Terms};
use super::factors::Arithmetic;
use super::outputs::OutputMatrices;
use super::product::{Block, Product};
use super::rows::{column_source, row_source, with_small_float};
use crate::caps::{Caps, Target};
use crate::error::{Error, Result};
use crate::memory::room;
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::{Epilogue, Gemm, Op, OpKind, Operand};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Numerics, Unsupported};

/// `cpu.gemm`, `cpu.gemm.fp4` and `cpu.gemm.int8`
pub(super) struct GemmKernel(KernelInfo, Arithmetic);

impl GemmKernel {
    pub(super) fn new(arithmetic: Arithmetic) -> Self {
        GemmKernel(kernel_info("cpu.gemm", OpKind::Gemm, arithmetic), arithmetic)
    }
}

/// What a kernel of matrix products says of itself.
pub(super) fn kernel_info(name: &str, op: OpKind, arithmetic: Arithmetic) -> KernelInfo {
    match arithmetic {
        Arithmetic::Floats => KernelInfo::new(
            name,
            op,
            "register tiles of dot products, weights unpacked in registers, f32 accumulation",
        ),
        Arithmetic::Fp4 => KernelInfo::new(
            format!("{name}.fp4"),
            op,
            "FP4 with FP4: blocks of 16 summed exactly in integers, their sums scaled and added in f32",
        ),
        Arithmetic::Int8 => KernelInfo {
            numerics: Numerics::NarrowedOperands,
            ..KernelInfo::new(
                format!("{name}.int8"),
                op,
                "A rounded to int8 in blocks of 16, times FP4 in integers; block sums scaled and added \
                 in f32",
            )
        },
    }
}

impl Kernel for GemmKernel {
    fn info(&self) -> &KernelInfo {
        &self.0
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        let Op::Gemm(op) = op else { return Err(Unsupported::because("not a gemm")) };
        supports_operands([&op.a, &op.b], op.c.as_ref(), &op.epilogue, &op.d, caps)?;
        self.1.supports(&op.a, &op.b)
    }

    fn cost(&self, op: &Op, caps: &Caps) -> Cost {
        let Op::Gemm(op) = op else { return Cost { seconds: f64::INFINITY } };
        let products = op.sizes().map_or(0.0, |s| s.products());
        cost(self.1, products, stored_bytes(&op.a) + stored_bytes(&op.b), caps)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Gemm(op) => gemm(self.1, op, launch),
            _ => Err(Error::kernel(&self.0.name, "not a gemm")),
        }
    }
}

/// Whether the operands of a matrix product are such as [`Product`] takes.
pub(super) fn supports_operands(
    inputs: [&Operand; 2],
    c: Option<&Operand>,
    epilogue: &Epilogue,
    d: &Operand,
    caps: &Caps,
) -> Result<(), Unsupported> {
    if caps.target != Target::Cpu {
        return Err(Unsupported::because("runs on CPUs"));
    }
    let Epilogue { column_scale, bias, residual, .. } = epilogue;
    let behind = [c, column_scale.as_ref(), bias.as_ref(), residual.as_ref()].into_iter().flatten();
    for operand in inputs.into_iter().chain(behind.clone()) {
        if operand.dtype().is_some_and(|dtype| !dtype.fits_f32()) {
            let reason = format!("computes in f32, which does not hold {operand}");
            return Err(Unsupported(reason));
        }
    }
    if let Some(operand) = behind.clone().find(|operand| operand.as_dense().is_none()) {
        return Err(Unsupported(format!("its epilogue takes plain elements, not {operand}")));
    }
    match d {
        Operand::Dense(_) => Ok(()),
        Operand::Scaled(_) => Err(Unsupported(format!("does not quantise to {d}"))),
    }
}

/// The time for so many products and bytes of operands.
pub(super) fn cost(arithmetic: Arithmetic, products: f64, bytes: f64, caps: &Caps) -> Cost {
    // A machine reads memory about as fast.
    const BYTES_PER_SECOND: f64 = 20e9;
    let rate = arithmetic.products_per_second() * caps.units as f64;
    Cost::roofline(products, rate, bytes, BYTES_PER_SECOND)
}

/// Bytes of an operand's elements, or codes and scales.
pub(super) fn stored_bytes(operand: &Operand) -> f64 {
    match operand {
        Operand::Dense(dense) => {
            dense.dims.iter().map(|&d| d as f64).product::<f64>() * dense.dtype.size() as f64
        }
        Operand::Scaled(scaled) => {
            scaled.layout().map_or(0.0, |l| l.codes_len() as f64 + l.scales_bytes() as f64)
        }
    }
}

fn gemm(arithmetic: Arithmetic, op: &Gemm, launch: &Launch<'_>) -> Result<()> {
    let Operand::Dense(d) = &op.d else {
        return Err(Error::kernel("cpu.gemm", "does not quantise"));
    };
    match d.dtype {
        DType::F64 => gemm_as::<f64>(arithmetic, op, launch),
        dtype => with_small_float!(dtype, E => gemm_as::<E>(arithmetic, op, launch)),
    }
}

fn gemm_as<E: Scalar>(arithmetic: Arithmetic, op: &Gemm, launch: &Launch<'_>) -> Result<()> {
    let sizes = op.sizes()?;
    let d_dims = op.d.dims();
    if d_dims.contains(&0) {
        return Ok(());
    }
    let batch_dims = d_dims.leading(2);
    let a = row_source(launch, &op.a, false, batch_dims)?;
    let (b, b_scale) = column_source(launch, &op.b, batch_dims)?;
    let parts = if op.epilogue.activation.is_gated() { 2 } else { 1 };
    let n = sizes.n / parts;
    let terms = Terms { b_scale, alpha: op.alpha, beta: op.beta, c: op.c.as_ref() };
    let finish = Finisher::new(&op.epilogue, launch, terms, (sizes.m, n), batch_dims)?;
    let factors = arithmetic.factors(launch.caps, a.as_ref(), b.as_ref(), sizes.k);
    let factors = factors.as_ref();
    let product = Product { workers: launch.workers, factors, k: sizes.k, n, parts };
    let each = product.block_rows(sizes.m);
    let mut blocks = room(sizes.batch * sizes.m.div_ceil(each))?;
    for batch in 0..sizes.batch {
        for first in (0..sizes.m).step_by(each) {
            blocks.push(Block { a: batch, b: batch, first, len: each.min(sizes.m - first) });
        }
    }
    let out = launch.write_dense::<E>(&op.d)?;
    OutputMatrices::new(out, &op.d)?.fill(|out| product.run(&blocks, out, &finish))
}
