//! f16 and bf16 arithmetic, scalar and in pairs.

use crate::lower::ops::{AluFn, LaneFix};
use crate::numeric::native::{NAN16, add_odd, b, bb, h, hb};

/// The lane function of one operation, for one half or both.
macro_rules! halves {
    ($pair:expr, 1, $op:expr) => {
        if $pair {
            AluFn::F1(|x, o| {
                for (o, &a) in o.iter_mut().zip(x) {
                    *o = $op(a & 0xffff) | $op(a >> 16 & 0xffff) << 16;
                }
            })
        } else {
            AluFn::F1(|x, o| {
                for (o, &a) in o.iter_mut().zip(x) {
                    *o = $op(a & 0xffff);
                }
            })
        }
    };
    ($pair:expr, 2, $op:expr) => {
        if $pair {
            AluFn::F2(|x, y, o| {
                for ((o, &a), &b) in o.iter_mut().zip(x).zip(y) {
                    *o =
                        $op(a & 0xffff, b & 0xffff) | $op(a >> 16 & 0xffff, b >> 16 & 0xffff) << 16;
                }
            })
        } else {
            AluFn::F2(|x, y, o| {
                for ((o, &a), &b) in o.iter_mut().zip(x).zip(y) {
                    *o = $op(a & 0xffff, b & 0xffff);
                }
            })
        }
    };
    ($pair:expr, 3, $op:expr) => {
        if $pair {
            AluFn::F3(|x, y, z, o| {
                for (((o, &a), &b), &c) in o.iter_mut().zip(x).zip(y).zip(z) {
                    *o = $op(a & 0xffff, b & 0xffff, c & 0xffff)
                        | $op(a >> 16 & 0xffff, b >> 16 & 0xffff, c >> 16 & 0xffff) << 16;
                }
            })
        } else {
            AluFn::F3(|x, y, z, o| {
                for (((o, &a), &b), &c) in o.iter_mut().zip(x).zip(y).zip(z) {
                    *o = $op(a & 0xffff, b & 0xffff, c & 0xffff);
                }
            })
        }
    };
}

macro_rules! table {
    ($name:expr, $pair:expr, $get:ident, $put:ident) => {{
        fn get(x: u64) -> f64 {
            f64::from($get(x))
        }
        Some(match $name {
            "add" => halves!($pair, 2, |p: u64, q: u64| $put(add_odd(get(p), get(q)))),
            "sub" => halves!($pair, 2, |p: u64, q: u64| $put(add_odd(get(p), -get(q)))),
            "mul" => halves!($pair, 2, |p: u64, q: u64| $put(get(p) * get(q))),
            "fma" => {
                halves!($pair, 3, |p: u64, q: u64, r: u64| $put(add_odd(get(p) * get(q), get(r))))
            }
            "neg" => halves!($pair, 1, |p: u64| p ^ 0x8000),
            "abs" => halves!($pair, 1, |p: u64| p & 0x7fff),
            "min" => halves!($pair, 2, |p: u64, q: u64| lesser(p, q, get, false, false)),
            "max" => halves!($pair, 2, |p: u64, q: u64| lesser(p, q, get, true, false)),
            "min.NaN" => halves!($pair, 2, |p: u64, q: u64| lesser(p, q, get, false, true)),
            "max.NaN" => halves!($pair, 2, |p: u64, q: u64| lesser(p, q, get, true, true)),
            "min.xorsign.abs" => {
                halves!($pair, 2, |p: u64, q: u64| xorsign(p, q, get, false, false))
            }
            "max.xorsign.abs" => {
                halves!($pair, 2, |p: u64, q: u64| xorsign(p, q, get, true, false))
            }
            "min.NaN.xorsign.abs" => {
                halves!($pair, 2, |p: u64, q: u64| xorsign(p, q, get, false, true))
            }
            "max.NaN.xorsign.abs" => {
                halves!($pair, 2, |p: u64, q: u64| xorsign(p, q, get, true, true))
            }
            "ex2.approx" => halves!($pair, 1, |p: u64| $put(get(p).exp2())),
            "tanh.approx" => halves!($pair, 1, |p: u64| $put(get(p).tanh())),
            _ => return None,
        })
    }};
}

