//! Matrix products in tiles of dot products.
//!
//! ```text
//! B's columns in panels of PANEL; each panel is one task:
//!     decode the panel's columns to f32 rows along k (f32 rows are used in place)
//!     all rows of A × the panel, in register tiles, to a temporary
//! then row by row: epilogue, one rounding to D's type
//! ```

use super::rows::{RowSource, batch_offsets, row_source, with_small_float};
use super::simd::{self, LANES, Level, Rows};
use crate::caps::{Caps, Target};
use crate::error::{Error, Result};
use crate::num::{DType, F8E4M3, F8E5M2, Scalar, bf16, f16};
use crate::op::{Activation, Dense, Dims, Gemm, GemmSizes, Op, OpKind, Operand};
use crate::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};

/// Columns of B that a task decodes and multiplies: a multiple of every tile's width, and few
/// enough that a panel of a few thousand along k stays in the second-level cache.
const PANEL: usize = 24;

/// Products below which handing work to other threads costs more than it saves.
const SEQUENTIAL: usize = 1 << 17;

/// `cpu.gemm`
pub(super) struct GemmKernel(KernelInfo);

impl GemmKernel {
    pub(super) fn new() -> Self {
        let summary = "dot products in register tiles, f32 accumulation by k mod 16";
        GemmKernel(KernelInfo::new("cpu.gemm", OpKind::Gemm, summary))
    }
}

impl Kernel for GemmKernel {
    fn info(&self) -> &KernelInfo {
        &self.0
    }

    fn supports(&self, op: &Op, caps: &Caps) -> Result<(), Unsupported> {
        let Op::Gemm(op) = op else { return Err(Unsupported::because("not a gemm")) };
        if caps.target != Target::Cpu {
            return Err(Unsupported::because("runs on CPUs"));
        }
        let parts = [Some(&op.a), Some(&op.b), op.c.as_ref()];
        let epilogue = [op.epilogue.bias.as_ref(), op.epilogue.residual.as_ref()];
        for operand in parts.into_iter().chain(epilogue).flatten() {
            if operand.dtype().is_some_and(|dtype| !dtype.fits_f32()) {
                let reason = format!("computes in f32, which does not hold {operand}");
                return Err(Unsupported(reason));
            }
        }
        if let Some(c) = op.c.iter().chain(&op.epilogue.residual).find(|o| o.as_dense().is_none()) {
            return Err(Unsupported(format!("adds plain elements, not {c}")));
        }
        match &op.d {
            Operand::Dense(_) => Ok(()),
            Operand::Scaled(_) => Err(Unsupported(format!("does not quantise to {}", op.d))),
        }
    }

    fn cost(&self, op: &Op, caps: &Caps) -> Cost {
        // A core multiplies and adds at least this fast, and reads memory no faster.
        const PRODUCTS_PER_SECOND: f64 = 20e9;
        const BYTES_PER_SECOND: f64 = 10e9;
        let Op::Gemm(gemm) = op else { return Cost { seconds: f64::INFINITY } };
        let products = gemm.sizes().map_or(0.0, |s| s.products());
        let (a, b) = (gemm.a.dims(), gemm.b.dims());
        let elements = |dims: &[usize]| dims.iter().map(|&d| d as f64).product::<f64>();
        let bytes = 4.0 * (elements(&a) + elements(&b));
        let units = caps.units as f64;
        Cost::roofline(products, PRODUCTS_PER_SECOND * units, bytes, BYTES_PER_SECOND)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match launch.op {
            Op::Gemm(op) => gemm(op, launch),
            _ => Err(Error::kernel(&self.0.name, "not a gemm")),
        }
    }
}

fn gemm(op: &Gemm, launch: &Launch<'_>) -> Result<()> {
    let sizes = op.sizes()?;
    let d_dims = op.d.dims();
    if d_dims.contains(&0) {
        return Ok(());
    }
    let batch_dims = d_dims.leading(2);
    let a = row_source(launch, &op.a, false, batch_dims)?;
    let b = row_source(launch, &op.b, true, batch_dims)?;
    let products = Products::compute(launch, &sizes, a.as_ref(), b.as_ref())?;
    let epilogue = Epilogue::bind(op, launch, &sizes, batch_dims)?;
    store(op, launch, &sizes, &products, &epilogue)
}

/// `A·B` of every matrix in f32, panel by panel: `[batch, panel, m, PANEL]`.
struct Products {
    values: Vec<f32>,
    m: usize,
    panels: usize,
}

