//! What is accepted is tested: around every form that a row covers, all forms that differ
//! from it by one modifier or one type are covered too, or refused.

use std::collections::BTreeSet;

use ptx_vm::Module;

use crate::harness::{Kind, Row};

const TYPES: [&str; 22] = [
    "u8", "s8", "b8", "u16", "s16", "b16", "u32", "s32", "b32", "u64", "s64", "b64", "f16", "bf16",
    "f32", "f64", "f16x2", "bf16x2", "u16x2", "s16x2", "f32x2", "pred",
];

/// Modifiers of arithmetic: any may be missing or one too many.
const MODIFIERS: [&str; 43] = [
    "rn",
    "rna",
    "rz",
    "rm",
    "rp",
    "rni",
    "rzi",
    "rmi",
    "rpi",
    "ftz",
    "sat",
    "satfinite",
    "relu",
    "approx",
    "full",
    "NaN",
    "xorsign",
    "abs",
    "lo",
    "hi",
    "wide",
    "cc",
    "clamp",
    "wrap",
    "l",
    "r",
    "shiftamt",
    "f4e",
    "b4e",
    "rc8",
    "ecl",
    "ecr",
    "rc16",
    "and",
    "or",
    "xor",
    "eq",
    "lt",
    "lo",
    "equ",
    "num",
    "finite",
    "pack",
];

/// Opcode, types in order, other modifiers in any order: the rows of one instruction may
/// write them differently.
fn key(form: &str) -> (String, Vec<String>, Vec<String>) {
    let mut parts = form.split('.').map(str::to_string);
    let opcode = parts.next().unwrap_or_default();
    // A second end of a conversion, such as e4m3x2, counts as a modifier.
    let (types, mut rest): (Vec<_>, Vec<_>) = parts.partition(|p| TYPES.contains(&p.as_str()));
    rest.sort();
    (opcode, types, rest)
}

fn bits(ty: &str) -> u32 {
    match ty {
        "pred" => 1,
        "f16x2" | "bf16x2" | "u16x2" | "s16x2" => 32,
        "f32x2" => 64,
        _ => ty.trim_start_matches(|c: char| c.is_alphabetic()).parse().unwrap_or(16),
    }
}

/// The row's module with another form in place of its own, registers as wide as it needs.
fn edited(r: &Row, form: &str, from: &str, to: &str) -> String {
    let width = |k: Kind| {
        let (old, new) = (bits(from), bits(to));
        match k.bits() {
            b if from.is_empty() || old == new => Kind::Int(b),
            b if b == old && new > 1 => Kind::Int(new),
            b if b == 2 * old && new > 1 && new < 64 => Kind::Int(2 * new),
            b => Kind::Int(b),
        }
    };
    let copy = Row {
        form: form.to_string(),
        out: width(r.out),
        ins: r.ins.iter().map(|k| width(*k)).collect(),
        target: r.target,
        body: r.body.as_ref().map(|b| b.replace(&format!("{} ", r.form), &format!("{form} "))),
        want: crate::harness::Oracle::Warp(Box::new(|_| Vec::new())),
    };
    copy.module()
}

#[test]
fn every_accepted_form_of_arithmetic_has_a_row() {
    let rows: Vec<Row> = [
        crate::integer::rows(),
        crate::float::rows(),
        crate::half::rows(),
        crate::convert::rows(),
        crate::compare::rows(),
    ]
    .into_iter()
    .flatten()
    .chain([crate::integer::lop3_row(0x96)])
    .collect();
    let covered: BTreeSet<_> = rows.iter().map(|r| key(&r.form)).collect();
    let mut missing = BTreeSet::new();
    let mut tried = BTreeSet::new();
    let mut attempt = |r: &Row, form: String, from: &str, to: &str| {
        let k = key(&form);
        // How many operands there are matters too: `min` has forms of three sources.
        if !covered.contains(&k)
            && tried.insert((k, r.ins.len()))
            && Module::from_ptx(&edited(r, &form, from, to)).is_ok()
        {
            missing.insert(form);
        }
    };
    let mut seen = BTreeSet::new();
    // Of the thousands of comparisons, those with one of each kind of operator.
    let representative = |form: &str| {
        let (opcode, _, rest) = key(form);
        !opcode.starts_with("set")
            || rest
                .iter()
                .all(|m| ["eq", "lt", "lo", "equ", "num", "and", "ftz"].contains(&m.as_str()))
    };
    for r in rows.iter().filter(|r| representative(&r.form)) {
        if !seen.insert((r.form.clone(), r.ins.len())) {
            continue;
        }
        let parts: Vec<&str> = r.form.split('.').collect();
        let join = |p: &[&str]| p.join(".");
        for m in MODIFIERS {
            let mut p = parts.clone();
            p.insert(1, m);
            attempt(r, join(&p), "", "");
        }
        for i in 1..parts.len() {
            let mut p = parts.clone();
            p.remove(i);
            attempt(r, join(&p), "", "");
            if TYPES.contains(&parts[i]) {
                for t in TYPES {
                    let mut p = parts.clone();
                    p[i] = t;
                    attempt(r, join(&p), parts[i], t);
                }
            } else {
                for m in MODIFIERS {
                    let mut p = parts.clone();
                    p[i] = m;
                    attempt(r, join(&p), "", "");
                }
            }
        }
    }
    assert!(missing.is_empty(), "accepted but not tested: {missing:#?}");
}

