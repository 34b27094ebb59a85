//! What rounding to narrower formats moves attention's operands by.

use crate::num::DType;
use crate::testing::bounds::U_F32;
use crate::testing::functions::Approx;

/// How far a query's elements move when they are rounded to E4M3, in units of a scale that makes the
/// largest one 448. Nothing is known where one is infinite: E4M3 has no infinities.
pub(super) fn to_e4m3(query: &[Approx]) -> Vec<f64> {
    let largest = query.iter().fold(0.0f64, |most, x| most.max(x.value.abs()));
    let scale = (largest / DType::F8E4M3.max_finite()).max(f64::from(f32::MIN_POSITIVE));
    let relative = DType::F8E4M3.unit_roundoff().unwrap_or(0.0) + 4.0 * U_F32;
    let step = DType::F8E4M3.min_positive() / 2.0 * scale;
    query.iter().map(|x| relative * x.value.abs() + step).collect()
}

/// Rounding to NVFP4: [`Numerics::FourBitOperands`](crate::registry::Numerics).
pub(super) mod nvfp4 {
    use super::{Approx, U_F32};

    pub const BLOCK: usize = 16;

    /// The largest code times the largest scale.
    pub const UNITS: f64 = 6.0 * 448.0;

    /// The bound for one of a block's elements, by the block's largest magnitude and the unit. What
    /// it is multiplied with is rounded a few times.
    pub fn moved(x: f64, largest: f64, unit: f64) -> f64 {
        let roundings = 8.0 * U_F32;
        let scale = largest / 6.0 * (1.0 + 2f64.powi(-4) + roundings) + 2f64.powi(-10) * unit;
        (x.abs() / 5.0).max(scale / 4.0) + 6.0 * 2f64.powi(-10) * unit + roundings * x.abs()
    }

    /// The largest finite magnitude.
    fn largest<'a>(of: impl Iterator<Item = &'a Approx>) -> f64 {
        let sizes = of.map(|x| x.value.abs() + x.error).filter(|size| size.is_finite());
        sizes.fold(0.0, f64::max)
    }

    fn unit(largest: f64) -> f64 {
        (largest / UNITS).max(2f64.powi(-100))
    }

    fn blocks(row: &[Approx], unit: f64) -> impl Iterator<Item = f64> {
        row.chunks(BLOCK).flat_map(move |block| {
            let most = largest(block.iter());
            block.iter().map(move |x| moved(x.value, most, unit))
        })
    }

    /// Of a query's elements.
    pub fn queries(query: &[Approx]) -> Vec<f64> {
        blocks(query, unit(largest(query.iter()))).collect()
    }

    /// Adds it to what is `given` of a head's keys, which are those rows of `d` elements.
    pub fn widen_keys(
        k: &mut [Approx],
        given: &[Approx],
        d: usize,
        rows: impl Iterator<Item = usize> + Clone,
    ) {
        let unit = unit(largest(rows.clone().flat_map(|row| &given[row * d..][..d])));
        for row in rows {
            let own = row * d..(row + 1) * d;
            let moved = blocks(&given[own.clone()], unit);
            for ((x, given), moved) in k[own.clone()].iter_mut().zip(&given[own]).zip(moved) {
                x.error = x.error.max(given.error + moved);
            }
        }
    }

    /// Likewise of values, whose blocks are of consecutive rows.
    pub fn widen_values(
        v: &mut [Approx],
        given: &[Approx],
        d: usize,
        rows: impl Iterator<Item = usize> + Clone,
    ) {
        let unit = unit(largest(rows.clone().flat_map(|row| &given[row * d..][..d])));
        let rows: Vec<usize> = rows.collect();
        for block in rows.chunks(BLOCK) {
            for col in 0..d {
                let most = largest(block.iter().map(|row| &given[row * d + col]));
                for row in block {
                    let (x, given) = (&mut v[row * d + col], given[row * d + col]);
                    x.error = x.error.max(given.error + moved(given.value, most, unit));
                }
            }
        }
    }
}
