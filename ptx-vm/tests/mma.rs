//! Every form of `mma.sync` against exact integer arithmetic, with the fragment layouts of
//! the PTX ISA typed in.

mod support;

use proptest::prelude::*;
use ptx_vm::{Arithmetic, LaunchConfig, Machine, Module};
use support::exact::{self, *};
use support::mma::*;
use support::*;

/// Runs one multiplication; D as registers of the lanes.
fn run(f: &Form, x: &Inputs, arithmetic: Arithmetic) -> Vec<u32> {
    let ptx = f.kernel(x.selectors);
    let module = Module::from_ptx(&ptx).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let mut m = Machine::new();
    m.set_arithmetic(arithmetic);
    let n = 32 * f.registers()[3];
    let d = m.alloc(4 * n as u64).expect("memory");
    let args: Vec<_> = [&x.a, &x.b, &x.c, &x.s].map(|v| upload_u32(&mut m, v).into()).to_vec();
    let args = [args, vec![d.into()]].concat();
    m.launch(&module, "k", &LaunchConfig::new(1, 32), &args)
        .unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    read_u32(&m, d, n)
}

/// Scales of the rows of A (16) and the columns of B (8).
fn scales(s: Scaling, x: &Inputs) -> (Vec<Vec<Value>>, Vec<Vec<Value>>) {
    let value = |code: u32| match (s.ue4m3, code) {
        (true, c) => E4M3.decode(c & 0x7f),
        (false, 255) => Value::Nan,
        (false, c) => Value::Finite { negative: false, magnitude: 1, exponent: c as i32 - 127 },
    };
    let [ba, ta, bb, tb] = x.selectors;
    let line = |lane: usize, which: usize, byte: usize| -> Vec<Value> {
        (0..s.per_line).map(|i| value(x.s[2 * lane + which] >> (8 * (byte + i)) & 0xff)).collect()
    };
    // "thread-id-a selects lanes of each quad, 0 and 1 or 2 and 3: the first holds row g, the
    // second row g + 8; thread-id-b selects one lane of each quad, for column g."
    let a = (0..16).map(|row| line(row % 8 * 4 + 2 * ta + row / 8, 0, ba)).collect();
    let b = (0..8).map(|col| line(col * 4 + tb, 1, bb)).collect();
    (a, b)
}

/// D by rows as the arithmetic says.
fn want(f: &Form, x: &Inputs, arithmetic: Arithmetic) -> Vec<u32> {
    let Shape { m, k, .. } = *f.shape;
    let [na, nb, nc, _] = f.registers();
    let a = matrix(&x.a, na, f.a, k, m, f.shape.a);
    let b = matrix(&x.b, nb, f.b, 8, k, f.shape.b);
    let c = matrix(&x.c, nc, accumulator(f.c), 8, m, c_table);
    let d = accumulator(f.d).ty;
    let scales = f.scaling.map(|s| (s, scales(s, x)));
    let mut out = Vec::new();
    for row in 0..m {
        for col in 0..8 {
            let pair = |j: usize| (a[row * k + j], b[j * 8 + col]);
            let scale = |j: usize| match &scales {
                Some((s, (sa, sb))) => {
                    let i = j * s.per_line / k;
                    (sa[row][i], sb[col][i])
                }
                None => (ONE, ONE),
            };
            let product = |j: usize| {
                let ((p, q), (u, v)) = (pair(j), scale(j));
                p.times(q).times(u.times(v))
            };
            let c = c[row * 8 + col];
            out.push(if f.d == "s32" {
                let int = |v: Value| match v {
                    Value::Finite { negative, magnitude, .. } => {
                        if negative {
                            -(magnitude as i64)
                        } else {
                            magnitude as i64
                        }
                    }
                    _ => panic!("an integer"),
                };
                let total = int(c) + (0..k).map(|j| int(product(j))).sum::<i64>();
                if f.saturate {
                    total.clamp(i32::MIN.into(), i32::MAX.into()) as i32 as u32
                } else {
                    total as u32
                }
            } else if arithmetic == Arithmetic::Exact {
                let terms: Vec<Value> = (0..k).map(product).chain([c]).collect();
                exact::exact(&terms, d)
            } else {
                hardware(f, c, &pair, &scale, d)
            });
        }
    }
    out
}

