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

/// A format with blocks, to which all that is multiplied is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocks {
    /// [`Numerics::EightBitOperands`](crate::registry::Numerics)
    Mxfp8,
    /// [`Numerics::FourBitOperands`](crate::registry::Numerics)
    Nvfp4,
}

impl Blocks {
    /// Elements of a block.
    pub fn len(self) -> usize {
        match self {
            Blocks::Mxfp8 => 32,
            Blocks::Nvfp4 => 16,
        }
    }

    /// What NVFP4's scales are in units of, by the largest magnitude of what has one unit: the largest
    /// code times the largest scale are that.
    pub fn unit(self, largest: f64) -> f64 {
        match self {
            Blocks::Mxfp8 => 1.0,
            Blocks::Nvfp4 => (largest / (6.0 * 448.0)).max(2f64.powi(-100)),
        }
    }

    /// The bound for one of a block's elements, by the block's largest magnitude and the unit. What
    /// it is multiplied with is rounded a few times for NVFP4, and a power of two for MXFP8.
    pub fn moved(self, x: f64, largest: f64, unit: f64) -> f64 {
        match self {
            Blocks::Mxfp8 => {
                let relative = DType::F8E4M3.unit_roundoff().unwrap_or(0.0);
                // Half of the largest code is more than any element in units of the next smaller scale.
                let scale = (largest / 224.0).max(2f64.powi(-127));
                (relative * x.abs()).max(DType::F8E4M3.min_positive() / 2.0 * scale)
            }
            Blocks::Nvfp4 => {
                let roundings = 8.0 * U_F32;
                let scale =
                    largest / 6.0 * (1.0 + 2f64.powi(-4) + roundings) + 2f64.powi(-10) * unit;
                let of_scale = 6.0 * 2f64.powi(-10) * unit;
                (x.abs() / 5.0).max(scale / 4.0) + of_scale + roundings * x.abs()
            }
        }
    }

    fn of_row(self, row: &[Approx], unit: f64) -> impl Iterator<Item = f64> {
        row.chunks(self.len()).flat_map(move |block| {
            let most = largest(block.iter());
            block.iter().map(move |x| self.moved(x.value, most, unit))
        })
    }

    /// Of a query's elements.
    pub fn queries(self, query: &[Approx]) -> Vec<f64> {
        self.of_row(query, self.unit(largest(query.iter()))).collect()
    }

    /// Adds it to what is `given` of a head's keys, which are those rows of `d` elements.
    pub fn widen_keys(
        self,
        k: &mut [Approx],
        given: &[Approx],
        d: usize,
        rows: impl Iterator<Item = usize> + Clone,
    ) {
        let unit = self.unit(largest(rows.clone().flat_map(|row| &given[row * d..][..d])));
        for row in rows {
            let own = row * d..(row + 1) * d;
            let moved = self.of_row(&given[own.clone()], unit);
            for ((x, given), moved) in k[own.clone()].iter_mut().zip(&given[own]).zip(moved) {
                x.error = x.error.max(given.error + moved);
            }
        }
    }

    /// Likewise of values, whose blocks are of consecutive rows.
    pub fn widen_values(
        self,
        v: &mut [Approx],
        given: &[Approx],
        d: usize,
        rows: impl Iterator<Item = usize> + Clone,
    ) {
        let unit = self.unit(largest(rows.clone().flat_map(|row| &given[row * d..][..d])));
        let rows: Vec<usize> = rows.collect();
        for block in rows.chunks(self.len()) {
            for col in 0..d {
                let most = largest(block.iter().map(|row| &given[row * d + col]));
                for row in block {
                    let (x, given) = (&mut v[row * d + col], given[row * d + col]);
                    x.error = x.error.max(given.error + self.moved(given.value, most, unit));
                }
            }
        }
    }
}

/// The largest finite magnitude.
fn largest<'a>(of: impl Iterator<Item = &'a Approx>) -> f64 {
    let sizes = of.map(|x| x.value.abs() + x.error).filter(|size| size.is_finite());
    sizes.fold(0.0, f64::max)
}
