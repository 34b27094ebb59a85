//! Decoding and rounding of every float format that PTX knows.

/// A binary float format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub exponent_bits: u32,
    pub mantissa_bits: u32,
    pub bias: i32,
    pub specials: Specials,
}

/// What the codes of the largest exponent mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Specials {
    /// Infinity and NaN as in IEEE 754.
    Ieee,
    /// One NaN, the code of all ones; no infinity (E4M3).
    NanOnly,
    /// Every code is a number (E2M1, E2M3, E3M2).
    None,
}

impl Format {
    const fn new(exponent_bits: u32, mantissa_bits: u32, bias: i32, specials: Specials) -> Self {
        Format { exponent_bits, mantissa_bits, bias, specials }
    }

    pub const F64: Format = Format::new(11, 52, 1023, Specials::Ieee);
    pub const F32: Format = Format::new(8, 23, 127, Specials::Ieee);
    pub const F16: Format = Format::new(5, 10, 15, Specials::Ieee);
    pub const BF16: Format = Format::new(8, 7, 127, Specials::Ieee);
    /// The 19 upper bits of an f32, as `cvt.rna.tf32` leaves them.
    pub const TF32: Format = Format::new(8, 10, 127, Specials::Ieee);
    pub const E5M2: Format = Format::new(5, 2, 15, Specials::Ieee);
    pub const E4M3: Format = Format::new(4, 3, 7, Specials::NanOnly);
    pub const E3M2: Format = Format::new(3, 2, 3, Specials::None);
    pub const E2M3: Format = Format::new(2, 3, 1, Specials::None);
    pub const E2M1: Format = Format::new(2, 1, 1, Specials::None);

    /// Bits of one code.
    pub const fn bits(self) -> u32 {
        1 + self.exponent_bits + self.mantissa_bits
    }

    /// The code of the largest finite magnitude.
    pub const fn max_finite(self) -> u64 {
        let all = (1u64 << (self.exponent_bits + self.mantissa_bits)) - 1;
        match self.specials {
            Specials::Ieee => all - (1 << self.mantissa_bits),
            Specials::NanOnly => all - 1,
            Specials::None => all,
        }
    }

    /// The code that PTX gives for NaN; `None` where the format has none.
    pub const fn nan(self) -> Option<u64> {
        match self.specials {
            // All ones below the sign, as the hardware's canonical NaN of f32, f16, bf16, fp8.
            Specials::Ieee | Specials::NanOnly => {
                Some((1u64 << (self.exponent_bits + self.mantissa_bits)) - 1)
            }
            Specials::None => None,
        }
    }

    const fn infinity(self) -> u64 {
        ((1 << self.exponent_bits) - 1) << self.mantissa_bits
    }
}

/// A decoded code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoded {
    Nan,
    Infinite { negative: bool },
    Finite(Value),
}

/// `(-1)^negative · magnitude · 2^exponent`, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value {
    pub negative: bool,
    pub magnitude: u128,
    pub exponent: i32,
}

/// How dropped bits are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To nearest, ties to even.
    NearestEven,
    /// To nearest, ties away from zero.
    NearestAway,
    TowardZero,
    Down,
    Up,
}

/// The value of a code.
pub(crate) fn decode(code: u64, f: Format) -> Decoded {
    let mantissa = code & ((1 << f.mantissa_bits) - 1);
    let top = (1u64 << f.exponent_bits) - 1;
    let biased = code >> f.mantissa_bits & top;
    let negative = code >> (f.exponent_bits + f.mantissa_bits) & 1 == 1;
    match f.specials {
        Specials::Ieee if biased == top && mantissa != 0 => return Decoded::Nan,
        Specials::Ieee if biased == top => return Decoded::Infinite { negative },
        Specials::NanOnly if biased == top && mantissa == (1 << f.mantissa_bits) - 1 => {
            return Decoded::Nan;
        }
        _ => {}
    }
    let (magnitude, exponent) = if biased == 0 {
        (mantissa, 1 - f.bias)
    } else {
        (mantissa | 1 << f.mantissa_bits, biased as i32 - f.bias)
    };
    Decoded::Finite(Value {
        negative,
        magnitude: u128::from(magnitude),
        exponent: exponent - f.mantissa_bits as i32,
    })
}