const ONE: Value = Value::Finite { negative: false, magnitude: 1, exponent: 0 };

/// The table of `FIDELITY.md`: products at once, fraction bits, bits kept of the output.
fn model(f: &Form) -> (usize, i32, u32) {
    let k = f.shape.k;
    let fp8 = f.a.bits == 8;
    match f.target {
        "sm_75" => (k, 24, 23),
        "sm_80" => (128 / f.a.bits, 24, 23),
        "sm_89" if fp8 => (16, 13, 13),
        "sm_90" | "sm_90a" => (k, 25, 23),
        _ if f.a.bits == 4 => (k, 35, 23),
        _ => (k, 25, 23),
    }
}

fn hardware(
    f: &Form,
    c: Value,
    pair: &dyn Fn(usize) -> (Value, Value),
    scale: &dyn Fn(usize) -> (Value, Value),
    d: Type,
) -> u32 {
    let (group, fraction, output) = model(f);
    let lead = |v: Value, min: i32| v.leading(min);
    let mut code = exact::exact(&[c], d);
    for start in (0..f.shape.k).step_by(group) {
        let acc = d.decode(code);
        let mut terms = vec![(acc, lead(acc, d.min_exponent()))];
        let step = if f.a.bits == 4 { 16 } else { 1 };
        for j in (start..start + group).step_by(step) {
            let (u, v) = scale(j);
            let scale_min = if f.scaling.is_some_and(|s| s.ue4m3) { -6 } else { -127 };
            let shift = match f.scaling {
                Some(_) => lead(u, scale_min) + lead(v, scale_min),
                None => 0,
            };
            if step == 1 {
                let (p, q) = pair(j);
                let e = lead(p, f.a.ty.min_exponent()) + lead(q, f.b.ty.min_exponent());
                terms.push((p.times(q).times(u.times(v)), e + shift));
                continue;
            }
            // FP4: sixteen products are added exactly, then scaled.
            let quarters: i64 = (j..j + 16)
                .map(|j| match pair(j).0.times(pair(j).1) {
                    Value::Finite { negative, magnitude, exponent } => {
                        let v = (magnitude << (exponent + 2)) as i64;
                        if negative { -v } else { v }
                    }
                    _ => panic!("FP4 is finite"),
                })
                .sum();
            let dot = Value::Finite {
                negative: quarters < 0,
                magnitude: quarters.unsigned_abs(),
                exponent: -2,
            };
            terms.push((dot.times(u.times(v)), shift));
        }
        code = cut(&terms, fraction, output, d);
    }
    code
}

fn check(f: &Form, seed: u64, how: Draw, arithmetic: Arithmetic) -> Result<(), TestCaseError> {
    let x = inputs(f, seed, how);
    let got = run(f, &x, arithmetic);
    let want = want(f, &x, arithmetic);
    let (n, o) = (f.registers()[3], accumulator(f.d));
    let per = 32 / o.bits;
    for (lane, regs) in got.chunks(n).enumerate() {
        for i in 0..n * per {
            let (row, col) = c_table(lane / 4, lane % 4, i);
            let code = regs[i / per] >> (i % per * o.bits) & (u32::MAX >> (32 - o.bits));
            let want = want[row * 8 + col];
            prop_assert_eq!(
                code,
                want,
                "{} {:?} {:?}: row {} column {}: {:#x}, want {:#x}",
                f.text,
                how,
                arithmetic,
                row,
                col,
                code,
                want
            );
        }
    }
    Ok(())
}

