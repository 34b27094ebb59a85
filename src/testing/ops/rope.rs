//! Rotary position embedding.

use proptest::prelude::*;

use super::BuildOp;
use crate::Device;
use crate::error::Result;
use crate::num::DType;
use crate::op::{Op, Positions, Rope, RopeFrequencies, RopeScaling, RopeStyle};
use crate::testing::bounds::{TINY_F32, U_F32, gamma};
use crate::testing::expected::{Expected, broadcast_positions, decoded, in_f64, values};
use crate::testing::functions::{Approx, ELEMENTARY, Precision};
use crate::testing::operand::{INDICES, Kind, Layout, Source, floats, integers};

/// A rotation.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields are those of `Rope`.
pub struct RopeCase {
    /// `[.., seq, heads]`.
    pub leading: Vec<usize>,
    pub d: usize,
    pub pairs: usize,
    pub x: Kind,
    pub out: DType,
    pub style: RopeStyle,
    pub theta: f64,
    pub amplitude: f64,
    /// The first position, up to which given ones differ too.
    pub start: usize,
    /// The type of given positions, and whether all sequences share them.
    pub given: Option<(DType, bool)>,
    /// Of x and out.
    pub layouts: [Layout; 2],
    pub source: Source,
}

/// Rotations of both styles, of whole heads and of parts of them.
pub fn rope_cases() -> impl Strategy<Value = RopeCase> {
    let size = || prop_oneof![1 => Just(0usize), 6 => 1usize..5];
    let leading = prop::collection::vec(size(), 2..4);
    let d = prop_oneof![Just(0usize), 1usize..9, Just(16), Just(32), Just(33), Just(64), Just(66)];
    let style = prop::sample::select(vec![RopeStyle::HalfSplit, RopeStyle::Interleaved]);
    let part = prop_oneof![2 => Just(1.0), 1 => 0.0..1.0];
    let frequencies = (
        part,
        prop::sample::select(vec![10_000.0, 500_000.0, 2.0]),
        prop::sample::select(vec![1.0, 1.25, -0.5]),
    );
    let start = prop_oneof![2 => Just(0usize), 2 => 1usize..100, 1 => 1000usize..130_000];
    let given = prop::option::of((prop::sample::select(&INDICES[..]), any::<bool>()));
    let kinds = (Kind::any(), floats());
    ((leading, d), kinds, style, frequencies, (start, given), Layout::each(), Source::any())
        .prop_map(
            |((leading, d), (x, out), style, frequencies, (start, given), layouts, source)| {
                let (part, theta, amplitude): (f64, _, _) = frequencies;
                RopeCase {
                    leading,
                    d,
                    pairs: ((d / 2) as f64 * part) as usize,
                    x,
                    out,
                    style,
                    theta,
                    amplitude,
                    start,
                    given,
                    layouts,
                    source,
                }
            },
        )
}

impl BuildOp for RopeCase {
    fn build(&self, device: &Device) -> Result<Op> {
        let dims = [&self.leading[..], &[self.d]].concat();
        let x = self.source.salted(1).operand(device, self.x, &dims, self.layouts[0])?;
        let out = Kind::Plain(self.out).spec(&dims, self.layouts[1])?;
        let plain = RopeFrequencies::new(self.theta, 2 * self.pairs, &RopeScaling::None)?;
        let frequencies = RopeFrequencies::from_parts(plain.per_pair(), self.amplitude)?;
        let positions = match self.given {
            None => Positions::From(self.start),
            Some((dtype, shared)) => {
                let (rows, mut random) =
                    (&self.leading[..self.leading.len() - 1], self.source.random());
                let rows = if shared { &rows[rows.len() - 1..] } else { rows };
                // Any position is valid, those below 0 too.
                let below = if dtype == DType::U32 { 0.0 } else { 10.0 };
                let position = |_| random.below(self.start + 20) as f64 - below;
                let positions: Vec<f64> = (0..rows.iter().product()).map(position).collect();
                Positions::Given(integers(device, dtype, rows, &positions)?)
            }
        };
        Ok(Rope { x, positions, style: self.style, frequencies, out }.into())
    }
}

/// The angle `φ`, rounded once, is off by `u·|φ|`, and so are its sine and cosine, beside the 2 ulp
/// of the functions; the amplitude, three products and the sum round four times on the way of any
/// term. Elements that are not rotated pass as they are.
pub(in crate::testing) fn expected(op: &Rope) -> Result<Vec<Expected>> {
    let x = decoded(&op.x, Precision::F32)?;
    let values_f64 = in_f64(op.clone())?;
    let mut errors: Vec<f64> = x.iter().map(|x| x.error).collect();
    let dims = op.x.dims();
    let (&[.., heads, d], rows) = (&dims[..], dims.leading(2)) else {
        return Ok(vec![Expected::Values { values: values_f64, errors }]);
    };
    let positions: Vec<f64> = match &op.positions {
        Positions::From(start) => {
            let seq = rows.last().copied().unwrap_or(1).max(1);
            (0..rows.iter().product()).map(|row: usize| (start + row % seq) as f64).collect()
        }
        Positions::Given(operand) => {
            let given = values(operand)?;
            broadcast_positions(&operand.dims(), rows)?.into_iter().map(|at| given[at]).collect()
        }
    };
    let amplitude = op.frequencies.amplitude().abs();
    let rotary_dim = op.frequencies.rotary_dim();
    for (head, (x, errors)) in x.chunks(d.max(1)).zip(errors.chunks_mut(d.max(1))).enumerate() {
        for (i, frequency) in op.frequencies.per_pair().iter().enumerate() {
            let (at_a, at_b) = op.style.pair(i, rotary_dim);
            let error = pair_error(x[at_a], x[at_b], positions[head / heads] * frequency);
            (errors[at_a], errors[at_b]) =
                (amplitude * error + TINY_F32, amplitude * error + TINY_F32);
        }
    }
    let finite = |(value, error): (&f64, &mut f64)| {
        if !value.is_finite() && !error.is_nan() {
            *error = 0.0;
        }
    };
    values_f64.iter().zip(&mut errors).for_each(finite);
    Ok(vec![Expected::Values { values: values_f64, errors }])
}

fn pair_error(a: Approx, b: Approx, angle: f64) -> f64 {
    let turned = (U_F32 * angle.abs() + ELEMENTARY * U_F32).min(2.0);
    let size = a.value.abs() + b.value.abs();
    if !size.is_finite() {
        // An infinity times a sine or cosine that may be 0, or of either sign.
        let (sin, cos) = angle.sin_cos();
        let near_zero = angle != 0.0 && sin.abs().min(cos.abs()) <= turned;
        return if near_zero { f64::NAN } else { 0.0 };
    }
    let size = size + a.error + b.error;
    size * (turned + gamma(4) * (1.0 + turned)) + a.error + b.error + 4.0 * TINY_F32
}
