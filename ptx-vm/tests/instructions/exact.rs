//! The oracle of float arithmetic: exact numbers, and rounding by comparing them with every
//! code of a format. Nothing here is shared with what is tested.

use std::cmp::Ordering;

use num_bigint::{BigInt, Sign};

/// A float format, by its fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fmt {
    pub exponent: u32,
    pub mantissa: u32,
    pub bias: i64,
    pub top: Top,
}

/// What the codes with the largest exponent are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Top {
    Ieee,
    OneNan,
    Numbers,
}

const fn fmt(exponent: u32, mantissa: u32, bias: i64, top: Top) -> Fmt {
    Fmt { exponent, mantissa, bias, top }
}

pub const F64: Fmt = fmt(11, 52, 1023, Top::Ieee);
pub const F32: Fmt = fmt(8, 23, 127, Top::Ieee);
pub const TF32: Fmt = fmt(8, 10, 127, Top::Ieee);
pub const F16: Fmt = fmt(5, 10, 15, Top::Ieee);
pub const BF16: Fmt = fmt(8, 7, 127, Top::Ieee);
pub const E5M2: Fmt = fmt(5, 2, 15, Top::Ieee);
pub const E4M3: Fmt = fmt(4, 3, 7, Top::OneNan);
pub const E3M2: Fmt = fmt(3, 2, 3, Top::Numbers);
pub const E2M3: Fmt = fmt(2, 3, 1, Top::Numbers);
pub const E2M1: Fmt = fmt(2, 1, 1, Top::Numbers);

impl Fmt {
    pub fn bits(self) -> u32 {
        1 + self.exponent + self.mantissa
    }

    pub fn sign(self) -> u64 {
        1 << (self.bits() - 1)
    }

    /// The magnitude code past the last finite one.
    fn beyond(self) -> u64 {
        match self.top {
            Top::Ieee => self.infinity(),
            Top::OneNan => self.sign() - 1,
            Top::Numbers => self.sign(),
        }
    }

    pub fn max(self) -> u64 {
        self.beyond() - 1
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    /// All ones below the sign: the canonical NaN of PTX.
    pub fn nan(self) -> u64 {
        self.sign() - 1
    }

    pub fn one(self) -> u64 {
        (self.bias as u64) << self.mantissa
    }

    pub fn subnormal(self, code: u64) -> bool {
        let m = code & (self.sign() - 1);
        m != 0 && m < 1 << self.mantissa
    }

    /// Zero of the same sign for a subnormal.
    pub fn flush(self, code: u64) -> u64 {
        if self.subnormal(code) { code & self.sign() } else { code }
    }
}

/// `m · 2^e`.
#[derive(Debug, Clone)]
pub struct Exact {
    m: BigInt,
    e: i64,
}

impl Exact {
    pub fn int(v: i128) -> Exact {
        Exact { m: v.into(), e: 0 }
    }

    /// The value that a magnitude code would have if exponents had no end.
    fn magnitude(code: u64, f: Fmt) -> Exact {
        let low = code & ((1 << f.mantissa) - 1);
        let biased = (code >> f.mantissa) as i64;
        let (m, exponent) =
            if biased == 0 { (low, 1 - f.bias) } else { (low | 1 << f.mantissa, biased - f.bias) };
        Exact { m: m.into(), e: exponent - i64::from(f.mantissa) }
    }

    pub fn add(&self, o: &Exact) -> Exact {
        let e = self.e.min(o.e);
        Exact { m: (&self.m << (self.e - e)) + (&o.m << (o.e - e)), e }
    }

    pub fn mul(&self, o: &Exact) -> Exact {
        Exact { m: &self.m * &o.m, e: self.e + o.e }
    }

    pub fn cmp(&self, o: &Exact) -> Ordering {
        let e = self.e.min(o.e);
        (&self.m << (self.e - e)).cmp(&(&o.m << (o.e - e)))
    }

    fn sum_halved(&self, o: &Exact) -> Exact {
        let s = self.add(o);
        Exact { e: s.e - 1, ..s }
    }

    pub fn negative(&self) -> bool {
        self.m.sign() == Sign::Minus
    }

    pub fn zero(&self) -> bool {
        self.m.sign() == Sign::NoSign
    }

    pub fn abs(&self) -> Exact {
        Exact { m: self.m.magnitude().clone().into(), e: self.e }
    }

