//! f32 and f64 arithmetic: exact where PTX rounds, within its bounds where it approximates.

use crate::exact::{self, Fmt, Mode, Num, decode};
use crate::harness::*;

const PAIR: Kind = Kind::Pair(exact::F32);

/// The roundings with their names; the default is to nearest even.
pub fn roundings() -> [(Mode, &'static str); 5] {
    [(Mode::Rn, ""), (Mode::Rn, ".rn"), (Mode::Rz, ".rz"), (Mode::Rm, ".rm"), (Mode::Rp, ".rp")]
}

/// Flushing before and after, clamping after.
pub fn around(
    f: Fmt,
    ftz: bool,
    sat: bool,
    op: impl Fn(&[u64]) -> u64 + 'static,
) -> impl Fn(&[u64]) -> u64 + 'static {
    move |x| {
        let flush = |v: u64| if ftz { f.flush(v) } else { v };
        let x: Vec<u64> = x.iter().map(|&v| flush(v)).collect();
        let d = flush(op(&x));
        if sat { exact::unit(d, f) } else { d }
    }
}

type Op = Box<dyn Fn(&[u64]) -> u64>;

/// Name, number of sources, whether it saturates, whether a rounding must be given.
fn rounded(f: Fmt, mode: Mode) -> Vec<(&'static str, usize, bool, bool, Op)> {
    let one = f.one();
    let op = |g: fn(&[u64], Fmt, Mode, u64) -> u64| -> Op { Box::new(move |x| g(x, f, mode, one)) };
    vec![
        ("add", 2, true, false, op(|x, f, m, one| exact::fma(x[0], one, Some(x[1]), f, m))),
        (
            "sub",
            2,
            true,
            false,
            op(|x, f, m, one| exact::fma(x[0], one, Some(x[1] ^ f.sign()), f, m)),
        ),
        ("mul", 2, true, false, op(|x, f, m, _| exact::fma(x[0], x[1], None, f, m))),
        ("fma", 3, true, true, op(|x, f, m, _| exact::fma(x[0], x[1], Some(x[2]), f, m))),
        ("mad", 3, true, true, op(|x, f, m, _| exact::fma(x[0], x[1], Some(x[2]), f, m))),
        ("div", 2, false, true, op(|x, f, m, _| exact::div(x[0], x[1], f, m))),
        ("rcp", 1, false, true, op(|x, f, m, one| exact::div(one, x[0], f, m))),
        ("sqrt", 1, false, true, op(|x, f, m, _| exact::sqrt(x[0], f, m))),
    ]
}

/// The lesser or greater of two codes as the ISA writes it; zeros are ordered by sign.
pub fn extreme(
    f: Fmt,
    mut a: u64,
    mut b: u64,
    max: bool,
    nan: bool,
    abs: bool,
    xorsign: bool,
) -> u64 {
    let sign = (a ^ b) & f.sign();
    if abs {
        (a, b) = (a & !f.sign(), b & !f.sign());
    }
    let is_nan = |x: u64| x & (f.sign() - 1) > f.infinity();
    // Codes of one sign are ordered as integers.
    let order = |x: u64| if x & f.sign() != 0 { -((x & !f.sign()) as i128) - 1 } else { x as i128 };
    let d = match (is_nan(a), is_nan(b)) {
        (true, true) => return f.nan(),
        (true, false) | (false, true) if nan => return f.nan(),
        (true, false) => b,
        (false, true) => a,
        _ if (order(a) > order(b)) == max => a,
        _ => b,
    };
    if xorsign { d & !f.sign() | sign } else { d }
}

/// A range of some units in the last place of f32 around a value.
fn ulps(v: f64, n: f64) -> Want {
    if v.is_nan() {
        return Want::Bits(exact::F32.nan());
    }
    if v.is_infinite() {
        return Want::Between(exact::F32, v, v);
    }
    let exponent = v.abs().log2().floor().clamp(-126.0, 127.0);
    near(v, n * (exponent - 23.0).exp2())
}

fn near(v: f64, error: f64) -> Want {
    if v.is_nan() {
        return Want::Bits(exact::F32.nan());
    }
    let max = f64::from(f32::MAX);
    let (mut low, mut high) = (v - error, v + error);
    if high >= max {
        high = f64::INFINITY;
    }
    if low <= -max {
        low = f64::NEG_INFINITY;
    }
    if v.abs() >= max {
        // Rounding past the end is infinite.
        (low, high) = if v > 0.0 { (max, high) } else { (low, -max) };
    }
    Want::Between(exact::F32, low, high)
}

