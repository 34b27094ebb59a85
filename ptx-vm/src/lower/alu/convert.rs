//! `cvt` in all its forms.

use super::{mask_of, sign_extend};
use crate::lower::ops::Lanes;
use crate::numeric::float::{convert, e8m0_exponent, f32_to_e8m0, round, to_f64};
use crate::numeric::{Decoded, Format, Rounding, Value, decode};

/// A scalar end of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Int { bits: u32, signed: bool },
    Float(Format),
}

/// What a conversion does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cvt {
    IntInt {
        from: (u32, bool),
        to: (u32, bool),
        register: u32,
        saturate: bool,
    },
    IntFloat {
        from: (u32, bool),
        to: Format,
        mode: Rounding,
        fix: Fix,
    },
    FloatInt {
        from: Format,
        to: (u32, bool),
        register: u32,
        mode: Rounding,
        flush: bool,
    },
    FloatFloat {
        from: Format,
        to: Format,
        mode: Rounding,
        integral: bool,
        saturate: bool,
        fix: Fix,
    },
    /// Two sources (the first to the high half) to a pair of narrow floats.
    Join {
        from: Format,
        to: Format,
        step: u32,
        mode: Rounding,
        saturate: bool,
        relu: bool,
    },
    /// The halves of one register to a pair of narrower floats.
    Narrow {
        from: Format,
        to: Format,
        step: u32,
        mode: Rounding,
        saturate: bool,
        relu: bool,
    },
    /// A pair of narrow floats to halves of a 32-bit register.
    Widen {
        from: Format,
        to: Format,
        step: u32,
        relu: bool,
    },
    JoinScale {
        up: bool,
        saturate: bool,
    },
    /// Halves of one register to scales.
    NarrowScale {
        up: bool,
        saturate: bool,
    },
    WidenScale,
    /// `cvt.pack.sat`: two s32 to narrow integers, over the third source shifted up.
    Pack {
        to: (u32, bool),
        shifted: bool,
    },
}

/// What happens after rounding, on floats.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fix {
    /// Clamp to [0, 1].
    pub unit: bool,
    /// Negative to zero.
    pub relu: bool,
    /// Flush f32 subnormals of source and result.
    pub flush: bool,
}

/// Runs a conversion on whole lanes. `b` and `c` are only read by forms with more sources.
pub(crate) fn run(cvt: Cvt, a: &Lanes, b: &Lanes, c: &Lanes, o: &mut Lanes) {
    let one = |o: &mut Lanes, f: &dyn Fn(u64) -> u64| {
        for (o, &a) in o.iter_mut().zip(a) {
            *o = f(a);
        }
    };
    match cvt {
        Cvt::IntInt { from, to, register, saturate } => {
            for (o, &a) in o.iter_mut().zip(a) {
                *o = int_int(a, from, to, register, saturate);
            }
        }
        Cvt::IntFloat { from, to, mode: Rounding::NearestEven, fix } if to == Format::F32 => {
            for (o, &a) in o.iter_mut().zip(a) {
                let x = if from.1 {
                    sign_extend(a, from.0) as f32
                } else {
                    (a & mask_of(from.0)) as f32
                };
                *o = fixed(u64::from(x.to_bits()), to, fix);
            }
        }
        Cvt::IntFloat { from, to, mode, fix } => one(o, &|a| int_float(a, from, to, mode, fix)),
        Cvt::FloatInt { from, to, register, mode, flush } => {
            one(o, &|a| float_int(flushed(a, from, flush), from, to, register, mode));
        }
        Cvt::FloatFloat { from, to, mode, integral, saturate, fix } => one(o, &|a| {
            let a = flushed(a & mask_of(from.bits()), from, fix.flush);
            let code = if integral {
                let x = to_integral(to_f64(a, from), mode);
                convert(x.to_bits(), Format::F64, to, Rounding::NearestEven, false)
            } else {
                widen_or_round(a, from, to, mode, saturate)
            };
            fixed(code, to, fix)
        }),
        Cvt::Join { from, to, step, mode, saturate, relu } => {
            for ((o, &a), &b) in o.iter_mut().zip(a).zip(b) {
                let part =
                    |x: u64| relu_code(widen_or_round(x, from, to, mode, saturate), to, relu);
                *o = part(a) << step | part(b);
            }
        }
        Cvt::Narrow { from, to, step, mode, saturate, relu } => one(o, &|a| {
            let part = |x: u64| {
                relu_code(convert(x & mask_of(from.bits()), from, to, mode, saturate), to, relu)
            };
            part(a >> from.bits()) << step | part(a)
        }),
        Cvt::Widen { from, to, step, relu } => one(o, &|a| {
            let part = |x: u64| {
                let code =
                    convert(x & mask_of(from.bits()), from, to, Rounding::NearestEven, false);
                relu_code(code, to, relu)
            };
            part(a >> step) << to.bits() | part(a)
        }),
        Cvt::JoinScale { up, saturate } => {
            for ((o, &a), &b) in o.iter_mut().zip(a).zip(b) {
                let part = |x: u64| u64::from(f32_to_e8m0(x as u32, up, saturate));
                *o = part(a) << 8 | part(b);
            }
        }
        // A bf16 is the upper half of the f32 with its value.
        Cvt::NarrowScale { up, saturate } => one(o, &|a| {
            let part = |x: u64| u64::from(f32_to_e8m0((x << 16) as u32, up, saturate));
            part(a >> 16) << 8 | part(a & 0xffff)
        }),
        Cvt::WidenScale => one(o, &|a| {
            let part = |x: u64| match e8m0_exponent(x as u8) {
                None => u64::from(crate::numeric::native::NAN16),
                // 2^-127 is a bf16 subnormal.
                Some(-127) => 0x40,
                Some(e) => ((e + 127) as u64) << 7,
            };
            part(a >> 8) << 16 | part(a)
        }),
        Cvt::Pack { to, shifted } => {
            for (((o, &a), &b), &c) in o.iter_mut().zip(a).zip(b).zip(c) {
                let part = |x: u64| int_int(x, (32, true), to, to.0, true);
                let pair = part(a) << to.0 | part(b);
                *o = if shifted { (c << (2 * to.0) | pair) & mask_of(32) } else { pair };
            }
        }
    }
}