    /// Rounded to an integer.
    pub fn to_int(&self, mode: Mode) -> BigInt {
        if self.e >= 0 {
            return &self.m << self.e;
        }
        let shift = -self.e;
        // Shifting right rounds down.
        let floor = &self.m >> shift;
        let rest = &self.m - (&floor << shift);
        if rest.sign() == Sign::NoSign {
            return floor;
        }
        let half = (rest << 1u32).cmp(&(BigInt::from(1) << shift));
        let odd = floor.bit(0);
        let up = match mode {
            Mode::Rn => half == Ordering::Greater || half == Ordering::Equal && odd,
            Mode::Rna => half == Ordering::Greater || half == Ordering::Equal && !self.negative(),
            Mode::Rz => self.negative(),
            Mode::Rm => false,
            Mode::Rp => true,
        };
        floor + i32::from(up)
    }
}

/// A decoded code.
#[derive(Debug, Clone)]
pub enum Num {
    Nan,
    Inf(bool),
    /// The sign, which matters for zero, and the value.
    Finite(bool, Exact),
}

pub fn decode(code: u64, f: Fmt) -> Num {
    let magnitude = code & (f.sign() - 1);
    let negative = code & f.sign() != 0;
    if magnitude < f.beyond() {
        let mut v = Exact::magnitude(magnitude, f);
        if negative {
            v.m = -v.m;
        }
        Num::Finite(negative, v)
    } else if f.top == Top::Ieee && magnitude == f.infinity() {
        Num::Inf(negative)
    } else {
        Num::Nan
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    Rn,
    Rna,
    Rz,
    Rm,
    Rp,
}

impl Mode {
    pub const FOUR: [(Mode, &'static str); 4] =
        [(Mode::Rn, "rn"), (Mode::Rz, "rz"), (Mode::Rm, "rm"), (Mode::Rp, "rp")];
}

/// The code of a number of this sign whose magnitude compares with an exact one by `cmp`
/// (how the candidate lies to the number). Found by halving the range of codes.
pub fn round_by(
    negative: bool,
    f: Fmt,
    mode: Mode,
    saturate: bool,
    cmp: impl Fn(&Exact) -> Ordering,
) -> u64 {
    let (mut low, mut high) = (0u64, f.beyond());
    // Invariant: code `low` is not above the number, `high` is, or is past the end.
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if cmp(&Exact::magnitude(middle, f)) == Ordering::Greater {
            high = middle;
        } else {
            low = middle;
        }
    }
    let below = Exact::magnitude(low, f);
    let exact = cmp(&below) == Ordering::Equal;
    let above = Exact::magnitude(low + 1, f);
    let middle = cmp(&below.sum_halved(&above));
    let away = match mode {
        _ if exact => false,
        Mode::Rn => middle == Ordering::Less || middle == Ordering::Equal && low & 1 == 1,
        Mode::Rna => middle != Ordering::Greater,
        Mode::Rz => false,
        Mode::Rm => negative,
        Mode::Rp => !negative,
    };
    let mut code = low + u64::from(away);
    if low == f.max() && !away && !exact && cmp(&above) != Ordering::Greater {
        // At or past the next power of two although rounding points inwards.
        code = f.max();
    }
    if code >= f.beyond() {
        code = match f.top {
            _ if saturate => f.max(),
            Top::Ieee => f.infinity(),
            Top::OneNan => f.nan(),
            Top::Numbers => f.max(),
        };
    }
    code | if negative { f.sign() } else { 0 }
}

/// An exact number as a code; zero gets the sign given.
pub fn round(v: &Exact, zero_negative: bool, f: Fmt, mode: Mode, saturate: bool) -> u64 {
    if v.zero() {
        return if zero_negative { f.sign() } else { 0 };
    }
    let a = v.abs();
    round_by(v.negative(), f, mode, saturate, |x| x.cmp(&a))
}

/// `a·b + c` rounded once; a plain sum has b = 1, a product has no c.
pub fn fma(a: u64, b: u64, c: Option<u64>, f: Fmt, mode: Mode) -> u64 {
    let (x, y) = (decode(a, f), decode(b, f));
    let product = match (x, y) {
        (Num::Nan, _) | (_, Num::Nan) => Num::Nan,
        (Num::Inf(s), Num::Inf(t)) => Num::Inf(s != t),
        (Num::Inf(s), Num::Finite(t, v)) | (Num::Finite(t, v), Num::Inf(s)) => {
            if v.zero() {
                Num::Nan
            } else {
                Num::Inf(s != t)
            }
        }
        (Num::Finite(s, v), Num::Finite(t, w)) => Num::Finite(s != t, v.mul(&w)),
    };
    let sum = match (product, c.map(|c| decode(c, f))) {
        (p, None) => p,
        (Num::Nan, _) | (_, Some(Num::Nan)) => Num::Nan,
        (Num::Inf(s), Some(Num::Inf(t))) => {
            if s == t {
                Num::Inf(s)
            } else {
                Num::Nan
            }
        }
        (Num::Inf(s), _) | (_, Some(Num::Inf(s))) => Num::Inf(s),
        (Num::Finite(s, v), Some(Num::Finite(t, w))) => {
            let sum = v.add(&w);
            // An exact zero from unlike signs is +0, rounding down makes it -0.
            let sign = if s == t { s } else { mode == Mode::Rm };
            Num::Finite(sign, sum)
        }
    };
    encode(&sum, f, mode)
}

pub fn encode(v: &Num, f: Fmt, mode: Mode) -> u64 {
    match v {
        Num::Nan => f.nan(),
        Num::Inf(s) => f.infinity() | if *s { f.sign() } else { 0 },
        Num::Finite(s, v) => round(v, *s, f, mode, false),
    }
}

pub fn div(a: u64, b: u64, f: Fmt, mode: Mode) -> u64 {
    let negative = (a ^ b) & f.sign() != 0;
    let sign = if negative { f.sign() } else { 0 };
    match (decode(a, f), decode(b, f)) {
        (Num::Nan, _) | (_, Num::Nan) | (Num::Inf(_), Num::Inf(_)) => f.nan(),
        (Num::Inf(_), _) => f.infinity() | sign,
        (_, Num::Inf(_)) => sign,
        (Num::Finite(_, v), Num::Finite(_, w)) => match (v.zero(), w.zero()) {
            (true, true) => f.nan(),
            (true, false) => sign,
            (false, true) => f.infinity() | sign,
            _ => {
                let (v, w) = (v.abs(), w.abs());
                round_by(negative, f, mode, false, |x| x.mul(&w).cmp(&v))
            }
        },
    }
}

pub fn sqrt(a: u64, f: Fmt, mode: Mode) -> u64 {
    match decode(a, f) {
        Num::Nan | Num::Inf(true) => f.nan(),
        Num::Inf(false) => f.infinity(),
        Num::Finite(_, v) if v.zero() => a,
        Num::Finite(true, _) => f.nan(),
        Num::Finite(false, v) => round_by(false, f, mode, false, |x| x.mul(x).cmp(&v)),
    }
}

/// A code of one format in another; NaN is canonical, or the largest number where there is
/// none.
pub fn convert(a: u64, from: Fmt, to: Fmt, mode: Mode, saturate: bool) -> u64 {
    match decode(a, from) {
        Num::Nan if to.top == Top::Numbers => to.max(),
        Num::Nan => to.nan(),
        Num::Inf(s) => {
            let sign = if s { to.sign() } else { 0 };
            sign | match to.top {
                _ if saturate => to.max(),
                Top::Ieee => to.infinity(),
                Top::OneNan => to.nan(),
                Top::Numbers => to.max(),
            }
        }
        Num::Finite(s, v) => round(&v, s, to, mode, saturate),
    }
}

/// Clamped to [0, 1]; NaN and -0 become +0.
pub fn unit(code: u64, f: Fmt) -> u64 {
    if code & f.sign() != 0 || code > f.infinity() { 0 } else { code.min(f.one()) }
}

#[test]
fn the_oracle_agrees_with_the_processor() {
    let mut x = 0x1234_5678_9abc_def1u64;
    for _ in 0..3000 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (a, b) = (x >> 32, x << 7 >> 32);
        let (p, q) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
        let check = |got: u64, want: f32| {
            let same = got == u64::from(want.to_bits()) || want.is_nan() && got == F32.nan();
            assert!(same, "{p:e} {q:e}: {got:#x} {want:e}");
        };
        check(fma(a, F32.one(), Some(b), F32, Mode::Rn), p + q);
        check(fma(a, b, None, F32, Mode::Rn), p * q);
        check(div(a, b, F32, Mode::Rn), p / q);
        check(sqrt(a, F32, Mode::Rn), p.sqrt());
        check(fma(a, b, Some(a ^ b), F32, Mode::Rn), p.mul_add(q, f32::from_bits((a ^ b) as u32)));
        check(convert(x, F64, F32, Mode::Rn, false), f64::from_bits(x) as f32);
    }
}
