//! Rotary embedding, a head at a time; sines and cosines once for each position.

use super::lines::{Lines, Writing, write_lines};
use super::offsets::{Offsets, batch_offsets, row_major};
use super::simd::{self, Level};
use crate::error::Result;
use crate::memory::{room, scratch};
use crate::op::{Positions, Rope};
use crate::registry::Launch;

pub(super) fn rope(op: &Rope, launch: &Launch<'_>) -> Result<()> {
    let level = Level::of(&launch.caps.isa);
    let dims = op.x.dims();
    let &[.., seq, heads, _] = &dims[..] else { return Ok(()) };
    if dims.contains(&0) {
        return Ok(());
    }
    let leading = dims.leading(2);
    let frequencies = op.frequencies.per_pair();
    let pairs = frequencies.len();
    // For each place of `[.., seq]` the table's row: those of a sequence where it is shared.
    let (positions, places): (Vec<f64>, Offsets) = match &op.positions {
        Positions::From(start) => {
            let places = leading.iter().product::<usize>();
            let (mut positions, mut rows) = (room(seq)?, room(places)?);
            positions.extend((0..seq).map(|s| *start as f64 + s as f64));
            rows.extend((0..places).map(|place| place % seq));
            (positions, Offsets::Each(rows))
        }
        Positions::Given(operand) => {
            let own = operand.dims();
            let values = launch.read_indices(operand)?;
            let places = batch_offsets(&own, &row_major(&own), leading)?;
            let mut positions = room(values.len())?;
            positions.extend(values.into_iter().map(|p| p as f64));
            (positions, places)
        }
    };
    let table = positions.len().saturating_mul(pairs);
    let (mut sin, mut cos) = (scratch(table, 0.0)?, scratch(table, 0.0)?);
    if pairs > 0 {
        let tables = sin.chunks_mut(pairs).zip(cos.chunks_mut(pairs));
        for (position, (sin, cos)) in positions.iter().zip(tables) {
            simd::sin_cos(level, *position, frequencies, op.frequencies.amplitude(), sin, cos);
        }
    }
    let x = Lines::new(launch, &op.x, &dims)?;
    let writing = Writing { cost: 2, ..Writing::default() };
    write_lines(launch, &op.out, writing, |piece, head, _| {
        x.read(piece, head)?;
        let row = places.at(piece.line / heads) * pairs;
        simd::rotate(level, op.style, head, &sin[row..row + pairs], &cos[row..row + pairs]);
        Ok(())
    })
}