impl Products {
    fn compute(
        launch: &Launch<'_>,
        sizes: &GemmSizes,
        a: &dyn RowSource,
        b: &dyn RowSource,
    ) -> Result<Self> {
        let GemmSizes { batch, m, n, k } = *sizes;
        let level = Level::of(&launch.caps.isa);
        let panels = n.div_ceil(PANEL);
        let mut values = vec![0.0; batch * panels * m * PANEL];
        let k_padded = k.next_multiple_of(LANES);
        if values.is_empty() || k == 0 {
            return Ok(Products { values, m, panels });
        }
        // Decoded once, read by every panel.
        let decoded_a = decode_a(a, batch, m, k_padded)?;
        let failure = std::sync::Mutex::new(None);
        let task = |index: usize, out: &mut [f32]| {
            let (batch, panel) = (index / panels, index % panels);
            let first = panel * PANEL;
            let columns = PANEL.min(n - first);
            let a = match a.in_place(batch, 0, m) {
                Some(rows) => rows,
                None => Rows {
                    data: &decoded_a[batch * m * k_padded..][..m * k_padded],
                    stride: k_padded,
                    len: m,
                },
            };
            if let Some(b) = b.in_place(batch, first, columns) {
                simd::dots(level, a, b, k_padded, out, PANEL);
                return;
            }
            let mut scratch = vec![0.0; columns * k_padded];
            for (j, row) in scratch.chunks_mut(k_padded).enumerate() {
                if let Err(error) = b.decode(batch, first + j, row) {
                    *failure.lock().unwrap_or_else(|e| e.into_inner()) = Some(error);
                    return;
                }
            }
            let b = Rows { data: &scratch, stride: k_padded, len: columns };
            simd::dots(level, a, b, k_padded, out, PANEL);
        };
        if batch * m * n * k < SEQUENTIAL {
            values.chunks_mut(m * PANEL).enumerate().for_each(|(i, out)| task(i, out));
        } else {
            launch.workers.chunks_mut(&mut values, m * PANEL, task);
        }
        match failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(error) => Err(error),
            None => Ok(Products { values, m, panels }),
        }
    }

    /// Row `i` of matrix `batch`.
    fn row(&self, batch: usize, i: usize, dst: &mut [f32]) {
        let matrix = batch * self.panels * self.m * PANEL;
        for (panel, dst) in dst.chunks_mut(PANEL).enumerate() {
            let start = matrix + (panel * self.m + i) * PANEL;
            dst.copy_from_slice(&self.values[start..start + dst.len()]);
        }
    }
}

/// A's rows in f32, padded to `k_padded`; empty where they are used in place.
fn decode_a(a: &dyn RowSource, batch: usize, m: usize, k_padded: usize) -> Result<Vec<f32>> {
    if a.in_place(0, 0, m).is_some() {
        return Ok(Vec::new());
    }
    let mut rows = vec![0.0; batch * m * k_padded];
    for (index, row) in rows.chunks_mut(k_padded).enumerate() {
        a.decode(index / m, index % m, row)?;
    }
    Ok(rows)
}

/// The operands of `residual + f(alpha · t + beta · c + bias)`.
struct Epilogue<'a> {
    alpha: f32,
    beta: f32,
    c: Option<Box<dyn RowSource + 'a>>,
    bias: Vec<f32>,
    activation: Activation,
    residual: Option<Box<dyn RowSource + 'a>>,
}

impl<'a> Epilogue<'a> {
    fn bind(
        op: &Gemm,
        launch: &Launch<'a>,
        sizes: &GemmSizes,
        batch_dims: &[usize],
    ) -> Result<Self> {
        let source = |operand: &Option<Operand>, cols: usize| {
            let operand = operand.as_ref().map(|o| as_matrix(o, sizes.m, cols));
            operand.map(|o| row_source(launch, &o, false, batch_dims)).transpose()
        };
        let gated = op.epilogue.activation.is_gated();
        let width = if gated { sizes.n / 2 } else { sizes.n };
        let mut bias = Vec::new();
        if let Some(operand) = &op.epilogue.bias {
            bias.resize(operand.dims().iter().product(), 0.0);
            let row = as_matrix(operand, 1, sizes.n);
            row_source(launch, &row, false, &[])?.decode(0, 0, &mut bias)?;
        }
        Ok(Epilogue {
            alpha: op.alpha,
            beta: op.beta,
            // With beta = 0, C is not read: it may hold anything.
            c: if op.beta == 0.0 { None } else { source(&op.c, sizes.n)? },
            bias,
            activation: op.epilogue.activation,
            residual: source(&op.epilogue.residual, width)?,
        })
    }

