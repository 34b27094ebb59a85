//! Codes to values and values to codes, given the unit (`s·g`) a code counts in.
//!
//! Encoding rounds the *exact* quotient `x / unit` once. Units are products of an f32 and a scale
//! of at most 4 significant bits, so an f64 holds them exactly (28 bits). For FP4 the quotient is
//! never formed: `x` is compared with the midpoints between codes times the unit, exact too
//! (31 bits). For FP8 the quotient is taken in f64 and then rounded to 8 bits; that second rounding
//! is harmless: a quotient not on a midpoint `m` (5 bits at most) differs from it by at least
//! 2^-33 relative, since `x` and `m·unit` are distinct multiples of a common step 2^-33 of their
//! size, and f64 resolves 2^-53.

use crate::num::{DType, E8M0, F8E4M3, F8E5M2, UE4M3};

/// Magnitudes of the E2M1 codes 0..8; bit 3 is the sign.
const E2M1_VALUES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Midpoints between neighbouring E2M1 magnitudes, and whether the midpoint itself rounds up
/// (ties to even: to the code with a clear low bit).
const E2M1_MIDPOINTS: [(f64, bool); 7] = [
    (0.25, false),
    (0.75, true),
    (1.25, false),
    (1.75, true),
    (2.5, false),
    (3.5, true),
    (5.0, false),
];

/// What is done with codes of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    E2M1,
    E4M3,
    E5M2,
}

impl Codec {
    /// The codec of a format's codes.
    pub(super) const fn of(code: DType) -> Self {
        match code {
            DType::E2M1x2 => Codec::E2M1,
            DType::F8E5M2 => Codec::E5M2,
            _ => Codec::E4M3,
        }
    }

    /// Largest finite magnitude of a code.
    pub(super) const fn max(self) -> f64 {
        match self {
            Codec::E2M1 => 6.0,
            Codec::E4M3 => 448.0,
            Codec::E5M2 => 57344.0,
        }
    }

    /// Distance of the codes of the top binade: 6, 4; 448, 416, …, 256; 57344, …, 32768.
    pub(super) const fn top_step(self) -> f64 {
        match self {
            Codec::E2M1 => 2.0,
            Codec::E4M3 => 32.0,
            Codec::E5M2 => 8192.0,
        }
    }

    /// Writes the codes of `src` into `dst`, whose further bytes become zero.
    #[inline(always)]
    pub(super) fn encode(self, src: &[f32], unit: f64, dst: &mut [u8]) {
        match self {
            Codec::E2M1 => encode_e2m1(src, unit, dst),
            Codec::E4M3 => encode_fp8(src, unit, dst, self.limit(unit), e4m3),
            Codec::E5M2 => encode_fp8(src, unit, dst, self.limit(unit), e5m2),
        }
    }

    /// `sum + Σ (x − code(x)·unit)²`, added in order.
    pub(super) fn add_error(self, sum: f64, src: &[f32], unit: f64) -> f64 {
        let rounder = self.rounder(unit);
        src.iter().fold(sum, |sum, &x| {
            let d = f64::from(x) - rounder.round(x);
            sum + d * d
        })
    }

    /// Rounds values to codes in units of `unit`.
    pub(super) fn rounder(self, unit: f64) -> Rounder {
        match self {
            Codec::E2M1 => Rounder::E2M1 {
                thresholds: e2m1_thresholds(unit),
                values: E2M1_VALUES.map(|v| f64::from(v) * unit),
            },
            Codec::E4M3 => Rounder::E4M3 { unit, limit: self.limit(unit) },
            Codec::E5M2 => Rounder::E5M2 { unit, limit: self.limit(unit) },
        }
    }

    /// Largest code whose value in units of `unit` an f32 can hold.
    fn limit(self, unit: f64) -> f64 {
        let holds = |v: f64| v * unit <= f64::from(f32::MAX);
        if holds(self.max()) {
            return self.max();
        }
        let table: &[f32; 256] = if self == Codec::E5M2 { &E5M2_VALUES } else { &E4M3_VALUES };
        table.iter().map(|&v| f64::from(v)).filter(|&v| holds(v)).fold(0.0, f64::max)
    }
}

/// `code(x)·unit` of one value after the other: what [`Codec::encode`] would make of it.
pub(super) enum Rounder {
    E2M1 { thresholds: [f32; 7], values: [f64; 8] },
    E4M3 { unit: f64, limit: f64 },
    E5M2 { unit: f64, limit: f64 },
}

