//! Functions of one or two operands.

use proptest::prelude::*;

use super::{BuildOp, Target};
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{Activation, Elementwise, Function, Op};
use crate::testing::expected::{Expected, broadcast_positions, decoded, in_f64};
use crate::testing::functions::{Approx, Precision, function_error};
use crate::testing::operand::{Kind, Layout, Source, shapes};

/// A function of one or two operands.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Elementwise`.
pub struct ElementwiseCase {
    pub function: Function,
    pub dims: Vec<usize>,
    pub a: Kind,
    pub b: Kind,
    /// Which dimensions `a` has with size 1, by bit.
    pub a_shared: u8,
    pub b_shared: u8,
    /// How many leading dimensions `b` lacks, of those that are there.
    pub b_lacks: usize,
    pub out: Target,
    /// Of a, b and out.
    pub layouts: [Layout; 3],
    pub source: Source,
}

const FUNCTIONS: [Function; 24] = [
    Function::Add,
    Function::Mul,
    Function::Neg,
    Function::Abs,
    Function::Exp,
    Function::Ln,
    Function::Sqrt,
    Function::Rsqrt,
    Function::Recip,
    Function::Tanh,
    Function::Sigmoid,
    Function::Activation(Activation::Identity),
    Function::Activation(Activation::Relu),
    Function::Activation(Activation::Silu),
    Function::Activation(Activation::Gelu),
    Function::Activation(Activation::GeluTanh),
    Function::Affine { scale: 0.1, shift: -0.7 },
    Function::Affine { scale: -3.0, shift: 0.0 },
    Function::Sub,
    Function::Div,
    Function::Max,
    Function::Min,
    Function::Gate(Activation::SwiGlu),
    Function::Gate(Activation::GeGlu),
];

/// Every function, of operands that broadcast.
pub fn elementwise_cases() -> impl Strategy<Value = ElementwiseCase> {
    // Functions that pick and choose are exact: what there is to get wrong is NaN and zeros.
    let picks = [
        Function::Activation(Activation::Relu),
        Function::Max,
        Function::Min,
        Function::Neg,
        Function::Abs,
    ];
    let function = prop_oneof![
        3 => prop::sample::select(&FUNCTIONS[..]),
        1 => prop::sample::select(picks.to_vec()),
    ];
    let shared = || prop_oneof![2 => Just(0u8), 1 => any::<u8>()];
    let lacks = prop_oneof![3 => Just(0usize), 1 => 1usize..4];
    let sharing = (shared(), shared(), lacks);
    let kinds = (Kind::any(), Kind::any(), Target::any());
    (function, shapes(4), kinds, sharing, Layout::each(), Source::often_non_finite()).prop_map(
        |(function, dims, (a, b, out), (a_shared, b_shared, b_lacks), layouts, source)| {
            // Where both have size 1 there is nothing to broadcast to.
            let b_shared = b_shared & !a_shared;
            ElementwiseCase {
                function,
                dims,
                a,
                b,
                a_shared,
                b_shared,
                b_lacks,
                out,
                layouts,
                source,
            }
        },
    )
}

impl BuildOp for ElementwiseCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let shared = |bits: u8| -> Vec<usize> {
            let size = |(i, &d): (usize, &usize)| if bits >> i & 1 == 1 { 1 } else { d };
            self.dims.iter().enumerate().map(size).collect()
        };
        let binary = self.function.is_binary();
        let a_dims = if binary { shared(self.a_shared) } else { self.dims.clone() };
        // Dimensions that `b` lacks are `a`'s alone.
        let lacks = self.b_lacks.min(self.a_shared.trailing_zeros() as usize);
        let b_dims = shared(self.b_shared)[lacks.min(self.dims.len())..].to_vec();
        let a = self.source.salted(1).operand(device, self.a, &a_dims, self.layouts[0])?;
        let out = self.out.kind.spec(&self.dims, self.layouts[2])?;
        let mut op = Elementwise::unary(self.function, a, out);
        if binary {
            op.b = Some(self.source.salted(2).operand(device, self.b, &b_dims, self.layouts[1])?);
        }
        op.quantizer = self.out.quantizer;
        Ok(op.into())
    }
}

/// The error of the function, in f64 where an operand is f64.
pub(in crate::testing) fn expected(op: &Elementwise) -> Result<Vec<Expected>> {
    let operands = [Some(&op.a), op.b.as_ref(), Some(&op.out)];
    let wide = operands.into_iter().flatten().any(|o| o.dtype() == Some(DType::F64));
    let p = if wide { Precision::F64 } else { Precision::F32 };
    let dims = op.out.dims();
    let plain = Elementwise { quantizer: None, ..op.clone() };
    let values = in_f64(plain)?;
    let a = (decoded(&op.a, p)?, broadcast_positions(&op.a.dims(), &dims)?);
    let b = match &op.b {
        Some(b) => Some((decoded(b, p)?, broadcast_positions(&b.dims(), &dims)?)),
        None => None,
    };
    let error = |i: usize| {
        let x = a.0[a.1[i]];
        let y = b.as_ref().map_or(Approx::exact(f64::NAN), |(b, at)| b[at[i]]);
        function_error(op.function, x, y, p)
    };
    let errors = (0..values.len()).map(error).collect();
    Ok(vec![Expected::Values { values, errors }])
}
