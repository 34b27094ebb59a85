//! Comparisons: lanes to a mask.

use super::sx;
use crate::lower::ops::CompareFn;
use crate::numeric::native::{b, d, f, h};

macro_rules! cmp {
    (|$a:ident, $b:ident| $e:expr) => {
        |x, y| {
            let mut m = 0u32;
            for (i, (&$a, &$b)) in x.iter().zip(y).enumerate() {
                m |= u32::from($e) << i;
            }
            m
        }
    };
}

/// An integer comparison, `eq`, `ne`, `lt`, … or the unsigned `lo`, `ls`, `hi`, `hs`.
pub(crate) fn int(op: &str, signed: bool, bits: u32) -> Option<CompareFn> {
    fn at<const B: u32>(op: &str, signed: bool) -> Option<CompareFn> {
        Some(match (op, signed) {
            ("eq", _) => cmp!(|a, b| a == b),
            ("ne", _) => cmp!(|a, b| a != b),
            ("lt" | "lo", false) => cmp!(|a, b| a < b),
            ("le" | "ls", false) => cmp!(|a, b| a <= b),
            ("gt" | "hi", false) => cmp!(|a, b| a > b),
            ("ge" | "hs", false) => cmp!(|a, b| a >= b),
            ("lt", true) => cmp!(|a, b| sx::<B>(a) < sx::<B>(b)),
            ("le", true) => cmp!(|a, b| sx::<B>(a) <= sx::<B>(b)),
            ("gt", true) => cmp!(|a, b| sx::<B>(a) > sx::<B>(b)),
            ("ge", true) => cmp!(|a, b| sx::<B>(a) >= sx::<B>(b)),
            _ => return None,
        })
    }
    match bits {
        16 => at::<16>(op, signed),
        32 => at::<32>(op, signed),
        64 => at::<64>(op, signed),
        _ => None,
    }
}

macro_rules! float {
    ($op:expr, $c:expr) => {
        Some(match $op {
            "eq" => cmp!(|a, b| $c(a) == $c(b)),
            "ne" => cmp!(|a, b| $c(a) < $c(b) || $c(a) > $c(b)),
            "lt" => cmp!(|a, b| $c(a) < $c(b)),
            "le" => cmp!(|a, b| $c(a) <= $c(b)),
            "gt" => cmp!(|a, b| $c(a) > $c(b)),
            "ge" => cmp!(|a, b| $c(a) >= $c(b)),
            // Unordered forms hold when an operand is NaN.
            "equ" => cmp!(|a, b| $c(a) == $c(b) || $c(a).is_nan() || $c(b).is_nan()),
            "neu" => cmp!(|a, b| $c(a) != $c(b)),
            "ltu" => cmp!(|a, b| !($c(a) >= $c(b))),
            "leu" => cmp!(|a, b| !($c(a) > $c(b))),
            "gtu" => cmp!(|a, b| !($c(a) <= $c(b))),
            "geu" => cmp!(|a, b| !($c(a) < $c(b))),
            "num" => cmp!(|a, b| !$c(a).is_nan() && !$c(b).is_nan()),
            "nan" => cmp!(|a, b| $c(a).is_nan() || $c(b).is_nan()),
            _ => return None,
        })
    };
}

/// An f32 comparison.
#[allow(clippy::neg_cmp_op_on_partial_ord)]
pub(crate) fn f32(op: &str) -> Option<CompareFn> {
    float!(op, f)
}

/// An f64 comparison.
#[allow(clippy::neg_cmp_op_on_partial_ord)]
pub(crate) fn f64(op: &str) -> Option<CompareFn> {
    float!(op, d)
}

/// An f16 comparison of the low halves, or of the high halves.
#[allow(clippy::neg_cmp_op_on_partial_ord)]
pub(crate) fn f16(op: &str, high: bool) -> Option<CompareFn> {
    fn hi(x: u64) -> f32 {
        h(x >> 16)
    }
    if high { float!(op, hi) } else { float!(op, h) }
}

/// A bf16 comparison of the low halves, or of the high halves.
#[allow(clippy::neg_cmp_op_on_partial_ord)]
pub(crate) fn bf16(op: &str, high: bool) -> Option<CompareFn> {
    fn lo(x: u64) -> f32 {
        b(x)
    }
    fn hi(x: u64) -> f32 {
        b(x >> 16)
    }
    if high { float!(op, hi) } else { float!(op, lo) }
}

/// `testp`.
pub(crate) fn test(op: &str, wide: bool) -> Option<fn(&crate::lower::ops::Lanes) -> u32> {
    macro_rules! test {
        (|$a:ident| $e:expr) => {
            |x| x.iter().enumerate().fold(0u32, |m, (i, &$a)| m | u32::from($e) << i)
        };
    }
    Some(match (op, wide) {
        ("finite", false) => test!(|a| f(a).is_finite()),
        ("infinite", false) => test!(|a| f(a).is_infinite()),
        ("number", false) => test!(|a| !f(a).is_nan()),
        ("notanumber", false) => test!(|a| f(a).is_nan()),
        // Zero counts as normal.
        ("normal", false) => test!(|a| f(a).is_normal() || f(a) == 0.0),
        ("subnormal", false) => test!(|a| f(a).is_subnormal()),
        ("finite", true) => test!(|a| d(a).is_finite()),
        ("infinite", true) => test!(|a| d(a).is_infinite()),
        ("number", true) => test!(|a| !d(a).is_nan()),
        ("notanumber", true) => test!(|a| d(a).is_nan()),
        ("normal", true) => test!(|a| d(a).is_normal() || d(a) == 0.0),
        ("subnormal", true) => test!(|a| d(a).is_subnormal()),
        _ => return None,
    })
}
