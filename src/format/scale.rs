//! Choosing the scale of a block: the rules of [`Quantizer`], as arithmetic.

use super::codec::{Codec, E4M3_VALUES, e4m3_code};
use super::{FormatSpec, Quantizer};
use crate::num::DType;

/// Largest UE4M3 scale code: 448.
const UE4M3_MAX_CODE: u8 = 0x7E;
/// Exponent bias of E8M0.
const E8M0_BIAS: i32 = 127;
/// No computed f32 scale is smaller: kernels may flush subnormals, and 0 divides badly.
const MIN_F32_SCALE: f32 = f32::MIN_POSITIVE;

/// The values that share a scale: `rows` stretches of `cols` values, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub src: &'a [f32],
    pub stride: usize,
    pub start: usize,
    pub cols: usize,
}

impl<'a> Block<'a> {
    /// The block's rows, in order.
    #[inline(always)]
    pub(super) fn rows(self) -> impl Iterator<Item = &'a [f32]> {
        self.src
            .chunks_exact(self.stride.max(1))
            .map(move |row| &row[self.start..self.start + self.cols])
    }

    /// Squared error of its codes under a unit, summed in order.
    pub(super) fn error(self, codec: Codec, unit: f64) -> f64 {
        self.rows().fold(0.0, |sum, row| codec.add_error(sum, row, unit))
    }

    /// Largest magnitude, or `None` when a value is NaN or infinite.
    #[inline(always)]
    pub(super) fn amax(self) -> Option<f32> {
        let bits = self.rows().map(max_magnitude_bits).max().unwrap_or(0);
        let amax = f32::from_bits(bits);
        amax.is_finite().then_some(amax)
    }
}

/// Magnitudes compare as their bits do, and NaN above infinity above all else: one integer
/// maximum finds amax and whether it can be trusted.
#[inline(always)]
pub(super) fn max_magnitude_bits(src: &[f32]) -> u32 {
    src.iter().fold(0, |max, x| max.max(x.to_bits() & !(1 << 31)))
}

/// A scale as stored, and the unit in which codes count under it: `s·g`, exact.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub stored: Stored,
    pub unit: f64,
}

/// A scale's stored bits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stored {
    Byte(u8),
    F32(f32),
}

impl Stored {
    /// Writes the bits into a scale's place.
    pub(super) fn write(self, dst: &mut [u8]) {
        match self {
            Stored::Byte(b) => dst[0] = b,
            Stored::F32(s) => dst.copy_from_slice(&s.to_ne_bytes()),
        }
    }
}

/// How the scales of one tensor are chosen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scaling {
    /// UE4M3 under a tensor scale `g`; no code above `max_code`.
    Ue4m3 { g: f32, max_code: u8 },
    /// A power of two.
    E8m0,
    /// An f32.
    F32,
    /// An f32 that the caller fixed.
    Fixed(f32),
}

impl Scaling {
    /// The scaling of a tensor whose largest magnitude is `amax`, or whose tensor scale is
    /// `fixed`.
    pub(super) fn new(spec: &FormatSpec, fixed: Option<f32>, amax: f32) -> Self {
        match (spec.scale, fixed) {
            (DType::E8M0, _) => Scaling::E8m0,
            (DType::UE4M3, _) => {
                let g = fixed.unwrap_or_else(|| f32_scale(amax, 6.0 * 448.0));
                // 6·s·g must stay within f32. Only a caller's g can go beyond: the computed one
                // has 6·448·g at most amax plus less than half a step of it.
                let holds = |code: &u8| {
                    6.0 * f64::from(E4M3_VALUES[usize::from(*code)]) * f64::from(g)
                        <= f64::from(f32::MAX)
                };
                let max_code = (0..=UE4M3_MAX_CODE).rev().find(holds).unwrap_or(0);
                Scaling::Ue4m3 { g, max_code }
            }
            (_, None) => Scaling::F32,
            (_, Some(scale)) => Scaling::Fixed(scale),
        }
    }

    /// The tensor scale: 1 for formats without.
    pub(super) fn tensor_scale(self) -> f32 {
        match self {
            Scaling::Ue4m3 { g, .. } => g,
            _ => 1.0,
        }
    }