impl Rounder {
    #[inline(always)]
    pub(super) fn round(&self, x: f32) -> f64 {
        let fp8 = |unit: f64, limit, code: fn(f64) -> u8, values: &[f32; 256]| {
            f64::from(values[usize::from(fp8_code(x, unit, limit, code))]) * unit
        };
        match self {
            Rounder::E2M1 { thresholds, values } => {
                let value = values[usize::from(e2m1_magnitude(thresholds, x.abs()))];
                if x.is_sign_negative() { -value } else { value }
            }
            Rounder::E4M3 { unit, limit } => fp8(*unit, *limit, e4m3, &E4M3_VALUES),
            Rounder::E5M2 { unit, limit } => fp8(*unit, *limit, e5m2, &E5M2_VALUES),
        }
    }
}

/// `t[i]` is the least f32 that gets a code above `i`: `x ≥ t[i]` is "past midpoint `i`".
///
/// A unit of zero makes every code zero.
#[inline(always)]
fn e2m1_thresholds(unit: f64) -> [f32; 7] {
    if unit == 0.0 {
        return [f32::INFINITY; 7];
    }
    E2M1_MIDPOINTS.map(|(midpoint, tie_up)| {
        let exact = midpoint * unit;
        let rounded = exact as f32;
        let reached = f64::from(rounded) > exact || (tie_up && f64::from(rounded) == exact);
        if reached { rounded } else { rounded.next_up() }
    })
}

/// The code of a magnitude: the number of thresholds it reaches.
#[inline(always)]
fn e2m1_magnitude(thresholds: &[f32; 7], x: f32) -> u8 {
    thresholds.iter().map(|&t| u8::from(x >= t)).sum()
}

#[inline(always)]
fn encode_e2m1(src: &[f32], unit: f64, dst: &mut [u8]) {
    let thresholds = e2m1_thresholds(unit);
    let code = |x: f32| e2m1_magnitude(&thresholds, x.abs()) | u8::from(x.is_sign_negative()) << 3;
    let (bytes, padding) = dst.split_at_mut(src.len().div_ceil(2));
    // Codes first, then nibbles: each step alone vectorises, both in one do not.
    const STRETCH: usize = 64;
    let mut codes = [0; STRETCH];
    for (values, bytes) in src.chunks(STRETCH).zip(bytes.chunks_mut(STRETCH / 2)) {
        let codes = &mut codes[..values.len()];
        for (code_of, &x) in codes.iter_mut().zip(values) {
            *code_of = code(x);
        }
        let (pairs, rest) = codes.as_chunks();
        for (byte, [lo, hi]) in bytes.iter_mut().zip(pairs) {
            *byte = lo | hi << 4;
        }
        if let ([last], Some(byte)) = (rest, bytes.last_mut()) {
            *byte = *last;
        }
    }
    padding.fill(0);
}

fn e4m3(q: f64) -> u8 {
    F8E4M3::from_f64(q).to_bits()
}

fn e5m2(q: f64) -> u8 {
    F8E5M2::from_f64(q).to_bits()
}

/// The code of a non-negative quotient in E4M3, saturated: also that of a UE4M3 scale.
pub(super) fn e4m3_code(q: f64) -> u8 {
    e4m3(q.min(Codec::E4M3.max()))
}

#[inline]
fn encode_fp8(src: &[f32], unit: f64, dst: &mut [u8], limit: f64, code: impl Fn(f64) -> u8) {
    let (bytes, padding) = dst.split_at_mut(src.len());
    for (byte, &x) in bytes.iter_mut().zip(src) {
        *byte = fp8_code(x, unit, limit, &code);
    }
    padding.fill(0);
}

#[inline(always)]
fn fp8_code(x: f32, unit: f64, limit: f64, code: impl Fn(f64) -> u8) -> u8 {
    code((f64::from(x) / unit).clamp(-limit, limit))
}

/// The values of all codes of an 8-bit type.
macro_rules! values {
    ($t:ty) => {{
        let mut values = [0.0; 256];
        let mut code = 0;
        while code < 256 {
            values[code] = <$t>::from_bits(code as u8).to_f32();
            code += 1;
        }
        values
    }};
}

/// Values of the E4M3 codes, NaN included.
pub(super) static E4M3_VALUES: [f32; 256] = values!(F8E4M3);

/// Values of the E5M2 codes, infinities and NaN included.
pub(super) static E5M2_VALUES: [f32; 256] = values!(F8E5M2);

/// Values of the UE4M3 scale codes.
pub(super) static UE4M3_VALUES: [f32; 256] = values!(UE4M3);

/// Values of the E8M0 scale codes.
pub(super) static E8M0_VALUES: [f32; 256] = values!(E8M0);

/// Values of a byte of two E2M1 codes, the low nibble's first.
pub(super) static E2M1_PAIRS: [[f32; 2]; 256] = {
    const fn value(code: usize) -> f32 {
        let v = E2M1_VALUES[code & 7];
        if code & 8 == 0 { v } else { -v }
    }
    let mut pairs = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [value(byte & 15), value(byte >> 4)];
        byte += 1;
    }
    pairs
};