/// The code of `v` rounded to the format. `sticky` says that the true magnitude is a little
/// above `v`'s, by less than its last bit. Beyond the largest finite value, `saturate`
/// gives that value; otherwise infinity, or NaN where the format has no infinity.
pub(crate) fn round(v: Value, sticky: bool, f: Format, mode: Rounding, saturate: bool) -> u64 {
    let sign = u64::from(v.negative) << (f.exponent_bits + f.mantissa_bits);
    if v.magnitude == 0 && !sticky {
        return sign;
    }
    // Room for a guard bit below `v`, so that `sticky` is never the only thing left.
    let (mut m, mut e) = (v.magnitude, v.exponent);
    if m.leading_zeros() >= 2 {
        m = m << 2 | u128::from(sticky);
        e -= 2;
    } else {
        m |= u128::from(sticky);
    }
    let length = 128 - m.leading_zeros() as i32;
    // Exponent of the last kept bit: normal numbers keep mantissa_bits + 1 bits.
    let lowest = 1 - f.bias - f.mantissa_bits as i32;
    let last = (e + length - 1 - f.mantissa_bits as i32).max(lowest);
    let drop = last - e;
    let (mut kept, half, rest) = if drop <= 0 {
        // A format wider than the value: only F64 from small integers comes here.
        (m << (-drop).min(127), false, false)
    } else if drop > 128 {
        (0, false, true)
    } else {
        let kept = if drop == 128 { 0 } else { m >> drop };
        let half = m >> (drop - 1) & 1 == 1;
        let rest = m & ((1u128 << (drop - 1)) - 1) != 0;
        (kept, half, rest)
    };
    let up = match mode {
        Rounding::NearestEven => half && (rest || kept & 1 == 1),
        Rounding::NearestAway => half,
        Rounding::TowardZero => false,
        Rounding::Down => v.negative && (half || rest),
        Rounding::Up => !v.negative && (half || rest),
    };
    kept += u128::from(up);
    let mut last = last;
    if kept >> (f.mantissa_bits + 1) != 0 {
        kept >>= 1;
        last += 1;
    }
    // Subnormals have the same last-bit exponent as the smallest normals, so adding the
    // biased exponent minus one times the implicit bit covers both.
    let normal = kept >> f.mantissa_bits != 0;
    let biased = if normal { last - lowest + 1 } else { 0 };
    let code = if normal {
        ((biased as u128) << f.mantissa_bits) + (kept - (1 << f.mantissa_bits))
    } else {
        kept
    };
    if code > u128::from(f.max_finite()) {
        // Directed rounding that points inwards stops at the largest finite value.
        let inwards = match mode {
            Rounding::TowardZero => true,
            Rounding::Down => !v.negative,
            Rounding::Up => v.negative,
            Rounding::NearestEven | Rounding::NearestAway => false,
        };
        return if saturate || inwards || f.specials == Specials::None {
            sign | f.max_finite()
        } else if f.specials == Specials::NanOnly {
            sign | (f.max_finite() + 1)
        } else {
            sign | f.infinity()
        };
    }
    sign | code as u64
}

/// A code of one format rounded to another. NaN becomes the canonical NaN of the target, or
/// its largest positive value where it has none.
pub(crate) fn convert(code: u64, from: Format, to: Format, mode: Rounding, saturate: bool) -> u64 {
    match decode(code, from) {
        Decoded::Nan => to.nan().unwrap_or(to.max_finite()),
        Decoded::Infinite { negative } => {
            let sign = u64::from(negative) << (to.bits() - 1);
            match to.specials {
                Specials::Ieee if !saturate => sign | to.infinity(),
                Specials::NanOnly if !saturate => sign | (to.max_finite() + 1),
                _ => sign | to.max_finite(),
            }
        }
        Decoded::Finite(v) => round(v, false, to, mode, saturate),
    }
}

/// The value of a code as f64, exact for every format here.
pub(crate) fn to_f64(code: u64, f: Format) -> f64 {
    f64::from_bits(match decode(code, f) {
        Decoded::Nan => return f64::NAN,
        _ => convert(code, f, Format::F64, Rounding::NearestEven, false),
    })
}