#[test]
fn every_opcode_of_the_isa_is_tested_or_refused() {
    // Tested beside the rows: control, barriers, copies here, matrices in `tests/matrix`.
    const ELSEWHERE: &[&str] = &[
        "bra",
        "brx",
        "call",
        "ret",
        "exit",
        "trap",
        "brkpt",
        "bar",
        "barrier",
        "nanosleep",
        "membar",
        "fence",
        "pmevent",
        "griddepcontrol",
        "setmaxnreg",
        "cp",
        "mbarrier",
        "lop3",
        "ldmatrix",
        "stmatrix",
        "movmatrix",
        "mma",
        "wgmma",
        "prefetch",
        "prefetchu",
        "ldu",
        "createpolicy",
        "mov",
        "cvta",
        "isspacep",
        "atom",
        "red",
        "ld",
        "st",
        "elect",
        "addc",
        "tcgen05",
    ];
    const ISA: &[&str] = &[
        "abs",
        "activemask",
        "add",
        "addc",
        "alloca",
        "and",
        "applypriority",
        "atom",
        "bar",
        "barrier",
        "bfe",
        "bfi",
        "bfind",
        "bmsk",
        "bra",
        "brev",
        "brkpt",
        "brx",
        "call",
        "clz",
        "clusterlaunchcontrol",
        "cnot",
        "copysign",
        "cos",
        "cp",
        "createpolicy",
        "cvt",
        "cvta",
        "discard",
        "div",
        "dp2a",
        "dp4a",
        "elect",
        "ex2",
        "exit",
        "fence",
        "fma",
        "fns",
        "getctarank",
        "griddepcontrol",
        "isspacep",
        "istypep",
        "ld",
        "ldmatrix",
        "ldu",
        "lg2",
        "lop3",
        "mad",
        "mad24",
        "madc",
        "mapa",
        "match",
        "max",
        "mbarrier",
        "membar",
        "min",
        "mma",
        "mov",
        "movmatrix",
        "mul",
        "mul24",
        "multimem",
        "nanosleep",
        "neg",
        "not",
        "or",
        "pmevent",
        "popc",
        "prefetch",
        "prefetchu",
        "prmt",
        "rcp",
        "red",
        "redux",
        "rem",
        "ret",
        "rsqrt",
        "sad",
        "selp",
        "set",
        "setmaxnreg",
        "setp",
        "shf",
        "shfl",
        "shl",
        "shr",
        "sin",
        "slct",
        "sqrt",
        "st",
        "stackrestore",
        "stacksave",
        "stmatrix",
        "sub",
        "subc",
        "suld",
        "suq",
        "sured",
        "sust",
        "szext",
        "tanh",
        "tcgen05",
        "tensormap",
        "testp",
        "tex",
        "tld4",
        "trap",
        "txq",
        "vabsdiff",
        "vabsdiff2",
        "vabsdiff4",
        "vadd",
        "vadd2",
        "vadd4",
        "vavrg2",
        "vavrg4",
        "vmad",
        "vmax",
        "vmax2",
        "vmax4",
        "vmin",
        "vmin2",
        "vmin4",
        "vote",
        "vset",
        "vset2",
        "vset4",
        "vshl",
        "vshr",
        "vsub",
        "wgmma",
    ];
    let mut covered: BTreeSet<String> = ELSEWHERE.iter().map(|s| s.to_string()).collect();
    for rows in [
        crate::integer::rows(),
        crate::float::rows(),
        crate::half::rows(),
        crate::convert::rows(),
        crate::compare::rows(),
        crate::memory::rows(),
        crate::warp::rows(),
    ] {
        covered.extend(rows.into_iter().map(|r| key(&r.form).0));
    }
    // The rest is refused whatever it is written with.
    for op in ISA.iter().filter(|op| !covered.contains(**op)) {
        for ty in TYPES {
            for operands in ["", "%r1", "%r1, %r2", "%r1, %r2, %r3", "%r1, [%d1]", "[%d1], %r1"] {
                let text = format!(
                    ".version 9.0\n.target sm_121a\n.address_size 64\n.visible .entry k()\n\
                     {{ .reg .b32 %r<8>; .reg .b64 %d<4>; {op}.{ty} {operands}; ret; }}"
                );
                assert!(Module::from_ptx(&text).is_err(), "{op}.{ty} {operands} is accepted");
            }
        }
    }
}