fn draws() -> impl Strategy<Value = Draw> {
    prop_oneof![
        Just(Draw::Bits),
        Just(Draw::Plain),
        Just(Draw::Extreme),
        Just(Draw::Small),
        Just(Draw::NanScales),
    ]
}

/// Every form, each with operands of all kinds.
fn check_all(arithmetic: Arithmetic, pick: fn(&Form) -> bool) {
    let forms: Vec<Form> = forms().into_iter().filter(pick).collect();
    assert!(!forms.is_empty());
    for f in &forms {
        let config = ProptestConfig { cases: 8, failure_persistence: None, ..Default::default() };
        proptest!(config, |(seed in any::<u64>(), how in draws())| {
            check(f, seed, how, arithmetic)?;
        });
    }
}

#[test]
fn half_and_tf32_products_are_rounded_once() {
    check_all(Arithmetic::Exact, |f| f.a.bits >= 16);
}

#[test]
fn half_and_tf32_products_are_cut_as_tensor_cores_do() {
    check_all(Arithmetic::Hardware, |f| f.a.bits >= 16);
}

#[test]
fn integer_products_wrap_or_clamp() {
    check_all(Arithmetic::Exact, |f| f.d == "s32");
    check_all(Arithmetic::Hardware, |f| f.d == "s32");
}

#[test]
fn narrow_float_products_are_rounded_once_for_every_pair_of_types() {
    check_all(Arithmetic::Exact, |f| f.a.bits == 8 && f.d != "s32" && f.scaling.is_none());
}

#[test]
fn narrow_float_products_are_cut_as_tensor_cores_do() {
    check_all(Arithmetic::Hardware, |f| f.a.bits == 8 && f.d != "s32" && f.scaling.is_none());
}

#[test]
fn block_scaled_products_are_rounded_once_with_every_selector() {
    check_all(Arithmetic::Exact, |f| f.scaling.is_some());
}

#[test]
fn block_scaled_products_are_cut_as_tensor_cores_do() {
    check_all(Arithmetic::Hardware, |f| f.scaling.is_some());
}

#[test]
fn saturating_integers_stop_at_the_largest() {
    // 0x7f · 0x7f · 32 added to the largest i32.
    let mut f = form("sm_80", "", "m16n8k32", "s32", S8, S8, "s32");
    let x = Inputs {
        a: vec![0x7f7f_7f7f; 128],
        b: vec![0x7f7f_7f7f; 64],
        c: vec![i32::MAX as u32; 128],
        s: vec![0; 64],
        selectors: [0; 4],
    };
    let sum = i64::from(i32::MAX) + 127 * 127 * 32;
    assert_eq!(run(&f, &x, Arithmetic::Exact), vec![sum as u32; 128]);
    f.text = f.text.replace(".col.s32", ".col.satfinite.s32");
    assert_eq!(run(&f, &x, Arithmetic::Exact), vec![i32::MAX as u32; 128]);
}

#[test]
fn the_two_arithmetics_differ_where_they_should() {
    // 2^24 + 16 · 15/16 = 2^24 + 15, halfway between 14 and 16. Cut to a grid of 1 (Ampere:
    // 24 bits below 2^24) nothing of each term is left, to one of 1/2 (Hopper) a half.
    let sum = |target, arithmetic| {
        let f = form(target, "", "m16n8k16", "f32", BRAIN, BRAIN, "f32");
        let x = Inputs {
            a: vec![0x3f70_3f70; 128],
            b: vec![0x3f80_3f80; 64],
            c: vec![2f32.powi(24).to_bits(); 128],
            s: vec![0; 64],
            selectors: [0; 4],
        };
        f32::from_bits(run(&f, &x, arithmetic)[0]) - 2f32.powi(24)
    };
    assert_eq!(sum("sm_80", Arithmetic::Exact), 16.0);
    assert_eq!(sum("sm_80", Arithmetic::Hardware), 0.0);
    assert_eq!(sum("sm_90", Arithmetic::Hardware), 8.0);
}
