//! f32 and f64 arithmetic.

use super::{f1, f2, f3};
use crate::lower::ops::{AluFn, LaneFix};
use crate::numeric::Rounding;
use crate::numeric::native::{
    NAN32, add_odd, d, db, div_odd, f, fb, flush, fma32, saturate, sqrt_odd, to_f32,
};

/// Flushes f32 subnormals in all lanes.
pub(crate) const FLUSH: LaneFix = |x| x.iter_mut().for_each(|x| *x = flush(*x));
/// Clamps f32 lanes to [0, 1].
pub(crate) const SATURATE: LaneFix = |x| x.iter_mut().for_each(|x| *x = saturate(*x));
/// Flushes, then clamps.
pub(crate) const FLUSH_SATURATE: LaneFix = |x| x.iter_mut().for_each(|x| *x = saturate(flush(*x)));

/// Picks the closure for a rounding by writing it with `MODE` bound.
macro_rules! rounded {
    ($mode:expr, $make:ident, |$($v:ident),+| $e:expr) => {
        match $mode {
            Rounding::NearestEven => { const MODE: Rounding = Rounding::NearestEven; $make!(|$($v),+| fb(to_f32($e, MODE))) }
            Rounding::TowardZero => { const MODE: Rounding = Rounding::TowardZero; $make!(|$($v),+| fb(to_f32($e, MODE))) }
            Rounding::Down => { const MODE: Rounding = Rounding::Down; $make!(|$($v),+| fb(to_f32($e, MODE))) }
            _ => { const MODE: Rounding = Rounding::Up; $make!(|$($v),+| fb(to_f32($e, MODE))) }
        }
    };
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
        "add" => rounded!(mode, f2, |a, b| add_odd(wide(a), wide(b))),
        "sub" => rounded!(mode, f2, |a, b| add_odd(wide(a), -wide(b))),
        "mul" => rounded!(mode, f2, |a, b| wide(a) * wide(b)),
        "div" => rounded!(mode, f2, |a, b| div_odd(f(a), f(b))),
        "fma" => rounded!(mode, f3, |a, b, c| add_odd(wide(a) * wide(b), wide(c))),
        "rcp" => rounded!(mode, f1, |a| div_odd(1.0, f(a))),
        "sqrt" => rounded!(mode, f1, |a| sqrt_odd(f(a))),
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
        "min3" => f3!(|a, b, c| fb(min(min(f(a), f(b)), f(c)))),
        "max3" => f3!(|a, b, c| fb(max(max(f(a), f(b)), f(c)))),
        "copysign" => f2!(|a, b| a & 0x8000_0000 | b & 0x7fff_ffff),
        "div.approx" => f2!(|a, b| fb((wide(a) / wide(b)) as f32)),
        // Beyond 2^126 the full-range division's divisor range, `div.full` still holds 2 ulp.
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

/// f64 operations; rounded ones to nearest even.
pub(crate) fn f64(name: &str) -> Option<AluFn> {
    Some(match name {
        "add" => f2!(|a, b| db(d(a) + d(b))),
        "sub" => f2!(|a, b| db(d(a) - d(b))),
        "mul" => f2!(|a, b| db(d(a) * d(b))),
        "div" => f2!(|a, b| db(d(a) / d(b))),
        "fma" => f3!(|a, b, c| db(d(a).mul_add(d(b), d(c)))),
        "rcp" => f1!(|a| db(1.0 / d(a))),
        "sqrt" => f1!(|a| db(d(a).sqrt())),
        "abs" => f1!(|a| a & !(1 << 63)),
        "neg" => f1!(|a| a ^ 1 << 63),
        "min" => f2!(|a, b| db(min64(d(a), d(b)))),
        "max" => f2!(|a, b| db(-min64(-d(a), -d(b)))),
        "copysign" => f2!(|a, b| a & 1 << 63 | b & !(1 << 63)),
        // A seed for Newton steps: the upper word of the nearest value, as PTX states.
        "rcp.approx.ftz" => f1!(|a| db(1.0 / d(a)) & !0xffff_ffff),
        "rsqrt.approx.ftz" => f1!(|a| db(1.0 / d(a).sqrt()) & !0xffff_ffff),
        "rsqrt.approx" => f1!(|a| db(1.0 / d(a).sqrt())),
        _ => return None,
    })
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

fn xorsign(a: u64, b: u64, x: f32) -> u64 {
    if x.is_nan() { fb(x) } else { (a ^ b) & 0x8000_0000 | fb(x.abs()) }
}
