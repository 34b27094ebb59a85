//! Conversions between all types.

use num_bigint::BigInt;

use crate::exact::{self, Exact, Fmt, Mode, Num, decode};
use crate::harness::*;

const INTS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

const FLOATS: [(&str, Fmt); 4] =
    [("f16", exact::F16), ("bf16", exact::BF16), ("f32", exact::F32), ("f64", exact::F64)];

const INTEGRAL: [(Mode, &str); 4] =
    [(Mode::Rn, "rni"), (Mode::Rz, "rzi"), (Mode::Rm, "rmi"), (Mode::Rp, "rpi")];

/// Registers have 16 bits at least.
fn register(bits: u32) -> Kind {
    Kind::Int(bits.max(16))
}

fn read(x: u64, bits: u32, is_signed: bool) -> i128 {
    if is_signed { signed(x, bits) } else { i128::from(x & mask(bits)) }
}

fn range(bits: u32, is_signed: bool) -> (i128, i128) {
    if is_signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// The value as the destination register holds it.
fn write(v: i128, bits: u32, is_signed: bool, register: u32) -> u64 {
    read(v as u64, bits, is_signed) as u64 & mask(register)
}

fn integers() -> Vec<Row> {
    let mut rows = Vec::new();
    for (t, tb, ts) in INTS {
        for (f, fb, fs) in INTS {
            for sat in ["", ".sat"] {
                // Also into and out of registers wider than the types.
                for (out, source) in [(register(tb), register(fb)), (B64, B64)] {
                    rows.push(row(format!("cvt{sat}.{t}.{f}"), out, &[source], move |x| {
                        let (low, high) = range(tb, ts);
                        let v = read(x[0], fb, fs);
                        let v = if sat.is_empty() { v } else { v.clamp(low, high) };
                        write(v, tb, ts, out.bits())
                    }));
                }
            }
        }
        for (f, from) in FLOATS {
            for (mode, m) in Mode::FOUR {
                for sat in ["", ".sat"] {
                    let form = format!("cvt.{m}{sat}.{f}.{t}");
                    rows.push(row(form, Kind::Float(from), &[register(tb)], move |x| {
                        let v = Exact::int(read(x[0], tb, ts));
                        let code = exact::round(&v, false, from, mode, false);
                        if sat.is_empty() { code } else { exact::unit(code, from) }
                    }));
                }
            }
            for (mode, m) in INTEGRAL {
                for ftz in [false, true] {
                    for sat in ["", ".sat"] {
                        if ftz && f != "f32" {
                            continue;
                        }
                        let z = if ftz { ".ftz" } else { "" };
                        let form = format!("cvt.{m}{z}{sat}.{t}.{f}");
                        rows.push(row(form, register(tb), &[Kind::Float(from)], move |x| {
                            let (low, high) = range(tb, ts);
                            let a = if ftz { from.flush(x[0]) } else { x[0] };
                            let v = match decode(a, from) {
                                // NaN gives the highest bit where 64 bits take part.
                                Num::Nan if f == "f64" || tb == 64 => 1 << (tb - 1),
                                Num::Nan => 0,
                                Num::Inf(true) => low,
                                Num::Inf(false) => high,
                                Num::Finite(_, v) => {
                                    let v = v.to_int(mode).clamp(BigInt::from(low), high.into());
                                    v.try_into().expect("clamped")
                                }
                            };
                            write(v, tb, ts, tb.max(16))
                        }));
                    }
                }
            }
        }
    }
    rows
}

fn floats() -> Vec<Row> {
    let mut rows = Vec::new();
    for (t, to) in FLOATS {
        for (f, from) in FLOATS {
            let (out, ins) = (Kind::Float(to), [Kind::Float(from)]);
            let single = t == "f32" || f == "f32";
            for (ftz, z) in [(false, ""), (true, ".ftz")] {
                if ftz && !single {
                    continue;
                }
                for (sat, s) in [(false, ""), (true, ".sat")] {
                    let around = move |x: u64, op: &dyn Fn(u64) -> u64| {
                        let flush = |v, k: Fmt| if ftz && k == exact::F32 { k.flush(v) } else { v };
                        let d = flush(op(flush(x, from)), to);
                        if sat { exact::unit(d, to) } else { d }
                    };
                    if t == f {
                        for (mode, m) in INTEGRAL {
                            rows.push(row(format!("cvt.{m}{z}{s}.{t}.{f}"), out, &ins, move |x| {
                                around(x[0], &|a| match decode(a, from) {
                                    Num::Finite(negative, v) => {
                                        let v: i128 = match v.to_int(mode).try_into() {
                                            Ok(v) => v,
                                            // Numbers this large are integers.
                                            Err(_) => return a,
                                        };
                                        exact::round(&Exact::int(v), negative, to, mode, false)
                                    }
                                    Num::Nan => to.nan(),
                                    Num::Inf(_) => a,
                                })
                            }));
                        }
                    }
                    let widens = to.mantissa >= from.mantissa && to.exponent >= from.exponent;
                    if widens {
                        rows.push(row(format!("cvt{z}{s}.{t}.{f}"), out, &ins, move |x| {
                            around(x[0], &|a| exact::convert(a, from, to, Mode::Rn, false))
                        }));
                        continue;
                    }
                    for (mode, m) in Mode::FOUR {
                        rows.push(row(format!("cvt.{m}{z}{s}.{t}.{f}"), out, &ins, move |x| {
                            around(x[0], &|a| exact::convert(a, from, to, mode, false))
                        }));
                    }
                }
            }
        }
    }
    rows
}

/// Negative numbers become +0.
fn relu(code: u64, f: Fmt) -> u64 {
    let nan = f.top == exact::Top::Ieee && code & (f.sign() - 1) > f.infinity();
    if code & f.sign() != 0 && !nan { 0 } else { code }
}

fn narrow() -> Vec<Row> {
    let mut rows = Vec::new();
    let part = |x: u64, from: Fmt, to: Fmt, mode: Mode, saturate: bool, clip: bool| {
        let code = exact::convert(x, from, to, mode, saturate);
        if clip { relu(code, to) } else { code }
    };
    let modes = [(Mode::Rn, "rn"), (Mode::Rz, "rz")];
    for (clip, r) in [(false, ""), (true, ".relu")] {
        for (saturate, s) in [(false, ""), (true, ".satfinite")] {
            for (t, to) in [("f16", exact::F16), ("bf16", exact::BF16)] {
                for (mode, m) in modes {
                    let form = format!("cvt.{m}{r}{s}.{t}x2.f32");
                    rows.push(row(form, Kind::Pair(to), &[F32, F32], move |x| {
                        let part = |x| part(x, exact::F32, to, mode, saturate, clip);
                        part(x[0]) << 16 | part(x[1])
                    }));
                    if clip || saturate {
                        let form = format!("cvt.{m}{r}{s}.{t}.f32");
                        rows.push(row(form, Kind::Float(to), &[F32], move |x| {
                            part(x[0], exact::F32, to, mode, saturate, clip)
                        }));
                    }
                }
            }
            for (mode, m) in [(Mode::Rna, "rna"), (Mode::Rn, "rn"), (Mode::Rz, "rz")] {
                if mode == Mode::Rna && clip {
                    continue;
                }
                rows.push(row(format!("cvt.{m}{r}{s}.tf32.f32"), B32, &[F32], move |x| {
                    part(x[0], exact::F32, exact::TF32, mode, saturate, clip) << 13
                }));
            }
        }
        for (t, to, step) in [
            ("e4m3x2", exact::E4M3, 8),
            ("e5m2x2", exact::E5M2, 8),
            ("e2m3x2", exact::E2M3, 8),
            ("e3m2x2", exact::E3M2, 8),
            ("e2m1x2", exact::E2M1, 4),
        ] {
            let code = Kind::Int(2 * step);
            let form = format!("cvt.rn.satfinite{r}.{t}.f32");
            rows.push(row(form, code, &[F32, F32], move |x| {
                let part = |x| part(x, exact::F32, to, Mode::Rn, true, clip);
                part(x[0]) << step | part(x[1])
            }));
            let form = format!("cvt.rn{r}.f16x2.{t}");
            rows.push(row(form, F16X2, &[code], move |x| {
                let field = |x: u64| x & mask(to.bits());
                let part = |x| part(field(x), to, exact::F16, Mode::Rn, false, clip);
                part(x[0] >> step) << 16 | part(x[0])
            }));
            if to.bits() == 8 {
                let form = format!("cvt.rn.satfinite{r}.{t}.f16x2");
                rows.push(row(form, code, &[F16X2], move |x| {
                    let part = |x: u64| part(x & 0xffff, exact::F16, to, Mode::Rn, true, clip);
                    part(x[0] >> 16) << 8 | part(x[0])
                }));
            }
        }
    }
    // Scales: powers of two 2^(code - 127), 0xff is NaN, the sign is dropped.
    for (up, m) in [(false, "rz"), (true, "rp")] {
        for (saturate, s) in [(false, ""), (true, ".satfinite")] {
            let scale = move |bits: u32| {
                let v = f64::from(f32::from_bits(bits)).abs();
                if v.is_nan() {
                    return 0xff;
                }
                let top = if saturate { 0xfe } else { 0xff };
                let reached = |code: &u64| {
                    let next = ((*code as f64) - 127.0).exp2();
                    if up { next >= v } else { next <= v }
                };
                if up {
                    (0..0xff).find(reached).unwrap_or(top)
                } else if v.is_infinite() {
                    top
                } else {
                    (0..0xff).rev().find(reached).unwrap_or(0)
                }
            };
            rows.push(row(format!("cvt.{m}{s}.ue8m0x2.f32"), B16, &[F32, F32], move |x| {
                scale(x[0] as u32) << 8 | scale(x[1] as u32)
            }));
            rows.push(row(format!("cvt.{m}{s}.ue8m0x2.bf16x2"), B16, &[BF16X2], move |x| {
                scale(x[0] as u32 & 0xffff_0000) << 8 | scale((x[0] << 16) as u32)
            }));
        }
    }
    rows.push(row("cvt.rn.bf16x2.ue8m0x2", BF16X2, &[B16], |x| {
        let one = |code: u64| match code & 0xff {
            0xff => exact::BF16.nan(),
            code => u64::from(((code as f32) - 127.0).exp2().to_bits() >> 16),
        };
        one(x[0] >> 8) << 16 | one(x[0])
    }));
    // Two clamped integers, over the third source shifted up.
    for (t, bits, is_signed) in &INTS[..4] {
        let (low, high) = range(*bits, *is_signed);
        let bits = *bits;
        let pair = move |x: &[u64]| {
            let one = |x: u64| signed(x, 32).clamp(low, high) as u64 & mask(bits);
            one(x[0]) << bits | one(x[1])
        };
        if bits == 16 {
            rows.push(row(format!("cvt.pack.sat.{t}.s32"), B32, &[B32, B32], pair));
        } else {
            rows.push(row(format!("cvt.pack.sat.{t}.s32.b32"), B32, &[B32, B32, B32], move |x| {
                (x[2] << 16 | pair(x)) & mask(32)
            }));
        }
    }
    rows
}

pub fn rows() -> Vec<Row> {
    let mut rows = integers();
    rows.extend(floats());
    rows.extend(narrow());
    rows
}

#[test]
fn integer_conversions_wrap_or_clamp() {
    check_all(&integers());
}

#[test]
fn float_conversions_round_once() {
    check_all(&floats());
}

#[test]
fn narrow_conversions_saturate_and_round_once() {
    check_all(&narrow());
}