fn int_int(a: u64, from: (u32, bool), to: (u32, bool), register: u32, saturate: bool) -> u64 {
    let wide =
        if from.1 { i128::from(sign_extend(a, from.0)) } else { i128::from(a & mask_of(from.0)) };
    let value = if saturate { clamp(wide, to) } else { wide as u64 & mask_of(to.0) };
    let extended = if to.1 { sign_extend(value, to.0) as u64 } else { value & mask_of(to.0) };
    extended & mask_of(register)
}

fn clamp(x: i128, to: (u32, bool)) -> u64 {
    let (low, high) = if to.1 {
        (-(1i128 << (to.0 - 1)), (1i128 << (to.0 - 1)) - 1)
    } else {
        (0, i128::from(mask_of(to.0)))
    };
    x.clamp(low, high) as u64 & mask_of(to.0)
}

fn int_float(a: u64, from: (u32, bool), to: Format, mode: Rounding, fix: Fix) -> u64 {
    let v = if from.1 {
        let s = sign_extend(a, from.0);
        Value { negative: s < 0, magnitude: u128::from(s.unsigned_abs()), exponent: 0 }
    } else {
        Value { negative: false, magnitude: u128::from(a & mask_of(from.0)), exponent: 0 }
    };
    fixed(round(v, false, to, mode, false), to, fix)
}

fn to_integral(x: f64, mode: Rounding) -> f64 {
    match mode {
        Rounding::NearestEven => x.round_ties_even(),
        Rounding::NearestAway => x.round(),
        Rounding::TowardZero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

fn float_int(a: u64, from: Format, to: (u32, bool), register: u32, mode: Rounding) -> u64 {
    let x = to_integral(to_f64(a & mask_of(from.bits()), from), mode);
    // Where 64 bits take part, NaN gives the highest bit alone, elsewhere 0. The cast to
    // i128 saturates far outside every target range.
    let value = if x.is_nan() && (from == Format::F64 || to.0 == 64) {
        1 << (to.0 - 1)
    } else {
        clamp(x as i128, to)
    };
    let extended = if to.1 { sign_extend(value, to.0) as u64 } else { value };
    extended & mask_of(register)
}

/// A conversion with fast paths for the pairs that kernels use most.
fn widen_or_round(a: u64, from: Format, to: Format, mode: Rounding, saturate: bool) -> u64 {
    let nearest = mode == Rounding::NearestEven && !saturate;
    let x = f32::from_bits(a as u32);
    if from == Format::F32 && nearest && !x.is_nan() {
        if to == Format::F16 {
            return u64::from(half::f16::from_f32(x).to_bits());
        } else if to == Format::BF16 {
            return u64::from(half::bf16::from_f32(x).to_bits());
        }
    }
    if to == Format::F32 {
        let y = if from == Format::F16 {
            half::f16::from_bits(a as u16).to_f32()
        } else if from == Format::BF16 {
            half::bf16::from_bits(a as u16).to_f32()
        } else {
            f32::NAN
        };
        if !y.is_nan() {
            return u64::from(y.to_bits());
        }
    }
    if from == Format::F32 && to == Format::TF32 {
        // A tf32 value sits in the upper 19 bits of its register.
        return convert(a & mask_of(32), from, to, mode, saturate) << 13;
    }
    convert(a & mask_of(from.bits()), from, to, mode, saturate)
}

fn flushed(a: u64, f: Format, flush: bool) -> u64 {
    if flush && f == Format::F32 { crate::numeric::native::flush(a) } else { a }
}

fn relu_code(code: u64, f: Format, relu: bool) -> u64 {
    let negative = code >> (f.bits() - 1) & 1 == 1;
    if relu && negative && decode(code, f) != Decoded::Nan { 0 } else { code }
}

fn fixed(code: u64, to: Format, fix: Fix) -> u64 {
    let mut code = flushed(code, to, fix.flush);
    if fix.unit {
        let x = to_f64(code, to);
        if x.is_nan() || x <= 0.0 {
            code = 0;
        } else if x > 1.0 {
            code = convert(1f64.to_bits(), Format::F64, to, Rounding::NearestEven, false);
        }
    }
    // A tf32 code lies where an f32's bits do.
    let to = if to == Format::TF32 { Format::F32 } else { to };
    relu_code(code, to, fix.relu)
}
