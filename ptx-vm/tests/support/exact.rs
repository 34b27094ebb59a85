//! The tests' own arithmetic, on integers only and independent of the crate's: number
//! formats from their definitions, sums without rounding, and the tensor cores' cuts.

/// `sign · magnitude · 2^exponent`, infinite or not a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Finite { negative: bool, magnitude: u64, exponent: i32 },
    Infinite { negative: bool },
    Nan,
}

pub const ZERO: Value = Value::Finite { negative: false, magnitude: 0, exponent: -126 };

/// A type of elements: bits of exponent and mantissa, or an integer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Type {
    Float { exponent: u32, mantissa: u32, infinity: bool, nan: bool },
    Signed(u32),
    Unsigned(u32),
}

const fn ieee(exponent: u32, mantissa: u32) -> Type {
    Type::Float { exponent, mantissa, infinity: true, nan: true }
}

const fn finite(exponent: u32, mantissa: u32) -> Type {
    Type::Float { exponent, mantissa, infinity: false, nan: false }
}

pub const F32: Type = ieee(8, 23);
pub const F16: Type = ieee(5, 10);
pub const BF16: Type = ieee(8, 7);
pub const TF32: Type = ieee(8, 10);
pub const E5M2: Type = ieee(5, 2);
pub const E4M3: Type = Type::Float { exponent: 4, mantissa: 3, infinity: false, nan: true };
pub const E3M2: Type = finite(3, 2);
pub const E2M3: Type = finite(2, 3);
pub const E2M1: Type = finite(2, 1);

impl Type {
    /// The value of a code.
    pub fn decode(self, code: u32) -> Value {
        let (e, m, infinity, nan) = match self {
            Type::Signed(bits) => {
                let v = i64::from((code << (32 - bits)) as i32 >> (32 - bits));
                let magnitude = v.unsigned_abs();
                return Value::Finite { negative: v < 0, magnitude, exponent: 0 };
            }
            Type::Unsigned(_) => {
                let magnitude = u64::from(code);
                return Value::Finite { negative: false, magnitude, exponent: 0 };
            }
            Type::Float { exponent, mantissa, infinity, nan } => {
                (exponent, mantissa, infinity, nan)
            }
        };
        let (fraction, biased) = (code & ((1 << m) - 1), code >> m & ((1 << e) - 1));
        let negative = code >> (e + m) & 1 == 1;
        let top = biased == (1 << e) - 1;
        if infinity && top {
            return if fraction == 0 { Value::Infinite { negative } } else { Value::Nan };
        }
        if nan && top && fraction == (1 << m) - 1 {
            return Value::Nan;
        }
        let implicit = u64::from(biased != 0) << m;
        let exponent = biased.max(1) as i32 - ((1 << (e - 1)) - 1) - m as i32;
        Value::Finite { negative, magnitude: u64::from(fraction) | implicit, exponent }
    }

    /// The smallest exponent of a normal number.
    pub fn min_exponent(self) -> i32 {
        match self {
            Type::Float { exponent, .. } => 2 - (1 << (exponent - 1)),
            _ => 0,
        }
    }
}

impl Value {
    /// The exact product.
    pub fn times(self, other: Value) -> Value {
        use Value::*;
        match (self, other) {
            (Nan, _) | (_, Nan) => Nan,
            (
                Finite { negative: a, magnitude: x, exponent: p },
                Finite { negative: b, magnitude: y, exponent: q },
            ) => Finite { negative: a != b, magnitude: x * y, exponent: p + q },
            (Infinite { .. }, Finite { magnitude: 0, .. }) => Nan,
            (Finite { magnitude: 0, .. }, Infinite { .. }) => Nan,
            (Infinite { negative: a }, Infinite { negative: b } | Finite { negative: b, .. })
            | (Finite { negative: a, .. }, Infinite { negative: b }) => {
                Infinite { negative: a != b }
            }
        }
    }

    /// The value with its sign changed.
    pub fn negated(self) -> Value {
        self.times(Value::Finite { negative: true, magnitude: 1, exponent: 0 })
    }

    /// The leading bit's exponent, not below the format's smallest; zero has f32's smallest.
    pub fn leading(self, min: i32) -> i32 {
        match self {
            Value::Finite { magnitude: 0, .. } => -126,
            Value::Finite { magnitude, exponent, .. } => {
                min.max(exponent + 63 - magnitude.leading_zeros() as i32)
            }
            _ => 0,
        }
    }
}

/// What NaN or infinity among the terms makes of the sum.
fn special(terms: &[Value]) -> Option<Value> {
    let infinite = |n: bool| terms.contains(&Value::Infinite { negative: n });
    if terms.contains(&Value::Nan) || infinite(true) && infinite(false) {
        Some(Value::Nan)
    } else if infinite(true) || infinite(false) {
        Some(Value::Infinite { negative: infinite(true) })
    } else {
        None
    }
}

