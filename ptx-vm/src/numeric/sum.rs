//! Sums of exact products, correctly rounded whatever their exponents.

use super::float::{Format, Rounding, Value, round};

/// A finite term: `m · 2^e`. `|m|` stays below 2^60.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    pub m: i64,
    pub e: i32,
}

/// An operand element or a product that may not be finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Num {
    Finite(Term),
    Infinite { negative: bool },
    Nan,
}

impl Num {
    pub const ZERO: Num = Num::Finite(Term { m: 0, e: 0 });

    /// The value of an f64 of at most 30 significant bits.
    pub fn from_f64(x: f64) -> Num {
        let bits = x.to_bits();
        let (negative, biased) = (bits >> 63 == 1, (bits >> 52 & 0x7ff) as i32);
        if x.is_nan() {
            return Num::Nan;
        } else if x.is_infinite() {
            return Num::Infinite { negative };
        } else if x == 0.0 {
            return Num::ZERO;
        }
        let mantissa = (bits & ((1 << 52) - 1) | 1 << 52) as i64;
        let zeros = mantissa.trailing_zeros();
        let m = mantissa >> zeros;
        Num::Finite(Term { m: if negative { -m } else { m }, e: biased - 1075 + zeros as i32 })
    }

    /// The exact product; zero times infinity is NaN.
    pub fn times(self, other: Num) -> Num {
        use Num::*;
        match (self, other) {
            (Finite(a), Finite(b)) => Finite(Term { m: a.m * b.m, e: a.e + b.e }),
            (Nan, _) | (_, Nan) => Nan,
            (Infinite { negative }, Infinite { negative: other }) => {
                Infinite { negative: negative != other }
            }
            (Infinite { negative }, Finite(t)) | (Finite(t), Infinite { negative }) => {
                if t.m == 0 {
                    Nan
                } else {
                    Infinite { negative: negative != (t.m < 0) }
                }
            }
        }
    }
}

/// Collects the terms of one output element.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sum {
    terms: Vec<Term>,
    positive_infinity: bool,
    negative_infinity: bool,
    nan: bool,
}

impl Sum {
    /// Empties the sum for the next element.
    pub fn clear(&mut self) {
        self.terms.clear();
        self.positive_infinity = false;
        self.negative_infinity = false;
        self.nan = false;
    }

    /// Adds a term.
    #[inline]
    pub fn add(&mut self, n: Num) {
        match n {
            Num::Finite(t) if t.m == 0 => {}
            Num::Finite(t) => self.terms.push(t),
            Num::Infinite { negative: false } => self.positive_infinity = true,
            Num::Infinite { negative: true } => self.negative_infinity = true,
            Num::Nan => self.nan = true,
        }
    }

    fn special(&self, out: Format) -> Option<u64> {
        let sign = 1u64 << (out.bits() - 1);
        let infinity = sign - (1 << out.mantissa_bits);
        if self.nan || self.positive_infinity && self.negative_infinity {
            // The hardware's canonical NaN: all ones below the sign.
            Some(sign - 1)
        } else if self.positive_infinity {
            Some(infinity)
        } else if self.negative_infinity {
            Some(infinity | sign)
        } else {
            None
        }
    }

    /// The sum of all terms, rounded once, to nearest even.
    pub fn exact(&self, out: Format) -> u64 {
        self.rounded(out, Rounding::NearestEven)
    }

    /// Whether finite terms cancel to nothing.
    pub fn is_zero(&self) -> bool {
        self.rounded(Format::F64, Rounding::Up) << 1 == 0
            && self.rounded(Format::F64, Rounding::Down) << 1 == 0
    }

    /// The sum of all terms, rounded once.
    pub fn rounded(&self, out: Format, mode: Rounding) -> u64 {
        if let Some(code) = self.special(out) {
            return code;
        }
        let mut low = i32::MAX;
        let mut high = i32::MIN;
        for t in &self.terms {
            low = low.min(t.e);
            high = high.max(t.e + 64 - t.m.unsigned_abs().leading_zeros() as i32);
        }
        if self.terms.is_empty() {
            return 0;
        }
        // Up to 2^11 terms fit in the headroom.
        let (v, sticky) = if high - low <= 115 && self.terms.len() < 1 << 11 {
            let total: i128 = self.terms.iter().map(|t| i128::from(t.m) << (t.e - low)).sum();
            let magnitude = total.unsigned_abs();
            (Value { negative: total < 0, magnitude, exponent: low }, false)
        } else {
            wide_sum(&self.terms, low, high)
        };
        round(v, sticky, out, mode, false)
    }
}

