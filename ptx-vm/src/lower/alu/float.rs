//! f32 and f64 arithmetic.

use super::{f1, f2, f3};
use crate::lower::ops::{AluFn, LaneFix};
use crate::numeric::native::{
    NAN32, add_odd, d, db, div_odd, f, fb, flush, fma32, saturate, sqrt_odd, to_f32,
};
use crate::numeric::{Rounding, directed};

/// Divisors over this are treated as infinite by `div.approx`.
const TWO_126: f32 = 1.0 / f32::MIN_POSITIVE;

/// Flushes f32 subnormals in all lanes.
pub(crate) const FLUSH: LaneFix = |x| x.iter_mut().for_each(|x| *x = flush(*x));
/// Clamps f32 lanes to [0, 1].
pub(crate) const SATURATE: LaneFix = |x| x.iter_mut().for_each(|x| *x = saturate(*x));
/// Flushes, then clamps.
pub(crate) const FLUSH_SATURATE: LaneFix = |x| x.iter_mut().for_each(|x| *x = saturate(flush(*x)));

/// Picks the closure for a directed rounding by writing it with `MODE` bound.
macro_rules! directed {
    ($mode:expr, $make:ident, |$($v:ident),+| $e:expr) => {
        match $mode {
            Rounding::TowardZero => {
                const MODE: Rounding = Rounding::TowardZero;
                $make!(|$($v),+| $e)
            }
            Rounding::Down => {
                const MODE: Rounding = Rounding::Down;
                $make!(|$($v),+| $e)
            }
            _ => {
                const MODE: Rounding = Rounding::Up;
                $make!(|$($v),+| $e)
            }
        }
    };
}

/// A sum that rounds down to zero is -0, unless both terms are +0.
fn sum_f32(x: f64, y: f64, mode: Rounding) -> u64 {
    let s = add_odd(x, y);
    if s == 0.0 && mode == Rounding::Down && (x.is_sign_negative() || y.is_sign_negative()) {
        return 0x8000_0000;
    }
    fb(to_f32(s, mode))
}

fn wide(x: u64) -> f64 {
    f64::from(f(x))
}

/// f32 arithmetic with a rounding.
pub(crate) fn rounded_f32(name: &str, mode: Rounding) -> Option<AluFn> {
    let nearest = mode == Rounding::NearestEven;
    Some(match name {
        "add" if nearest => f2!(|a, b| fb(f(a) + f(b))),
        "sub" if nearest => f2!(|a, b| fb(f(a) - f(b))),
        "mul" if nearest => f2!(|a, b| fb(f(a) * f(b))),
        "div" if nearest => f2!(|a, b| fb(f(a) / f(b))),
        "fma" if nearest => f3!(|a, b, c| fb(fma32(f(a), f(b), f(c)))),
        "rcp" if nearest => f1!(|a| fb(1.0 / f(a))),
        "sqrt" if nearest => f1!(|a| fb(f(a).sqrt())),
        "add" => directed!(mode, f2, |a, b| sum_f32(wide(a), wide(b), MODE)),
        "sub" => directed!(mode, f2, |a, b| sum_f32(wide(a), -wide(b), MODE)),
        "mul" => directed!(mode, f2, |a, b| fb(to_f32(wide(a) * wide(b), MODE))),
        "div" => directed!(mode, f2, |a, b| fb(to_f32(div_odd(f(a), f(b)), MODE))),
        "fma" => directed!(mode, f3, |a, b, c| sum_f32(wide(a) * wide(b), wide(c), MODE)),
        "rcp" => directed!(mode, f1, |a| fb(to_f32(div_odd(1.0, f(a)), MODE))),
        "sqrt" => directed!(mode, f1, |a| fb(to_f32(sqrt_odd(f(a)), MODE))),
        _ => return None,
    })
}

