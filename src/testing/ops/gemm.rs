//! Matrix products.

use proptest::prelude::*;

use super::{BuildOp, Target};
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{Activation, Dense, Epilogue, Function, Gemm, Op};
use crate::testing::bounds::{TINY_F32, U_F32, gamma};
use crate::testing::expected::{Expected, in_f64, magnitudes};
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
    pub bias: bool,
    pub residual: bool,
    pub activation: Activation,
    /// Of a, b, c, bias, residual and d.
    pub layouts: [Layout; 6],
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
    let any_epilogue = (any::<[bool; 3]>(), prop::sample::select(&Activation::ALL[..]));
    let epilogue = prop_oneof![1 => Just(([false; 3], Activation::Identity)), 2 => any_epilogue];
    let values = (Layout::each(), Source::any());
    (shape, kinds, layout, (factor(), beta), epilogue, values).prop_map(
        |(shape, ((a, b), d), (t, b_shared, a_shared), (alpha, beta), epilogue, values)| {
            let (batch, m, n, k, square) = shape;
            let ([c_shared, bias, residual], activation) = epilogue;
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
                bias,
                residual,
                activation,
                layouts: values.0,
                source: values.1,
            }
        },
    )
}

/// Factors of the same kind, activations beside weights of any kind, and any two.
pub(super) fn factors() -> impl Strategy<Value = (Kind, Kind)> {
    let activations = prop::sample::select(vec![DType::F32, DType::BF16, DType::F16]);
    prop_oneof![
        1 => Kind::any().prop_map(|kind| (kind, kind)),
        1 => (activations.prop_map(Kind::Plain), Kind::any()),
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
        let d = self.d.kind.spec(&matrix(false, self.m, self.n), layouts[5])?;
        let mut op = Gemm::new(a, b, d);
        (op.alpha, op.beta) = (self.alpha, self.beta);
        op.epilogue.activation = self.activation;
        op.epilogue.quantizer = self.d.quantizer;
        if self.beta != 0.0 {
            let rows = if self.c_shared { 1 } else { self.m };
            op.c = Some(plain(&matrix(self.c_shared, rows, wide), layouts[2], 3)?);
        }
        if self.bias {
            op.epilogue.bias = Some(plain(&[wide], layouts[3], 4)?);
        }
        if self.residual {
            let dims = matrix(false, self.m, self.n);
            op.epilogue.residual = Some(plain(&dims, layouts[4], 5)?);
        }
        Ok(op.into())
    }
}

/// `γ·(|alpha|·|A|·|B| + |beta|·|C| + |bias|)` carried through activation, gate and residual.
pub(in crate::testing) fn expected(op: &Gemm) -> Result<Vec<Expected>> {
    let values = in_f64(op.clone())?;
    // What stands before the activation, and its magnitudes.
    let mut plain = op.clone();
    plain.epilogue.activation = Activation::Identity;
    plain.epilogue.residual = None;
    let dims = Gemm::output_dims(&op.a, &op.b, Activation::Identity)?;
    plain.d = Dense::spec(DType::F64, &dims)?.into();
    let before = in_f64(plain.clone())?;
    let mut sizes = plain;
    sizes.a = magnitudes(&op.a)?;
    sizes.b = magnitudes(&op.b)?;
    (sizes.alpha, sizes.beta) = (op.alpha.abs(), op.beta.abs());
    sizes.c = op.c.as_ref().map(magnitudes).transpose()?;
    sizes.epilogue.bias = op.epilogue.bias.as_ref().map(magnitudes).transpose()?;
    let sizes = in_f64(sizes)?;
    let products = Products { before, sizes, n: op.sizes()?.n, k: op.sizes()?.k, alpha: op.alpha };
    let errors = products.errors(&op.epilogue, &values);
    Ok(vec![Expected::Values { values, errors }])
}

/// What an epilogue begins with.
pub(super) struct Products {
    /// Exact values before the activation, rows of `n`.
    pub before: Vec<f64>,
    /// The sums of the magnitudes of their terms.
    pub sizes: Vec<f64>,
    pub n: usize,
    pub k: usize,
    pub alpha: f32,
}

impl Products {
    /// The errors of the results `values`.
    pub(super) fn errors(&self, epilogue: &Epilogue, values: &[f64]) -> Vec<f64> {
        // Decoding a block format rounds twice at most (one for each operand), each product and
        // sum once, and alpha, beta · c, + and bias once each; tensor scales may come last.
        let roundings = self.k + 8;
        let tiny = roundings as f64 * TINY_F32 * (1.0 + f64::from(self.alpha.abs()));
        let before = |i: usize| {
            let value = self.before[i];
            // Infinities and NaN come out as such in any order.
            let error =
                if value.is_finite() { gamma(roundings) * self.sizes[i] + tiny } else { 0.0 };
            Approx { value, error }
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