/// The general case: one long two's complement integer.
fn wide_sum(terms: &[Term], low: i32, high: i32) -> (Value, bool) {
    let limbs = ((high - low) as usize + 64 + 12) / 64 + 2;
    let mut acc = vec![0u64; limbs];
    for t in terms {
        let shift = (t.e - low) as usize;
        let (limb, bit) = (shift / 64, shift % 64);
        let wide = i128::from(t.m) << bit;
        let fill = (wide >> 127) as u64;
        let mut carry = 0u64;
        for (i, slot) in acc.iter_mut().enumerate().skip(limb) {
            let part = match i - limb {
                0 => wide as u64,
                1 => (wide >> 64) as u64,
                _ => fill,
            };
            let (s, c1) = slot.overflowing_add(part);
            let (s, c2) = s.overflowing_add(carry);
            carry = u64::from(c1 | c2);
            *slot = s;
        }
    }
    let negative = acc.last().is_some_and(|top| top >> 63 == 1);
    if negative {
        let mut carry = 1u64;
        for slot in &mut acc {
            let (s, c) = (!*slot).overflowing_add(carry);
            *slot = s;
            carry = u64::from(c);
        }
    }
    let Some(top) = acc.iter().rposition(|&x| x != 0) else {
        return (Value { negative: false, magnitude: 0, exponent: 0 }, false);
    };
    // The two highest limbs hold at least 65 significant bits; the rest only matters as
    // "something is below".
    let lower = top.saturating_sub(1);
    let magnitude = if top == 0 {
        u128::from(acc[0])
    } else {
        u128::from(acc[top]) << 64 | u128::from(acc[lower])
    };
    let sticky = acc[..lower].iter().any(|&x| x != 0);
    let base = if top == 0 { 0 } else { lower };
    (Value { negative, magnitude, exponent: low + 64 * base as i32 }, sticky)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn num(x: f32) -> Num {
        Num::from_f64(f64::from(x))
    }

    fn sum_of(values: &[f32]) -> Sum {
        let mut s = Sum::default();
        values.iter().for_each(|&v| s.add(num(v)));
        s
    }

    #[test]
    fn exact_sum_keeps_what_f32_addition_loses() {
        let s = sum_of(&[1e30, 1.0, -1e30]);
        assert_eq!(f32::from_bits(s.exact(Format::F32) as u32), 1.0);
    }

    #[test]
    fn infinities_and_nan_propagate() {
        let code = |v: &[f32]| f32::from_bits(sum_of(v).exact(Format::F32) as u32);
        assert_eq!(code(&[f32::INFINITY, 1.0]), f32::INFINITY);
        assert_eq!(code(&[f32::NEG_INFINITY, 1.0]), f32::NEG_INFINITY);
        assert!(code(&[f32::INFINITY, f32::NEG_INFINITY]).is_nan());
        assert!(matches!(num(f32::INFINITY).times(num(0.0)), Num::Nan));
    }

    proptest! {
        #[test]
        fn wide_and_narrow_sums_agree(
            terms in prop::collection::vec((-(1i64 << 40)..1 << 40, -20i32..20), 1..40)
        ) {
            let terms: Vec<Term> =
                terms.into_iter().map(|(m, e)| Term { m, e }).filter(|t| t.m != 0).collect();
            prop_assume!(!terms.is_empty());
            let s = Sum { terms: terms.clone(), ..Sum::default() };
            let low = terms.iter().map(|t| t.e).min().unwrap_or(0);
            let high = terms.iter().map(|t| t.e + 41).max().unwrap_or(0);
            let (v, sticky) = wide_sum(&terms, low, high + 300);
            let wide = round(v, sticky, Format::F32, Rounding::NearestEven, false);
            prop_assert_eq!(wide, s.exact(Format::F32));
        }

        #[test]
        fn two_term_sums_agree_with_the_processor(a in any::<f32>(), b in any::<f32>()) {
            prop_assume!(a + b != 0.0);
            let got = f32::from_bits(sum_of(&[a, b]).exact(Format::F32) as u32);
            prop_assert!(got == a + b || got.is_nan() && (a + b).is_nan());
        }
    }
}