    /// Turns a row of products into a row of results, in the front of `t`.
    fn apply(&self, batch: usize, row: usize, t: &mut [f32], other: &mut Vec<f32>) -> Result<()> {
        if self.alpha != 1.0 {
            t.iter_mut().for_each(|x| *x *= self.alpha);
        }
        if let Some(c) = &self.c {
            other.resize(t.len(), 0.0);
            c.decode(batch, row, other)?;
            t.iter_mut().zip(other.iter()).for_each(|(x, c)| *x += self.beta * c);
        }
        t.iter_mut().zip(&self.bias).for_each(|(x, b)| *x += b);
        let f = self.activation.pointwise();
        let width = if self.activation.is_gated() {
            let (gate, up) = t.split_at_mut(t.len() / 2);
            gate.iter_mut().zip(up.iter()).for_each(|(g, u)| *g = activate(f, *g) * u);
            gate.len()
        } else {
            if f != Activation::Identity {
                t.iter_mut().for_each(|x| *x = activate(f, *x));
            }
            t.len()
        };
        if let Some(residual) = &self.residual {
            other.resize(width, 0.0);
            residual.decode(batch, row, other)?;
            t.iter_mut().zip(other.iter()).for_each(|(x, r)| *x += r);
        }
        Ok(())
    }
}

/// A dense operand as `[.., rows, cols]`: dimensions that it lacks, or has with size 1, repeat.
fn as_matrix(operand: &Operand, rows: usize, cols: usize) -> Operand {
    let Operand::Dense(dense) = operand else { return operand.clone() };
    let mut dense: Dense = dense.clone();
    if dense.dims.len() < 2 {
        let missing = 2 - dense.dims.len();
        let (mut dims, mut strides) = ([1; 2], [0; 2]);
        dims[missing..].copy_from_slice(&dense.dims);
        strides[missing..].copy_from_slice(&dense.strides);
        (dense.dims, dense.strides) = (Dims::from_array(dims), Dims::from_array(strides));
    }
    let rank = dense.dims.len();
    for (axis, size) in [(rank - 2, rows), (rank - 1, cols)] {
        if dense.dims[axis] == 1 {
            dense.dims[axis] = size;
            dense.strides[axis] = 0;
        }
    }
    dense.into()
}

/// A pointwise activation in f32.
fn activate(f: Activation, x: f32) -> f32 {
    match f {
        Activation::Relu if x.is_nan() => x,
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            const SQRT_2_OVER_PI: f32 = 0.797_884_6;
            0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::Identity | Activation::SwiGlu | Activation::GeGlu => x,
    }
}

fn store(
    op: &Gemm,
    launch: &Launch<'_>,
    sizes: &GemmSizes,
    products: &Products,
    epilogue: &Epilogue<'_>,
) -> Result<()> {
    let Operand::Dense(d) = &op.d else {
        return Err(Error::kernel("cpu.gemm", "does not quantise"));
    };
    match d.dtype {
        DType::F64 => store_as::<f64>(op, d, launch, sizes, products, epilogue),
        dtype => with_small_float!(dtype, E => {
            store_as::<E>(op, d, launch, sizes, products, epilogue)
        }),
    }
}

fn store_as<E: Scalar>(
    op: &Gemm,
    d: &Dense,
    launch: &Launch<'_>,
    sizes: &GemmSizes,
    products: &Products,
    epilogue: &Epilogue<'_>,
) -> Result<()> {
    let out = launch.write_dense::<E>(&op.d)?;
    let rank = d.dims.len();
    let (width, row_stride, stride) = (d.dims[rank - 1], d.strides[rank - 2], d.strides[rank - 1]);
    let starts = batch_offsets(d.dims.leading(2), d.strides.leading(2), d.dims.leading(2));
    let (mut t, mut other) = (vec![0.0; sizes.n], Vec::new());
    for (batch, start) in starts.into_iter().enumerate() {
        for i in 0..sizes.m {
            products.row(batch, i, &mut t);
            epilogue.apply(batch, i, &mut t, &mut other)?;
            let start = start + i * row_stride;
            if stride == 1 {
                E::from_f32_slice(&t[..width], &mut out[start..start + width]);
            } else {
                for (j, x) in t[..width].iter().enumerate() {
                    out[start + j * stride] = E::from_f32(*x);
                }
            }
        }
    }
    Ok(())
}
