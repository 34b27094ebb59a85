//! Matrix products of row groups.

use proptest::prelude::*;

use super::gemm::{Magnitudes, Narrowed, Products, factors, results};
use super::{BuildOp, Target};
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{Activation, Dense, GroupedGemm, Op};
use crate::registry::Numerics;
use crate::testing::expected::{Expected, in_f64, magnitudes};
use crate::testing::operand::{INDICES, Kind, Layout, Source, integers, sizes, transposed};

/// Matrix products of row groups.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `GroupedGemm`.
pub struct GroupedGemmCase {
    /// Rows of each group.
    pub rows: Vec<usize>,
    /// Columns of the result.
    pub n: usize,
    pub k: usize,
    pub a: Kind,
    pub b: Kind,
    pub d: Target,
    /// Whether `b` is stored as `[groups, n, k]`, as blocks always are.
    pub b_transposed: bool,
    pub offsets: DType,
    pub alpha: f32,
    pub column_scale: bool,
    pub bias: bool,
    pub residual: bool,
    pub activation: Activation,
    /// Of a, b, column scale, bias, residual and d.
    pub layouts: [Layout; 6],
    pub source: Source,
}

/// Grouped products, some groups empty.
pub fn grouped_gemm_cases() -> impl Strategy<Value = GroupedGemmCase> {
    let rows = prop_oneof![2 => Just(0usize), 2 => Just(1), 3 => 2usize..6, 1 => 15usize..40];
    let shape = (prop::collection::vec(rows, 0..5), sizes(), sizes());
    let kinds = (factors(), results(), any::<bool>());
    let alpha = prop::sample::select(vec![1.0f32, -0.5]);
    let offsets = prop::sample::select(&INDICES[..]);
    let activation = prop::sample::select(&Activation::ALL[..]);
    let epilogue = (any::<[bool; 3]>(), activation);
    (shape, kinds, offsets, alpha, epilogue, (Layout::each(), Source::any())).prop_map(
        |((rows, n, k), ((a, b), d, t), offsets, alpha, epilogue, (layouts, source))| {
            let ([column_scale, bias, residual], activation) = epilogue;
            GroupedGemmCase {
                rows,
                n,
                k,
                a,
                b,
                d,
                b_transposed: t || b.is_blocks(),
                offsets,
                alpha,
                column_scale,
                bias,
                residual,
                activation,
                layouts,
                source,
            }
        },
    )
}

impl BuildOp for GroupedGemmCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let (layouts, source) = (self.layouts, self.source);
        let plain = |dims: &[usize], layout: Layout, salt: u64| {
            source.normal(salt).operand(device, Kind::Plain(DType::F32), dims, layout)
        };
        let (groups, total) = (self.rows.len(), self.rows.iter().sum());
        let wide = if self.activation.is_gated() { 2 * self.n } else { self.n };
        let a = source.salted(1).operand(device, self.a, &[total, self.k], layouts[0])?;
        let b = if self.b_transposed { [groups, wide, self.k] } else { [groups, self.k, wide] };
        let mut b = source.salted(2).operand(device, self.b, &b, layouts[1])?;
        if self.b_transposed {
            b = transposed(b);
        }
        let mut ends = vec![0.0];
        self.rows.iter().for_each(|&rows| ends.push(ends[ends.len() - 1] + rows as f64));
        let offsets = integers(device, self.offsets, &[groups + 1], &ends)?;
        let d = self.d.kind.spec(&[total, self.n], layouts[5])?;
        let mut op = GroupedGemm::new(a, b, offsets, d);
        op.alpha = self.alpha;
        op.epilogue.activation = self.activation;
        op.epilogue.quantizer = self.d.quantizer;
        if self.column_scale {
            op.epilogue.column_scale = Some(plain(&[groups, wide], layouts[2], 6)?);
        }
        if self.bias {
            op.epilogue.bias = Some(plain(&[groups, wide], layouts[3], 4)?);
        }
        if self.residual {
            op.epilogue.residual = Some(plain(&[total, self.n], layouts[4], 5)?);
        }
        Ok(op.into())
    }
}

/// As for [`Gemm`](super::gemm::expected), row by row.
pub(in crate::testing) fn expected(op: &GroupedGemm, numerics: Numerics) -> Result<Vec<Expected>> {
    let mut own = op.clone();
    own.epilogue.quantizer = None;
    let values = in_f64(own.clone())?;
    let mut plain = own;
    plain.epilogue.activation = Activation::Identity;
    plain.epilogue.residual = None;
    let shape = op.sizes()?;
    plain.d = Dense::spec(DType::F64, &[shape.total_m, shape.n])?.into();
    let before = in_f64(plain.clone())?;
    let mut sizes = plain;
    let narrowed = Narrowed::of(numerics, &op.a, &op.b)?;
    sizes.b = magnitudes(&op.b)?;
    sizes.alpha = op.alpha.abs();
    let column_scale = op.epilogue.column_scale.as_ref().map(Magnitudes::of).transpose()?;
    let largest = column_scale.as_ref().map_or(1.0, |scale| scale.largest);
    sizes.epilogue.column_scale = column_scale.map(|scale| scale.of_each);
    let narrowing = narrowed.as_ref().map(|narrowed| {
        let mut by = sizes.clone();
        by.a = narrowed.by.clone();
        by.epilogue.bias = None;
        in_f64(by)
    });
    sizes.a = narrowed.map_or_else(|| magnitudes(&op.a), |narrowed| Ok(narrowed.sizes))?;
    sizes.epilogue.bias = op.epilogue.bias.as_ref().map(magnitudes).transpose()?;
    let sizes = in_f64(sizes)?;
    let narrowing = narrowing.transpose()?.unwrap_or_default();
    let factor = f64::from(op.alpha.abs()) * largest;
    let products = Products { before, sizes, narrowing, n: shape.n, k: shape.k, factor };
    let errors = products.errors(&op.epilogue, &values);
    Ok(vec![Expected::Values { values, errors }])
}
