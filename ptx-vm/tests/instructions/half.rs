//! f16 and bf16 arithmetic, scalar and in pairs.

use crate::exact::{self, Fmt, Mode};
use crate::float::{around, extreme};
use crate::harness::*;

/// Forms of one scalar operation, and of the same on pairs.
fn both<W: Into<Want>>(
    rows: &mut Vec<Row>,
    f: Fmt,
    form: &str,
    n: usize,
    want: impl Fn(&[u64]) -> W + Clone + 'static,
) {
    let name = if f == exact::F16 { "f16" } else { "bf16" };
    let one = want.clone();
    rows.push(row(format!("{form}.{name}"), Kind::Float(f), &vec![Kind::Float(f); n], move |x| {
        one(x)
    }));
    rows.push(row(format!("{form}.{name}x2"), Kind::Pair(f), &vec![Kind::Pair(f); n], move |x| {
        let half = |shift: u32| -> Box<Want> {
            let part: Vec<u64> = x.iter().map(|v| v >> shift & 0xffff).collect();
            Box::new(want(&part).into())
        };
        Want::Halves(half(0), half(16))
    }));
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for f in [exact::F16, exact::BF16] {
        let bf = f == exact::BF16;
        let one = f.one();
        for (ftz, z) in [(false, ""), (true, ".ftz")] {
            if ftz && bf {
                continue;
            }
            for (sat, s) in [(false, ""), (true, ".sat")] {
                if sat && bf {
                    continue;
                }
                let run = move |g: fn(&[u64], Fmt, u64) -> u64| {
                    std::rc::Rc::new(around(f, ftz, sat, move |x| g(x, f, one)))
                };
                for suffix in ["", ".rn"] {
                    let mut two = |op: &str, g| {
                        let g = run(g);
                        both(&mut rows, f, &format!("{op}{suffix}{z}{s}"), 2, move |x| g(x));
                    };
                    two("add", |x, f, one| exact::fma(x[0], one, Some(x[1]), f, Mode::Rn));
                    two("sub", |x, f, one| {
                        exact::fma(x[0], one, Some(x[1] ^ f.sign()), f, Mode::Rn)
                    });
                    two("mul", |x, f, _| exact::fma(x[0], x[1], None, f, Mode::Rn));
                }
                let g = run(|x, f, _| exact::fma(x[0], x[1], Some(x[2]), f, Mode::Rn));
                both(&mut rows, f, &format!("fma.rn{z}{s}"), 3, move |x| g(x));
            }
            let g = std::rc::Rc::new(around(f, ftz, false, move |x| {
                exact::fma(x[0], x[1], Some(x[2]), f, Mode::Rn)
            }));
            both(&mut rows, f, &format!("fma.rn{z}.relu"), 3, move |x| {
                let d = g(x);
                if d & f.sign() != 0 { 0 } else { d }
            });
            let flush = move |v: u64| if ftz { f.flush(v) } else { v };
            let nan = move |x: u64, d: u64| {
                if x & (f.sign() - 1) > f.infinity() { Want::Nan(f) } else { Want::Bits(d) }
            };
            both(&mut rows, f, &format!("neg{z}"), 1, move |x| nan(x[0], flush(x[0]) ^ f.sign()));
            both(&mut rows, f, &format!("abs{z}"), 1, move |x| nan(x[0], flush(x[0]) & !f.sign()));
            for (op, max) in [("min", false), ("max", true)] {
                for (is_nan, n) in [(false, ""), (true, ".NaN")] {
                    for (xor, s) in [(false, ""), (true, ".xorsign.abs")] {
                        both(&mut rows, f, &format!("{op}{z}{n}{s}"), 2, move |x| {
                            extreme(f, flush(x[0]), flush(x[1]), max, is_nan, xor, xor)
                        });
                    }
                }
            }
        }
        // Bounds of the ISA; the corner cases of its tables are exact.
        let bounded = move |v: f64, error: f64| {
            if v.is_nan() {
                return Want::Bits(f.nan());
            }
            let max = value(f.max(), f);
            if v >= max {
                return Want::Between(f, max * 0.99, f64::INFINITY);
            }
            Want::Between(f, v - error, v + error)
        };
        let tanh: f64 = if bf { 2f64.powi(-8) } else { (-10.987f64).exp2() };
        both(&mut rows, f, "tanh.approx", 1, move |x| {
            let a = value(x[0], f);
            let corner = a == 0.0 || a.is_infinite();
            bounded(a.tanh(), if corner { 0.0 } else { tanh })
        });
        let ex2: f64 = if bf { 2f64.powi(-7) } else { (-9.9f64).exp2() };
        // Half an ulp where the result is subnormal; bf16 flushes it.
        let least = value(1, f);
        let normal = value(1 << f.mantissa, f);
        both(&mut rows, f, if bf { "ex2.approx.ftz" } else { "ex2.approx" }, 1, move |x| {
            let a = value(if bf { f.flush(x[0]) } else { x[0] }, f);
            let v = a.exp2();
            match bounded(v, if a == 0.0 { 0.0 } else { (v * ex2).max(least / 2.0) }) {
                Want::Between(f, _, high) if bf && v < normal * 1.01 => Want::Between(f, 0.0, high),
                w => w,
            }
        });
    }
    rows
}

#[test]
fn half_precision_instructions_round_once() {
    check_all(&rows());
}