/// The lowest bit of [`Long`].
const LOWEST: i32 = -640;
const LIMBS: usize = 48;

/// A fixed-point number wide enough for every sum here, in limbs of 32 bits that carry late.
pub struct Long([i64; LIMBS]);

impl Long {
    pub fn sum(terms: &[Value]) -> Long {
        let mut limbs = [0i64; LIMBS];
        for t in terms {
            let Value::Finite { negative, magnitude, exponent } = *t else { continue };
            let shift = (exponent - LOWEST) as usize;
            let wide = u128::from(magnitude) << (shift % 32);
            for i in 0..4 {
                let part = (wide >> (32 * i) & 0xffff_ffff) as i64;
                if part != 0 {
                    limbs[shift / 32 + i] += if negative { -part } else { part };
                }
            }
        }
        Long(limbs)
    }

    /// Sign and magnitude, every limb below 2^32.
    fn settled(&self) -> (bool, [i64; LIMBS]) {
        let settle = |mut limbs: [i64; LIMBS]| {
            for i in 0..LIMBS - 1 {
                limbs[i + 1] += limbs[i] >> 32;
                limbs[i] &= 0xffff_ffff;
            }
            limbs
        };
        let plain = settle(self.0);
        if plain[LIMBS - 1] < 0 { (true, settle(self.0.map(|l| -l))) } else { (false, plain) }
    }

    /// The code of the sum, to nearest even or cut, in a format with infinity.
    pub fn round(&self, to: Type, nearest: bool) -> u32 {
        let Type::Float { exponent: e, mantissa: m, .. } = to else { panic!("a float type") };
        let (negative, limbs) = self.settled();
        let sign = u32::from(negative) << (e + m);
        let bit = |i: i32| {
            let at = (i - LOWEST) as usize;
            i >= LOWEST && limbs[at / 32] >> (at % 32) & 1 == 1
        };
        let Some(top) = (LOWEST..LOWEST + 32 * LIMBS as i32 - 32).rev().find(|i| bit(*i)) else {
            return 0;
        };
        let last = (top - m as i32).max(to.min_exponent() - m as i32);
        let mut kept = (last..=top).rev().fold(0u64, |v, i| v << 1 | u64::from(bit(i)));
        let rest = (LOWEST..last - 1).any(bit);
        if nearest && bit(last - 1) && (rest || kept & 1 == 1) {
            kept += 1;
        }
        // Adding the mantissa with its implicit bit lets a carry go into the exponent.
        let biased = (last + m as i32 - to.min_exponent()) as u64;
        let code = (biased << m) + kept;
        let infinity = ((1u64 << e) - 1) << m;
        sign | code.min(infinity) as u32
    }
}

fn special_code(v: Value, to: Type) -> u32 {
    let Type::Float { exponent: e, mantissa: m, .. } = to else { panic!("a float type") };
    let infinity = ((1u32 << e) - 1) << m;
    match v {
        Value::Infinite { negative } => infinity | u32::from(negative) << (e + m),
        _ => (1u32 << (e + m)) - 1,
    }
}

/// The sum of all terms rounded once, to nearest even; NaN is all ones below the sign.
pub fn exact(terms: &[Value], to: Type) -> u32 {
    match special(terms) {
        Some(v) => special_code(v, to),
        None => Long::sum(terms).round(to, true),
    }
}

/// One step of a tensor core: terms with the exponents by which they are aligned, bits kept
/// below the largest exponent, and bits of an f32 result that are kept.
pub fn cut(terms: &[(Value, i32)], fraction: i32, output: u32, to: Type) -> u32 {
    let plain: Vec<Value> = terms.iter().map(|t| t.0).collect();
    if let Some(v) = special(&plain) {
        return special_code(v, to);
    }
    let grid = terms.iter().map(|t| t.1).max().expect("some terms") - fraction;
    let total: i128 = terms
        .iter()
        .map(|(v, _)| {
            let Value::Finite { negative, magnitude, exponent } = *v else { return 0 };
            let shift = exponent - grid;
            let cut = if shift >= 0 {
                i128::from(magnitude) << shift
            } else if shift > -127 {
                i128::from(magnitude) >> -shift
            } else {
                0
            };
            if negative { -cut } else { cut }
        })
        .sum();
    // A `Value` holds 64 bits: enough for the sum, whose parts have 2^46 at most.
    let magnitude = u64::try_from(total.unsigned_abs()).expect("a small sum");
    let total = Long::sum(&[Value::Finite { negative: total < 0, magnitude, exponent: grid }]);
    let code = total.round(to, to == F16);
    let code = if to == F32 && code & 0x7f80_0000 != 0x7f80_0000 {
        code & (u32::MAX << (23 - output))
    } else {
        code
    };
    if code & 0x7fff_ffff == 0 || to == F16 && code & 0x7fff == 0 { 0 } else { code }
}