/// f32 operations that do not round, and the approximations. The approximations are
/// computed in f64 and rounded once, closer than any GPU: PTX gives error bounds only.
pub(crate) fn plain_f32(name: &str) -> Option<AluFn> {
    Some(match name {
        "abs" => f1!(|a| if f(a).is_nan() { u64::from(NAN32) } else { a & 0x7fff_ffff }),
        "neg" => f1!(|a| if f(a).is_nan() { u64::from(NAN32) } else { a ^ 0x8000_0000 }),
        "min" => f2!(|a, b| fb(min(f(a), f(b)))),
        "max" => f2!(|a, b| fb(max(f(a), f(b)))),
        "min.NaN" => f2!(|a, b| fb(nan_or(f(a), f(b), min(f(a), f(b))))),
        "max.NaN" => f2!(|a, b| fb(nan_or(f(a), f(b), max(f(a), f(b))))),
        "min.xorsign.abs" => f2!(|a, b| xorsign(a, b, min(f(a).abs(), f(b).abs()))),
        "max.xorsign.abs" => f2!(|a, b| xorsign(a, b, max(f(a).abs(), f(b).abs()))),
        "min.NaN.xorsign.abs" => {
            f2!(|a, b| xorsign(a, b, nan_or(f(a), f(b), min(f(a).abs(), f(b).abs()))))
        }
        "max.NaN.xorsign.abs" => {
            f2!(|a, b| xorsign(a, b, nan_or(f(a), f(b), max(f(a).abs(), f(b).abs()))))
        }
        "min.3" => f3!(|a, b, c| fb(min(min(f(a), f(b)), f(c)))),
        "max.3" => f3!(|a, b, c| fb(max(max(f(a), f(b)), f(c)))),
        "min.abs.3" => f3!(|a, b, c| fb(min(min(size(a), size(b)), size(c)))),
        "max.abs.3" => f3!(|a, b, c| fb(max(max(size(a), size(b)), size(c)))),
        "min.NaN.3" => f3!(|a, b, c| three_nan(a, b, c, min(min(f(a), f(b)), f(c)))),
        "max.NaN.3" => f3!(|a, b, c| three_nan(a, b, c, max(max(f(a), f(b)), f(c)))),
        "min.NaN.abs.3" => {
            f3!(|a, b, c| three_nan(a, b, c, min(min(size(a), size(b)), size(c))))
        }
        "max.NaN.abs.3" => {
            f3!(|a, b, c| three_nan(a, b, c, max(max(size(a), size(b)), size(c))))
        }
        "copysign" => f2!(|a, b| a & 0x8000_0000 | b & 0x7fff_ffff),
        // As a·(1/b), whose reciprocal is flushed for divisors over 2^126: PTX says so.
        "div.approx" => f2!(|a, b| if f(b).is_finite() && f(b).abs() > TWO_126 {
            fb(f(a) * f32::copysign(0.0, f(b)))
        } else {
            fb((wide(a) / wide(b)) as f32)
        }),
        "div.full" => f2!(|a, b| fb(f(a) / f(b))),
        "rcp.approx" => f1!(|a| fb((1.0 / wide(a)) as f32)),
        "sqrt.approx" => f1!(|a| fb(f(a).sqrt())),
        "rsqrt.approx" => f1!(|a| fb((1.0 / wide(a).sqrt()) as f32)),
        "sin.approx" => f1!(|a| fb(wide(a).sin() as f32)),
        "cos.approx" => f1!(|a| fb(wide(a).cos() as f32)),
        "lg2.approx" => f1!(|a| fb(wide(a).log2() as f32)),
        "ex2.approx" => f1!(|a| fb(wide(a).exp2() as f32)),
        "tanh.approx" => f1!(|a| fb(wide(a).tanh() as f32)),
        _ => return None,
    })
}