/// Adds what flushing may do to a small result.
fn flushed(w: Want, ftz: bool) -> Want {
    match w {
        Want::Between(f, low, high) if ftz && low.abs().min(high.abs()) < 2f64.powi(-126) => {
            Want::Between(f, low.min(0.0), high.max(0.0))
        }
        w => w,
    }
}

fn approximations() -> Vec<Row> {
    let mut rows = Vec::new();
    let x = |v: u64| value(v, exact::F32);
    for ftz in [false, true] {
        let name = |op: &str| format!("{op}{}.f32", if ftz { ".ftz" } else { "" });
        let source = move |v: u64| if ftz { exact::F32.flush(v) } else { v };
        let mut one = |op: &str, want: fn(f64) -> Want| {
            rows.push(row(name(op), F32, &[F32], move |s| flushed(want(x(source(s[0]))), ftz)));
        };
        one("rcp.approx", |a| ulps(1.0 / a, 1.0));
        one("sqrt.approx", |a| near(a.sqrt(), a.abs().sqrt() * 2f64.powi(-23)));
        one("rsqrt.approx", |a| {
            let v = 1.0 / a.sqrt();
            if v.is_infinite() { ulps(v, 0.0) } else { near(v, v.abs() * (-22.9f64).exp2()) }
        });
        one("sin.approx", |a| trigonometric(a, a.sin()));
        one("cos.approx", |a| trigonometric(a, a.cos()));
        one("lg2.approx", |a| {
            let v = a.log2();
            match a {
                _ if v.is_nan() || v.is_infinite() => ulps(v, 0.0),
                a if a > 0.5 && a < 2.0 => near(v, 2f64.powi(-22)),
                _ => near(v, v.abs() * 2f64.powi(-22)),
            }
        });
        // From the correctly rounded result, which is half an ulp away.
        one("ex2.approx", |a| ulps(a.exp2(), 2.5));
        for op in ["div.approx", "div.full"] {
            rows.push(row(name(op), F32, &[F32, F32], move |s| {
                let (a, b) = (x(source(s[0])), x(source(s[1])));
                let size = b.abs();
                if op == "div.approx" && size > 2f64.powi(126) && size.is_finite() {
                    return if a.is_finite() {
                        Want::Bits((s[0] ^ s[1]) & exact::F32.sign())
                    } else {
                        Want::Bits(exact::F32.nan())
                    };
                }
                if op == "div.approx" && size != 0.0 && size < 2f64.powi(-126) {
                    return Want::Open;
                }
                flushed(ulps(a / b, 2.0), ftz)
            }));
        }
    }
    rows.push(row("tanh.approx.f32", F32, &[F32], move |s| {
        let v = x(s[0]).tanh();
        near(v, v.abs() * 2f64.powi(-11))
    }));
    // Seeds of f64 iterations: 20 bits, and nothing in the lower word.
    for (op, root) in [("rcp", false), ("rsqrt", true)] {
        rows.push(row(format!("{op}.approx.ftz.f64"), F64, &[F64], move |s| {
            let nan = 0x7fff_ffff_0000_0000u64;
            let a = f64::from_bits(exact::F64.flush(s[0] & !0xffff_ffff));
            let a = if f64::from_bits(s[0]).is_nan() { f64::NAN } else { a };
            let v = if root { 1.0 / a.sqrt() } else { 1.0 / a };
            if v.is_nan() {
                return Want::Bits(nan);
            }
            let v = f64::from_bits(exact::F64.flush(v.to_bits()));
            let error = if v.is_infinite() { 0.0 } else { v.abs() * 2f64.powi(-19) };
            Want::Between(exact::F64, v - error, v + error)
        }));
        rows.push(
            row(format!("{op}.approx.ftz.f64"), B64, &[F64], |_| 0u64)
                .body(format!("{op}.approx.ftz.f64 $d, $s0; and.b64 $d, $d, 0xffffffff;")),
        );
    }
    rows.push(row("rsqrt.approx.f64", F64, &[F64], |s| {
        let v = 1.0 / f64::from_bits(s[0]).sqrt();
        if v.is_nan() {
            return Want::Bits(exact::F64.nan());
        }
        let error = if v.is_infinite() { 0.0 } else { v.abs() * 2f64.powi(-51) };
        Want::Between(exact::F64, v - error, v + error)
    }));
    rows
}