    /// The scale of one block by a rule; `error` says what the block loses under a unit.
    #[inline(always)]
    pub(super) fn choose(
        self,
        codec: Codec,
        quantizer: Quantizer,
        amax: f32,
        error: impl FnMut(f64) -> f64,
    ) -> Scale {
        match self {
            Scaling::Ue4m3 { g, max_code } => {
                let mapped_to = |target: f64| ue4m3_at(amax, target, g).min(max_code);
                let base = mapped_to(6.0);
                let scale = |code| ue4m3(code, g);
                match quantizer {
                    Quantizer::FourOverSix => best(error, scale(base), [scale(mapped_to(4.0))]),
                    Quantizer::Mse => {
                        let codes = mapped_to(8.0)..=mapped_to(3.0);
                        best(error, scale(base), codes.map(scale))
                    }
                    _ => scale(base),
                }
            }
            Scaling::E8m0 => {
                let emax = floor_log2(codec.max());
                let code = |exponent: i32| e8m0(exponent, emax);
                if amax == 0.0 {
                    return code(-E8M0_BIAS);
                }
                let amax = f64::from(amax);
                let floor = floor_log2(amax);
                let ocp = floor - emax;
                match quantizer {
                    Quantizer::Amax => code(ocp + i32::from(amax > codec.max() * exp2(ocp))),
                    Quantizer::OcpCeil => code(ocp + i32::from(amax > exp2(floor))),
                    Quantizer::Mse => best(error, code(ocp), [code(ocp - 1), code(ocp + 1)]),
                    _ => code(ocp),
                }
            }
            Scaling::F32 => {
                let base = f32_scale(amax, codec.max() as f32);
                match quantizer {
                    Quantizer::Mse if amax > 0.0 => {
                        let binade = exp2(floor_log2(codec.max()));
                        let steps = ((codec.max() - binade) / codec.top_step()) as u32;
                        let scales = (1..=steps).map(|i| {
                            let target = codec.max() - f64::from(i) * codec.top_step();
                            f32_exact(f32_scale(amax, target as f32))
                        });
                        best(error, f32_exact(base), scales)
                    }
                    _ => f32_exact(base),
                }
            }
            Scaling::Fixed(scale) => f32_exact(scale),
        }
    }
}

/// The candidate of least error; on a tie the earliest, `base` first.
fn best(
    mut error: impl FnMut(f64) -> f64,
    base: Scale,
    others: impl IntoIterator<Item = Scale>,
) -> Scale {
    let first = (base, error(base.unit));
    let better = |best: (Scale, f64), scale: Scale| {
        let error = error(scale.unit);
        if error < best.1 { (scale, error) } else { best }
    };
    others.into_iter().fold(first, better).0
}

/// The UE4M3 code nearest to `amax / target / g`, saturated.
fn ue4m3_at(amax: f32, target: f64, g: f32) -> u8 {
    // target·g is exact, and the quotient's own rounding cannot matter: see `codec`.
    e4m3_code(f64::from(amax) / (target * f64::from(g)))
}

fn ue4m3(code: u8, g: f32) -> Scale {
    let unit = f64::from(E4M3_VALUES[usize::from(code)]) * f64::from(g);
    Scale { stored: Stored::Byte(code), unit }
}

/// `2^exponent`, clamped to what E8M0 holds and to where the largest code still is an f32.
fn e8m0(exponent: i32, emax: i32) -> Scale {
    let exponent = exponent.clamp(-E8M0_BIAS, E8M0_BIAS - emax);
    Scale { stored: Stored::Byte((exponent + E8M0_BIAS) as u8), unit: exp2(exponent) }
}

fn f32_exact(scale: f32) -> Scale {
    Scale { stored: Stored::F32(scale), unit: f64::from(scale) }
}

/// `amax / max`, but 1 for an amax of zero, and never subnormal.
fn f32_scale(amax: f32, max: f32) -> f32 {
    if amax == 0.0 { 1.0 } else { (amax / max).max(MIN_F32_SCALE) }
}

/// `2^exponent` for exponents of normal f64 values.
fn exp2(exponent: i32) -> f64 {
    f64::from_bits(((i64::from(exponent) + 1023) as u64) << 52)
}

/// `floor(log2(x))` of a positive normal f64; every positive f32 is one.
fn floor_log2(x: f64) -> i32 {
    (x.to_bits() >> 52) as i32 - 1023
}
