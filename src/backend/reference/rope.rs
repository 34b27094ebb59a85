//! `(a, b) → amplitude · (a·cos φ − b·sin φ, b·cos φ + a·sin φ)`

use super::array::{Array, QuantizeWith, unravel};
use crate::error::Result;
use crate::op::{Positions, Rope};
use crate::registry::Launch;

pub(super) fn rope(op: &Rope, launch: &Launch<'_>) -> Result<()> {
    let mut x = Array::load(launch, &op.x)?;
    let given = match &op.positions {
        Positions::From(_) => None,
        Positions::Given(operand) => Some(Array::load(launch, operand)?),
    };
    let frequencies = &op.frequencies;
    let (amplitude, rotary_dim) = (frequencies.amplitude(), frequencies.rotary_dim());

    if let [leading @ .., heads, d] = &x.dims[..]
        && !x.data.is_empty()
    {
        for (row, head) in x.data.chunks_mut(*d).enumerate() {
            // `[.., seq]`
            let index = unravel(row / heads, leading);
            let position = match (&given, &op.positions) {
                (Some(positions), _) => positions.broadcast_get(&index),
                (None, Positions::From(start)) => *start as f64 + index[index.len() - 1] as f64,
                (None, Positions::Given(_)) => 0.0,
            };
            for (i, frequency) in frequencies.per_pair().iter().enumerate() {
                let (sin, cos) = (position * frequency).sin_cos();
                let (at_a, at_b) = op.style.pair(i, rotary_dim);
                let (a, b) = (head[at_a], head[at_b]);
                head[at_a] = amplitude * (a * cos - b * sin);
                head[at_b] = amplitude * (b * cos + a * sin);
            }
        }
    }
    x.store(launch, &op.out, QuantizeWith::default())
}