fn trigonometric(a: f64, v: f64) -> Want {
    use std::f64::consts::PI;
    match a.abs() {
        a if a <= 2.0 * PI => near(v, (-20.5f64).exp2()),
        a if a <= 100.0 * PI => near(v, (-14.7f64).exp2()),
        a if a.is_finite() => Want::Between(exact::F32, -1.0, 1.0),
        _ => Want::Bits(exact::F32.nan()),
    }
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (mode, suffix) in roundings() {
        for (op, n, _, needs, f) in rounded(exact::F64, mode) {
            if !(needs && suffix.is_empty()) {
                rows.push(row(format!("{op}{suffix}.f64"), F64, &vec![F64; n], f));
            }
        }
        for ftz in [false, true] {
            for sat in [false, true] {
                for (op, n, saturates, needs, f) in rounded(exact::F32, mode) {
                    if needs && suffix.is_empty() || sat && !saturates {
                        continue;
                    }
                    let (z, s) = (if ftz { ".ftz" } else { "" }, if sat { ".sat" } else { "" });
                    let want = around(exact::F32, ftz, sat, f);
                    rows.push(row(format!("{op}{suffix}{z}{s}.f32"), F32, &vec![F32; n], want));
                }
            }
        }
    }
    // Pairs of f32.
    for suffix in ["", ".rn"] {
        for (op, n, _, needs, f) in rounded(exact::F32, Mode::Rn) {
            if !matches!(op, "add" | "sub" | "mul" | "fma") || needs && suffix.is_empty() {
                continue;
            }
            rows.push(row(format!("{op}{suffix}.f32x2"), PAIR, &vec![PAIR; n], move |x| {
                let half = |shift: u32| {
                    let part: Vec<u64> = x.iter().map(|v| v >> shift & 0xffff_ffff).collect();
                    f(&part)
                };
                half(0) | half(32) << 32
            }));
        }
    }
    for (f, k, t) in [(exact::F32, F32, "f32"), (exact::F64, F64, "f64")] {
        for ftz in [false, true] {
            if ftz && t == "f64" {
                continue;
            }
            let z = if ftz { ".ftz" } else { "" };
            let flush = move |v: u64| if ftz { f.flush(v) } else { v };
            let keep_nan = move |x: u64, d: u64| match decode(x, f) {
                Num::Nan => Want::Nan(f),
                _ => Want::Bits(d),
            };
            rows.push(row(format!("abs{z}.{t}"), k, &[k], move |x| {
                keep_nan(x[0], flush(x[0]) & !f.sign())
            }));
            rows.push(row(format!("neg{z}.{t}"), k, &[k], move |x| {
                keep_nan(x[0], flush(x[0]) ^ f.sign())
            }));
            for (op, max) in [("min", false), ("max", true)] {
                rows.push(row(format!("{op}{z}.{t}"), k, &[k, k], move |x| {
                    extreme(f, flush(x[0]), flush(x[1]), max, false, false, false)
                }));
                if t == "f64" {
                    continue;
                }
                for (nan, n) in [(false, ""), (true, ".NaN")] {
                    if nan {
                        rows.push(row(format!("{op}{z}{n}.f32"), k, &[k, k], move |x| {
                            extreme(f, flush(x[0]), flush(x[1]), max, nan, false, false)
                        }));
                    }
                    rows.push(row(format!("{op}{z}{n}.xorsign.abs.f32"), k, &[k, k], move |x| {
                        extreme(f, flush(x[0]), flush(x[1]), max, nan, true, true)
                    }));
                    for (abs, a) in [(false, ""), (true, ".abs")] {
                        rows.push(row(format!("{op}{z}{n}{a}.f32"), k, &[k, k, k], move |x| {
                            let two = |p, q| extreme(f, p, q, max, nan, abs, false);
                            two(two(flush(x[0]), flush(x[1])), flush(x[2]))
                        }));
                    }
                }
            }
        }
        // The sign of the first on the second.
        rows.push(row(format!("copysign.{t}"), k, &[k, k], move |x| {
            x[0] & f.sign() | x[1] & !f.sign()
        }));
    }
    rows.extend(approximations());
    rows
}

#[test]
fn float_instructions_round_once_and_approximate_within_their_bounds() {
    check_all(&rows());
}