/// f64 arithmetic with a rounding.
pub(crate) fn rounded_f64(name: &str, mode: Rounding) -> Option<AluFn> {
    const ONE: u64 = 0x3ff0_0000_0000_0000;
    const MINUS: u64 = 1 << 63;
    let nearest = mode == Rounding::NearestEven;
    Some(match name {
        "add" if nearest => f2!(|a, b| db(d(a) + d(b))),
        "sub" if nearest => f2!(|a, b| db(d(a) - d(b))),
        "mul" if nearest => f2!(|a, b| db(d(a) * d(b))),
        "div" if nearest => f2!(|a, b| db(d(a) / d(b))),
        "fma" if nearest => f3!(|a, b, c| db(d(a).mul_add(d(b), d(c)))),
        "rcp" if nearest => f1!(|a| db(1.0 / d(a))),
        "sqrt" if nearest => f1!(|a| db(d(a).sqrt())),
        "add" => directed!(mode, f2, |a, b| directed::fma(a, ONE, b, MODE)),
        "sub" => directed!(mode, f2, |a, b| directed::fma(a, ONE, b ^ MINUS, MODE)),
        "mul" => directed!(mode, f2, |a, b| directed::mul(a, b, MODE)),
        "div" => directed!(mode, f2, |a, b| directed::div(a, b, MODE)),
        "fma" => directed!(mode, f3, |a, b, c| directed::fma(a, b, c, MODE)),
        "rcp" => directed!(mode, f1, |a| directed::div(ONE, a, MODE)),
        "sqrt" => directed!(mode, f1, |a| directed::sqrt(a, MODE)),
        _ => return None,
    })
}

/// f64 operations that do not round, and the approximations.
pub(crate) fn plain_f64(name: &str) -> Option<AluFn> {
    Some(match name {
        "abs" => f1!(|a| a & !(1 << 63)),
        "neg" => f1!(|a| a ^ 1 << 63),
        "min" => f2!(|a, b| db(min64(d(a), d(b)))),
        "max" => f2!(|a, b| db(-min64(-d(a), -d(b)))),
        "copysign" => f2!(|a, b| a & 1 << 63 | b & !(1 << 63)),
        // Seeds for Newton steps: of and in the upper word only, as PTX states.
        "rcp.approx.ftz" => f1!(|a| seed(1.0 / upper(a))),
        "rsqrt.approx.ftz" => f1!(|a| seed(1.0 / upper(a).sqrt())),
        "rsqrt.approx" => f1!(|a| db(1.0 / d(a).sqrt())),
        _ => return None,
    })
}

/// The upper word of an f64, subnormals as zero.
fn upper(a: u64) -> f64 {
    // A NaN whose upper word alone would be an infinity stays one.
    if d(a).is_nan() {
        return f64::NAN;
    }
    flush64(f64::from_bits(a & !0xffff_ffff))
}

fn flush64(x: f64) -> f64 {
    if x.is_subnormal() { f64::copysign(0.0, x) } else { x }
}

fn seed(x: f64) -> u64 {
    db(flush64(x)) & !0xffff_ffff
}

/// The smaller; a number wins over NaN, and -0 is less than +0.
#[inline(always)]
fn min(a: f32, b: f32) -> f32 {
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else if a == b {
        f32::from_bits(a.to_bits() | b.to_bits())
    } else if a < b {
        a
    } else {
        b
    }
}

#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    -min(-a, -b)
}

fn min64(a: f64, b: f64) -> f64 {
    if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else if a == b {
        f64::from_bits(a.to_bits() | b.to_bits())
    } else if a < b {
        a
    } else {
        b
    }
}

#[inline(always)]
fn nan_or(a: f32, b: f32, x: f32) -> f32 {
    if a.is_nan() || b.is_nan() { f32::NAN } else { x }
}

fn size(a: u64) -> f32 {
    f(a).abs()
}

fn three_nan(a: u64, b: u64, c: u64, x: f32) -> u64 {
    fb(nan_or(f(a), f(b), nan_or(f(c), 0.0, x)))
}

fn xorsign(a: u64, b: u64, x: f32) -> u64 {
    if x.is_nan() { fb(x) } else { (a ^ b) & 0x8000_0000 | fb(x.abs()) }
}