/// The value of an unsigned E8M0 scale: a power of two, or NaN for 0xFF.
pub(crate) fn e8m0_exponent(code: u8) -> Option<i32> {
    (code != 0xff).then(|| i32::from(code) - 127)
}

/// An f32 rounded to an E8M0 scale: `up` to the next power of two, otherwise down. The sign
/// is dropped, NaN gives 0xFF.
pub(crate) fn f32_to_e8m0(bits: u32, up: bool, saturate: bool) -> u8 {
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return 0xff;
    }
    let mut exponent = magnitude >> 23;
    let fraction = magnitude & 0x7f_ffff;
    if exponent == 0 {
        // Subnormal f32: 2^-127 is code 0 and is the value with fraction 0x400000.
        return u8::from(up && fraction > 0x40_0000);
    }
    exponent += u32::from(up && fraction != 0);
    match exponent {
        255.. if saturate => 0xfe,
        255.. => 0xff,
        e => e as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_small_code_survives_a_round_trip_through_f64() {
        for f in [
            Format::E2M1,
            Format::E2M3,
            Format::E3M2,
            Format::E4M3,
            Format::E5M2,
            Format::F16,
            Format::BF16,
        ] {
            for code in 0..1u64 << f.bits() {
                if let Decoded::Finite(_) = decode(code, f) {
                    let wide = to_f64(code, f).to_bits();
                    let back = convert(wide, Format::F64, f, Rounding::NearestEven, false);
                    assert_eq!(back, code, "{f:?} {code:#x}");
                }
            }
        }
    }

    #[test]
    fn f64_to_f32_agrees_with_the_processor() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for i in 0..200_000u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i | 1);
            // Exponents around and below f32's range, so that subnormals come up.
            let exponent = 1023 - 160 + (state >> 33) % 300;
            let x = f64::from_bits(state & 0x800f_ffff_ffff_ffff | exponent << 52);
            let got = convert(x.to_bits(), Format::F64, Format::F32, Rounding::NearestEven, false);
            assert_eq!(got as u32, (x as f32).to_bits(), "{x:e}");
        }
    }

    #[test]
    fn half_precision_agrees_with_the_half_crate() {
        for bits in (0..=u32::MAX).step_by(65_537 / 3) {
            let x = f32::from_bits(bits);
            if x.is_nan() {
                continue;
            }
            let ours = |f| convert(u64::from(bits), Format::F32, f, Rounding::NearestEven, false);
            assert_eq!(ours(Format::F16) as u16, half::f16::from_f32(x).to_bits(), "{x:e}");
            assert_eq!(ours(Format::BF16) as u16, half::bf16::from_f32(x).to_bits(), "{x:e}");
        }
    }

    #[test]
    fn largest_values_saturate_or_overflow_as_asked() {
        let enc = |x: f32, f, sat| {
            convert(u64::from(x.to_bits()), Format::F32, f, Rounding::NearestEven, sat)
        };
        assert_eq!(enc(448.0, Format::E4M3, true), 0x7e);
        assert_eq!(enc(1e9, Format::E4M3, true), 0x7e);
        assert_eq!(enc(1e9, Format::E4M3, false), 0x7f);
        assert_eq!(enc(-1e9, Format::E5M2, true), 0xfb);
        assert_eq!(enc(f32::INFINITY, Format::E5M2, false), 0x7c);
        assert_eq!(enc(f32::NAN, Format::E2M1, true), 0x7);
        assert_eq!(enc(-5.0, Format::E2M1, true), 0xe);
        assert_eq!(enc(0.25, Format::E2M1, true), 0x0);
        assert_eq!(enc(0.75, Format::E2M1, true), 0x2);
    }

    #[test]
    fn e8m0_rounds_to_powers_of_two() {
        assert_eq!(f32_to_e8m0(1.0f32.to_bits(), false, true), 127);
        assert_eq!(f32_to_e8m0(1.5f32.to_bits(), false, true), 127);
        assert_eq!(f32_to_e8m0(1.5f32.to_bits(), true, true), 128);
        assert_eq!(f32_to_e8m0(f32::NAN.to_bits(), true, true), 0xff);
        assert_eq!(f32_to_e8m0(f32::INFINITY.to_bits(), true, true), 0xfe);
        assert_eq!(f32_to_e8m0(0, true, true), 0);
    }
}
