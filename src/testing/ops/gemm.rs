//! Matrix products.

use proptest::prelude::*;

use super::{BuildOp, Target};
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{Activation, Dense, Epilogue, Function, Gemm, Op, Operand};
use crate::registry::Numerics;
use crate::testing::bounds::{TINY_F32, U_F32, gamma};
use crate::testing::expected::{Expected, in_f64, magnitudes, of_values, values};
use crate::testing::functions::{Approx, Precision, function_error};
use crate::testing::operand::{Kind, Layout, Source, sizes, transposed};

/// A matrix product.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Gemm`.
pub struct GemmCase {
    pub batch: Vec<usize>,
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    pub k: usize,
    pub a: Kind,
    pub b: Kind,
    pub d: Target,
    /// Whether `b` is stored as `[.., n, k]`, as blocks always are.
    pub b_transposed: bool,
    /// Whether all of the batch share `a`, or `b`.
    pub a_shared: bool,
    pub b_shared: bool,
    pub alpha: f32,
    pub beta: f32,
    /// Whether all rows share `c`.
    pub c_shared: bool,
    pub column_scale: bool,
    pub bias: bool,
    pub residual: bool,
    pub activation: Activation,
    /// Of a, b, column scale, c, bias, residual and d.
    pub layouts: [Layout; 7],
    pub source: Source,
}

/// Matrix products of every kind of operand, with every epilogue.
pub fn gemm_cases() -> impl Strategy<Value = GemmCase> {
    let batch = prop::collection::vec(prop_oneof![1 => Just(0usize), 8 => 1usize..4], 0..3);
    let square = prop::bool::weighted(0.1);
    let shape = (batch, sizes(), sizes(), sizes(), square);
    let kinds = (factors(), results());
    let layout = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2));
    let factor = || prop::sample::select(vec![1.0f32, -0.5, 2.0, 0.0]);
    let beta = prop::sample::select(vec![0.0f32, 0.0, 1.0, -0.25]);
    let any_epilogue = (any::<[bool; 4]>(), prop::sample::select(&Activation::ALL[..]));
    let epilogue = prop_oneof![1 => Just(([false; 4], Activation::Identity)), 2 => any_epilogue];
    let values = (Layout::each(), Source::any());
    (shape, kinds, layout, (factor(), beta), epilogue, values).prop_map(
        |(shape, ((a, b), d), (t, b_shared, a_shared), (alpha, beta), epilogue, values)| {
            let (batch, m, n, k, square) = shape;
            let ([column_scale, c_shared, bias, residual], activation) = epilogue;
            GemmCase {
                batch,
                m,
                n,
                k: if square { n } else { k },
                a,
                b,
                d,
                b_transposed: t || b.is_blocks(),
                a_shared: a_shared && !b_shared,
                b_shared,
                alpha,
                beta,
                c_shared,
                column_scale,
                bias,
                residual,
                activation,
                layouts: values.0,
                source: values.1,
            }
        },
    )
}

/// Factors of the same kind, activations beside weights of any kind, FP4 with itself and with
/// activations, and any two.
pub(super) fn factors() -> impl Strategy<Value = (Kind, Kind)> {
    let activations = prop::sample::select(vec![DType::F32, DType::BF16, DType::F16]);
    prop_oneof![
        1 => Kind::any().prop_map(|kind| (kind, kind)),
        1 => (activations.clone().prop_map(Kind::Plain), Kind::any()),
        1 => (prop_oneof![activations.prop_map(Kind::Plain), Kind::fp4()], Kind::fp4()),
        1 => (Kind::any(), Kind::any()),
    ]
}

/// Results, f32 and bf16 most often.
pub(super) fn results() -> impl Strategy<Value = Target> {
    let usual = prop::sample::select(vec![DType::F32, DType::BF16]);
    let usual = usual.prop_map(|dtype| Target { kind: Kind::Plain(dtype), quantizer: None });
    prop_oneof![1 => usual, 2 => Target::any()]
}

