//! Pairs of 16-bit integers and pairs of f32 in one register.

use super::{f2, f3, mask, sx};
use crate::lower::ops::AluFn;
use crate::numeric::native::{f, fb, fma32};

/// `add`, `min`, `max` on `u16x2` and `s16x2`; `.relu` on signed ones.
pub(crate) fn int16x2(name: &str, signed: bool) -> Option<AluFn> {
    fn pair(a: u64, b: u64, op: fn(u64, u64) -> u64) -> u64 {
        op(a & 0xffff, b & 0xffff) & 0xffff | (op(a >> 16, b >> 16) & 0xffff) << 16
    }
    Some(match (name, signed) {
        ("add", _) => f2!(|a, b| pair(a, b, u64::wrapping_add)),
        ("min", false) => f2!(|a, b| pair(a, b, u64::min)),
        ("max", false) => f2!(|a, b| pair(a, b, u64::max)),
        ("min", true) => f2!(|a, b| pair(a, b, |p, q| sx::<16>(p).min(sx::<16>(q)) as u64)),
        ("max", true) => f2!(|a, b| pair(a, b, |p, q| sx::<16>(p).max(sx::<16>(q)) as u64)),
        ("min.relu", true) => {
            f2!(|a, b| pair(a, b, |p, q| sx::<16>(p).min(sx::<16>(q)).max(0) as u64))
        }
        ("max.relu", true) => {
            f2!(|a, b| pair(a, b, |p, q| sx::<16>(p).max(sx::<16>(q)).max(0) as u64))
        }
        _ => return None,
    })
}

/// `add`, `sub`, `mul`, `fma` on `f32x2`, rounded to nearest even.
pub(crate) fn f32x2(name: &str) -> Option<AluFn> {
    fn join(low: f32, high: f32) -> u64 {
        fb(low) & mask::<32>() | fb(high) << 32
    }
    fn hi(x: u64) -> f32 {
        f(x >> 32)
    }
    Some(match name {
        "add" => f2!(|a, b| join(f(a) + f(b), hi(a) + hi(b))),
        "sub" => f2!(|a, b| join(f(a) - f(b), hi(a) - hi(b))),
        "mul" => f2!(|a, b| join(f(a) * f(b), hi(a) * hi(b))),
        "fma" => f3!(|a, b, c| join(fma32(f(a), f(b), f(c)), fma32(hi(a), hi(b), hi(c)))),
        _ => return None,
    })
}