/// The lesser or greater of two codes, whose values `get` gives.
pub(crate) fn lesser(p: u64, q: u64, get: fn(u64) -> f64, greater: bool, nan_wins: bool) -> u64 {
    let (a, b) = (get(p), get(q));
    let canonical = u64::from(NAN16);
    match (a.is_nan(), b.is_nan()) {
        (true, true) => canonical,
        (true, false) => {
            if nan_wins {
                canonical
            } else {
                q
            }
        }
        (false, true) => {
            if nan_wins {
                canonical
            } else {
                p
            }
        }
        // -0 is less than +0.
        (false, false) if a == b && greater => p & q,
        (false, false) if a == b => p | q,
        (false, false) if (a < b) != greater => p,
        (false, false) => q,
    }
}

/// The lesser or greater magnitude, with the product's sign.
fn xorsign(p: u64, q: u64, get: fn(u64) -> f64, greater: bool, nan_wins: bool) -> u64 {
    let d = lesser(p & 0x7fff, q & 0x7fff, get, greater, nan_wins);
    if get(d).is_nan() { d } else { d | (p ^ q) & 0x8000 }
}

/// f16 operations.
pub(crate) fn f16(name: &str, pair: bool) -> Option<AluFn> {
    table!(name, pair, h, hb)
}

/// bf16 operations.
pub(crate) fn bf16(name: &str, pair: bool) -> Option<AluFn> {
    table!(name, pair, b, bb)
}

fn each(x: &mut u64, change: fn(u64) -> u64) {
    *x = change(*x & 0xffff) | change(*x >> 16 & 0xffff) << 16;
}

fn relu(x: u64, infinity: u64) -> u64 {
    if x & 0x7fff > infinity {
        u64::from(NAN16)
    } else if x & 0x8000 != 0 {
        0
    } else {
        x
    }
}

fn saturate_f16(v: u64) -> u64 {
    match v {
        0x8000.. => 0,
        0x7c01.. => 0,
        0x3c01.. => 0x3c00,
        v => v,
    }
}

fn flush_f16(v: u64) -> u64 {
    if v & 0x7c00 == 0 { v & 0x8000 } else { v }
}

/// Makes negative f16 halves +0, NaN the canonical NaN.
pub(crate) const RELU_F16: LaneFix = |x| x.iter_mut().for_each(|x| each(x, |v| relu(v, 0x7c00)));
/// The same for bf16.
pub(crate) const RELU_BF16: LaneFix = |x| x.iter_mut().for_each(|x| each(x, |v| relu(v, 0x7f80)));
/// Flushes, then as [`RELU_F16`].
pub(crate) const FLUSH_RELU_F16: LaneFix =
    |x| x.iter_mut().for_each(|x| each(x, |v| relu(flush_f16(v), 0x7c00)));
/// Clamps f16 halves to [0, 1], NaN to 0.
pub(crate) const SATURATE_F16: LaneFix = |x| x.iter_mut().for_each(|x| each(x, saturate_f16));
/// Flushes, then clamps.
pub(crate) const FLUSH_SATURATE_F16: LaneFix =
    |x| x.iter_mut().for_each(|x| each(x, |v| saturate_f16(flush_f16(v))));
/// Flushes f16 subnormals.
pub(crate) const FLUSH_F16: LaneFix = |x| x.iter_mut().for_each(|x| each(x, flush_f16));
/// Flushes bf16 subnormals.
pub(crate) const FLUSH_BF16: LaneFix =
    |x| x.iter_mut().for_each(|x| each(x, |v| if v & 0x7f80 == 0 { v & 0x8000 } else { v }));