impl BuildOp for GemmCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let (layouts, source) = (self.layouts, self.source);
        let plain = |dims: &[usize], layout: Layout, salt: u64| {
            source.normal(salt).operand(device, Kind::Plain(DType::F32), dims, layout)
        };
        let ones = vec![1; self.batch.len()];
        let matrix = |shared: bool, rows: usize, cols: usize| {
            let batch = if shared { &ones } else { &self.batch };
            [&batch[..], &[rows, cols]].concat()
        };
        // A gated activation halves the columns of `b`.
        let wide = if self.activation.is_gated() { 2 * self.n } else { self.n };
        let a = matrix(self.a_shared, self.m, self.k);
        let a = source.salted(1).operand(device, self.a, &a, layouts[0])?;
        let (rows, cols) = if self.b_transposed { (wide, self.k) } else { (self.k, wide) };
        let b = matrix(self.b_shared, rows, cols);
        let mut b = source.salted(2).operand(device, self.b, &b, layouts[1])?;
        if self.b_transposed {
            b = transposed(b);
        }
        // Where both are shared, so is the result.
        let d = self.d.kind.spec(&matrix(false, self.m, self.n), layouts[6])?;
        let mut op = Gemm::new(a, b, d);
        (op.alpha, op.beta) = (self.alpha, self.beta);
        op.epilogue.activation = self.activation;
        op.epilogue.quantizer = self.d.quantizer;
        if self.beta != 0.0 {
            let rows = if self.c_shared { 1 } else { self.m };
            op.c = Some(plain(&matrix(self.c_shared, rows, wide), layouts[3], 3)?);
        }
        if self.column_scale {
            op.epilogue.column_scale = Some(plain(&[wide], layouts[2], 6)?);
        }
        if self.bias {
            op.epilogue.bias = Some(plain(&[wide], layouts[4], 4)?);
        }
        if self.residual {
            let dims = matrix(false, self.m, self.n);
            op.epilogue.residual = Some(plain(&dims, layouts[5], 5)?);
        }
        Ok(op.into())
    }
}

/// What [`Numerics::NarrowedOperands`] may move the elements of A by, and A's magnitudes with that,
/// where the class narrows them: see there. The rounding to an integer is not a half to the last
/// bit, for the element is multiplied by the scale's inverse: 127 · 3 roundings are below 2⁻¹⁴.
pub(super) struct Narrowed {
    pub by: Operand,
    pub sizes: Operand,
}

impl Narrowed {
    pub(super) fn of(numerics: Numerics, a: &Operand, b: &Operand) -> Result<Option<Self>> {
        const BLOCK: usize = 16;
        const LEAST_SCALE: f64 = f32::from_bits((127 - 100) << 23) as f64;
        let half = 0.5 + 2f64.powi(-14);
        let float = matches!(a.dtype(), Some(DType::F32 | DType::BF16 | DType::F16));
        let fp4 = b.as_scaled().is_some_and(|b| b.format.spec().code == DType::E2M1x2);
        if numerics != Numerics::NarrowedOperands || !(float && fp4) {
            return Ok(None);
        }
        let dims = a.dims();
        let values = values(a)?;
        let mut by = Vec::with_capacity(values.len());
        for row in values.chunks(dims.last().copied().unwrap_or(1).max(1)) {
            // Rows of others are multiplied as they are.
            let narrowed = row.iter().all(|x| x.abs() < 1.0 / LEAST_SCALE);
            for block in row.chunks(BLOCK) {
                let most = block.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
                let error = if narrowed { half * (most / 127.0).max(LEAST_SCALE) } else { 0.0 };
                by.extend(block.iter().map(|_| error));
            }
        }
        let sizes: Vec<f64> = values.iter().zip(&by).map(|(x, by)| x.abs() + by).collect();
        Ok(Some(Narrowed { by: of_values(&dims, &by)?, sizes: of_values(&dims, &sizes)? }))
    }
}

