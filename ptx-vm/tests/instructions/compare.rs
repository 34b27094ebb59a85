//! Comparisons, choices, tests, predicates, moves.

use std::cmp::Ordering;

use crate::exact::{self, Fmt, Num, decode};
use crate::harness::*;

/// How two floats compare; `None` if one is NaN.
fn float_order(f: Fmt, a: u64, b: u64) -> Option<Ordering> {
    Some(match (decode(a, f), decode(b, f)) {
        (Num::Nan, _) | (_, Num::Nan) => return None,
        (Num::Inf(s), Num::Inf(t)) => t.cmp(&s),
        (Num::Inf(s), _) => {
            if s {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
        (_, Num::Inf(s)) => {
            if s {
                Ordering::Greater
            } else {
                Ordering::Less
            }
        }
        (Num::Finite(_, v), Num::Finite(_, w)) => v.cmp(&w),
    })
}

fn holds(op: &str, order: Option<Ordering>) -> bool {
    use Ordering::{Equal, Greater, Less};
    let Some(o) = order else {
        return matches!(op, "equ" | "neu" | "ltu" | "leu" | "gtu" | "geu" | "nan");
    };
    match op {
        "eq" | "equ" => o == Equal,
        "ne" | "neu" => o != Equal,
        "lt" | "ltu" | "lo" => o == Less,
        "le" | "leu" | "ls" => o != Greater,
        "gt" | "gtu" | "hi" => o == Greater,
        "ge" | "geu" | "hs" => o != Less,
        op => op == "num",
    }
}

const FLOAT_OPS: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

type Compare = Box<dyn Fn(u64, u64) -> Option<Ordering>>;

/// Type with its `ftz`, register, comparisons, the format of pairs, and the order.
type Compared = (String, Kind, Vec<&'static str>, Option<Fmt>, Compare);

fn types() -> Vec<Compared> {
    let mut out: Vec<Compared> = Vec::new();
    for b in [16u32, 32, 64] {
        let k = Kind::Int(b);
        let mut ops = vec!["eq", "ne"];
        out.push((format!("b{b}"), k, ops.clone(), None, Box::new(|x, y| Some(x.cmp(&y)))));
        ops.extend(["lt", "le", "gt", "ge"]);
        let order = move |x, y| Some(signed(x, b).cmp(&signed(y, b)));
        out.push((format!("s{b}"), k, ops.clone(), None, Box::new(order)));
        ops.extend(["lo", "ls", "hi", "hs"]);
        out.push((format!("u{b}"), k, ops, None, Box::new(|x, y| Some(x.cmp(&y)))));
    }
    for (t, f) in
        [("f16", exact::F16), ("bf16", exact::BF16), ("f32", exact::F32), ("f64", exact::F64)]
    {
        for ftz in [false, true] {
            if ftz && matches!(t, "bf16" | "f64") {
                continue;
            }
            let name = format!("{}{t}", if ftz { "ftz." } else { "" });
            let order = move || -> Compare {
                let flush = move |x| if ftz { f.flush(x) } else { x };
                Box::new(move |x, y| float_order(f, flush(x), flush(y)))
            };
            out.push((name.clone(), Kind::Float(f), FLOAT_OPS.to_vec(), None, order()));
            if f.bits() == 16 {
                let (k, ops) = (Kind::Pair(f), FLOAT_OPS.to_vec());
                out.push((name + "x2", k, ops, Some(f), order()));
            }
        }
    }
    out
}

fn boolean(op: &str, a: bool, b: bool) -> bool {
    match op {
        ".and" => a && b,
        ".or" => a || b,
        ".xor" => a != b,
        _ => a,
    }
}

/// Both predicates of `setp` in two bits, and the results of `set`.
fn comparisons() -> Vec<Row> {
    let mut rows = Vec::new();
    for (t, k, ops, pair, order) in types() {
        let order = std::rc::Rc::new(order);
        for op in ops {
            for combine in ["", ".and", ".or", ".xor"] {
                let form = format!("setp.{op}{combine}.{t}");
                let third = if combine.is_empty() { "" } else { ", %p2" };
                let (o, test) = (order.clone(), move |o: &Compare, x: &[u64]| {
                    let c = x[2] & 1 == 1;
                    let (p, q) = match pair {
                        None => {
                            let p = holds(op, o(x[0], x[1]));
                            (p, !p)
                        }
                        Some(_) => (
                            holds(op, o(x[0] & 0xffff, x[1] & 0xffff)),
                            holds(op, o(x[0] >> 16, x[1] >> 16)),
                        ),
                    };
                    (boolean(combine, p, c), boolean(combine, q, c))
                });
                let setp = row(form.clone(), B32, &[k, k, B32], move |x| {
                    let (p, q) = test(&o, x);
                    u64::from(p) | u64::from(q) << 1
                });
                rows.push(setp.body(format!(
                    "and.b32 %word0, $s2, 1; setp.ne.u32 %p2, %word0, 0; \
                     {form} %p0|%p1, $s0, $s1{third}; \
                     selp.u32 %word1, 1, 0, %p0; selp.u32 %word2, 2, 0, %p1; \
                     or.b32 $d, %word1, %word2;"
                )));
                let half = pair.is_some() || matches!(k, Kind::Float(f) if f.bits() == 16);
                let base = t.trim_start_matches("ftz.").to_string();
                let mut targets = vec![("u32", 0xffff_ffffu64), ("s32", 0xffff_ffff)];
                match (pair, half) {
                    (Some(f), _) => {
                        targets = vec![("u32", 0xffff), ("s32", 0xffff), (&base, f.one())];
                    }
                    (None, true) => {
                        targets.extend([("u16", 0xffff), ("s16", 0xffff)]);
                        targets.extend([("f32", 0x3f80_0000), ("f16", 0x3c00), ("bf16", 0x3f80)]);
                    }
                    _ => targets.extend([("f32", 0x3f80_0000), ("f16", 0x3c00), ("bf16", 0x3f80)]),
                }
                let z = if t.starts_with("ftz.") { ".ftz" } else { "" };
                for (to, one) in targets {
                    let o = order.clone();
                    let bits = if to.ends_with("16") && pair.is_none() { 16 } else { 32 };
                    let form = format!("set.{op}{combine}{z}.{to}.{base}");
                    let set = row(form.clone(), Kind::Int(bits), &[k, k, B32], move |x| {
                        let (p, q) = test(&o, x);
                        let part = |p| if p { one } else { 0 };
                        part(p) | if pair.is_some() { part(q) << 16 } else { 0 }
                    });
                    rows.push(set.body(format!(
                        "and.b32 %word0, $s2, 1; setp.ne.u32 %p2, %word0, 0; \
                         {form} $d, $s0, $s1{third};"
                    )));
                }
            }
        }
    }
    rows
}

fn others() -> Vec<Row> {
    let mut rows = Vec::new();
    for (t, k) in [
        ("b16", B16),
        ("u16", B16),
        ("s16", B16),
        ("b32", B32),
        ("u32", B32),
        ("s32", B32),
        ("f32", B32),
        ("b64", B64),
        ("u64", B64),
        ("s64", B64),
        ("f64", B64),
    ] {
        let selp = row(format!("selp.{t}"), k, &[k, k, B32], |x| x[2 - (x[2] as usize & 1) - 1]);
        rows.push(selp.body(format!(
            "and.b32 %word0, $s2, 1; setp.ne.u32 %p0, %word0, 0; selp.{t} $d, $s0, $s1, %p0;"
        )));
        rows.push(row(format!("slct.{t}.s32"), k, &[k, k, B32], |x| {
            if signed(x[2], 32) >= 0 { x[0] } else { x[1] }
        }));
        for ftz in [false, true] {
            let z = if ftz { ".ftz" } else { "" };
            rows.push(row(format!("slct{z}.{t}.f32"), k, &[k, k, F32], move |x| {
                let c = if ftz { exact::F32.flush(x[2]) } else { x[2] };
                let order = float_order(exact::F32, c, 0);
                if matches!(order, Some(Ordering::Greater | Ordering::Equal)) { x[0] } else { x[1] }
            }));
        }
        if t != "b16" && t != "b32" && t != "b64" {
            rows.push(row(format!("mov.{t}"), k, &[k], |x| x[0]));
        }
    }
    for (f, k, t) in [(exact::F32, F32, "f32"), (exact::F64, F64, "f64")] {
        for op in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
            let testp = row(format!("testp.{op}.{t}"), B32, &[k], move |x| {
                let m = x[0] & (f.sign() - 1);
                u64::from(match op {
                    "finite" => m < f.infinity(),
                    "infinite" => m == f.infinity(),
                    "number" => m <= f.infinity(),
                    "notanumber" => m > f.infinity(),
                    // Zero is normal.
                    "normal" => m < f.infinity() && !f.subnormal(m),
                    _ => f.subnormal(m),
                })
            });
            rows.push(testp.body(format!("testp.{op}.{t} %p0, $s0; selp.u32 $d, 1, 0, %p0;")));
        }
    }
    let set = "and.b32 %word0, $s0, 1; setp.ne.u32 %p0, %word0, 0; \
               and.b32 %word0, $s1, 1; setp.ne.u32 %p1, %word0, 0;";
    for op in ["and", "or", "xor"] {
        let logic = row(format!("{op}.pred"), B32, &[B32, B32], move |x| {
            u64::from(boolean(&format!(".{op}"), x[0] & 1 == 1, x[1] & 1 == 1))
        });
        rows.push(logic.body(format!("{set} {op}.pred %p2, %p0, %p1; selp.u32 $d, 1, 0, %p2;")));
    }
    let not = row("not.pred", B32, &[B32, B32], |x| 1 - (x[0] & 1));
    rows.push(not.body(format!("{set} not.pred %p2, %p0; selp.u32 $d, 1, 0, %p2;")));
    let mov = row("mov.pred", B32, &[B32, B32], |x| x[0] & 1);
    rows.push(mov.body(format!("{set} mov.pred %p2, %p0; selp.u32 $d, 1, 0, %p2;")));
    // Taking registers apart and putting them together.
    rows.push(
        row("mov.b32", B32, &[B32], |x| x[0] << 16 & 0xffff_0000 | x[0] >> 16)
            .body("mov.b32 {%half0, %half1}, $s0; mov.b32 $d, {%half1, %half0};"),
    );
    rows.push(
        row("mov.b64", B64, &[B64], |x| x[0].rotate_left(32))
            .body("mov.b64 {%word0, %word1}, $s0; mov.b64 $d, {%word1, %word0};"),
    );
    rows.push(
        row("mov.b64", B64, &[B64], |x| {
            let half = |i: u32| x[0] >> (16 * i) & 0xffff;
            half(0) | half(2) << 16 | half(3) << 32 | half(1) << 48
        })
        .body(
            "mov.b64 {%half0, %half1, %half2, %half3}, $s0; \
                 mov.b64 $d, {%half0, %half2, %half3, %half1};",
        ),
    );
    rows.push(
        row("mov.b16", B16, &[B16], |x| x[0].swap_bytes() >> 48)
            .body(".reg .b8 %x, %y; mov.b16 {%x, %y}, $s0; mov.b16 $d, {%y, %x};"),
    );
    rows.push(row("mov.b128", B64, &[B64, B64], |x| x[0] ^ x[1].rotate_left(1)).body(
        ".reg .b128 %q, %r; mov.b128 %q, {$s0, $s1}; mov.b128 %r, %q; \
             mov.b128 {%wide0, %wide1}, %r; shf.l.wrap.b32 %word0, 0, 0, 0; \
             shl.b64 %wide2, %wide1, 1; shr.u64 %wide3, %wide1, 63; \
             or.b64 %wide2, %wide2, %wide3; xor.b64 $d, %wide0, %wide2;",
    ));
    rows
}

pub fn rows() -> Vec<Row> {
    let mut rows = comparisons();
    rows.extend(others());
    rows
}

#[test]
fn comparisons_order_nan_and_zero_as_ieee_does() {
    check_all(&comparisons());
}

#[test]
fn choices_tests_and_moves_keep_every_bit() {
    check_all(&others());
}