/// `γ·(|alpha|·|A|·|B| ∘ |column_scale| + |beta|·|C| + |bias|)` carried through activation, gate and
/// residual; of narrowed operands `|alpha|·|A − Â|·|B| ∘ |column_scale|` more.
pub(in crate::testing) fn expected(op: &Gemm, numerics: Numerics) -> Result<Vec<Expected>> {
    let values = in_f64(op.clone())?;
    // What stands before the activation, and its magnitudes.
    let mut plain = op.clone();
    plain.epilogue.activation = Activation::Identity;
    plain.epilogue.residual = None;
    let dims = Gemm::output_dims(&op.a, &op.b, Activation::Identity)?;
    plain.d = Dense::spec(DType::F64, &dims)?.into();
    let before = in_f64(plain.clone())?;
    let mut sizes = plain;
    let narrowed = Narrowed::of(numerics, &op.a, &op.b)?;
    sizes.b = magnitudes(&op.b)?;
    (sizes.alpha, sizes.beta) = (op.alpha.abs(), op.beta.abs());
    let column_scale = op.epilogue.column_scale.as_ref().map(Magnitudes::of).transpose()?;
    let largest = column_scale.as_ref().map_or(1.0, |scale| scale.largest);
    sizes.epilogue.column_scale = column_scale.map(|scale| scale.of_each);
    let narrowing = narrowed.as_ref().map(|narrowed| {
        let mut by = Gemm::new(narrowed.by.clone(), sizes.b.clone(), sizes.d.clone());
        by.alpha = sizes.alpha;
        by.epilogue.column_scale = sizes.epilogue.column_scale.clone();
        in_f64(by)
    });
    sizes.a = narrowed.map_or_else(|| magnitudes(&op.a), |narrowed| Ok(narrowed.sizes))?;
    sizes.c = op.c.as_ref().map(magnitudes).transpose()?;
    sizes.epilogue.bias = op.epilogue.bias.as_ref().map(magnitudes).transpose()?;
    let sizes = in_f64(sizes)?;
    let (n, k) = (op.sizes()?.n, op.sizes()?.k);
    let narrowing = narrowing.transpose()?.unwrap_or_default();
    let factor = f64::from(op.alpha.abs()) * largest;
    let products = Products { before, sizes, narrowing, n, k, factor };
    let errors = products.errors(&op.epilogue, &values);
    Ok(vec![Expected::Values { values, errors }])
}

/// The magnitudes of factors.
pub(super) struct Magnitudes {
    pub of_each: Operand,
    pub largest: f64,
}

impl Magnitudes {
    pub(super) fn of(operand: &Operand) -> Result<Self> {
        let largest = values(operand)?.into_iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        Ok(Magnitudes { of_each: magnitudes(operand)?, largest })
    }
}

/// What an epilogue begins with.
pub(super) struct Products {
    /// Exact values before the activation, rows of `n`.
    pub before: Vec<f64>,
    /// The sums of the magnitudes of their terms.
    pub sizes: Vec<f64>,
    /// What narrowed operands add to their errors; nothing where none are.
    pub narrowing: Vec<f64>,
    pub n: usize,
    pub k: usize,
    /// The largest magnitude of what sums of products are multiplied by.
    pub factor: f64,
}

impl Products {
    /// The errors of the results `values`.
    pub(super) fn errors(&self, epilogue: &Epilogue, values: &[f64]) -> Vec<f64> {
        // Decoding a block format rounds twice at most (one for each operand), each product and
        // sum once, and column scale, alpha, beta · c, + and bias once each; tensor scales may come
        // last.
        let roundings = self.k + 8 + usize::from(epilogue.column_scale.is_some());
        let tiny = roundings as f64 * TINY_F32 * (1.0 + self.factor);
        let before = |i: usize| {
            let value = self.before[i];
            let narrowing = self.narrowing.get(i).copied().unwrap_or(0.0);
            let error = gamma(roundings) * self.sizes[i] + narrowing + tiny;
            // Infinities and NaN come out as such in any order.
            Approx { value, error: if value.is_finite() { error } else { 0.0 } }
        };
        let (f, half) = (epilogue.activation, (self.n / 2).max(1));
        let activated = |p: usize| {
            if f.is_gated() {
                let gate = p / half * self.n + p % half;
                let function = Function::Gate(f);
                return function_error(function, before(gate), before(gate + half), Precision::F32);
            }
            let nothing = Approx::exact(f64::NAN);
            function_error(Function::Activation(f), before(p), nothing, Precision::F32)
        };
        let residual = |(p, &value): (usize, &f64)| {
            let error = activated(p);
            if epilogue.residual.is_none() || !value.is_finite() {
                return error;
            }
            error + U_F32 * (value.abs() + error) + TINY_F32
        };
        values.iter().enumerate().map(residual).collect()
    }
}
