//! Loads, stores, atomics, addresses.

use crate::exact::{self, Mode};
use crate::harness::*;

const TYPES: [(&str, u32, bool); 17] = [
    ("u8", 1, false),
    ("s8", 1, true),
    ("b8", 1, false),
    ("u16", 2, false),
    ("s16", 2, true),
    ("b16", 2, false),
    ("f16", 2, false),
    ("bf16", 2, false),
    ("u32", 4, false),
    ("s32", 4, true),
    ("b32", 4, false),
    ("f32", 4, false),
    ("f16x2", 4, false),
    ("u64", 8, false),
    ("s64", 8, true),
    ("b64", 8, false),
    ("f64", 8, false),
];

/// Where the thread's 32 bytes lie, and what puts the inputs there.
fn place(space: &str) -> (String, &'static str) {
    let copy = |to: &str| {
        (0..4).map(|i| format!("st.{to}.b64 [%wide3+{}], $s{i};", 8 * i)).collect::<String>()
    };
    match space {
        "global" => ("mov.b64 %wide3, %in;".into(), ".global"),
        "" => ("mov.b64 %wide3, %in;".into(), ""),
        "shared" | "generic shared" => {
            let start = ".shared .align 32 .b8 buf[8192]; mov.u64 %wide3, buf; \
                         mad.wide.u32 %wide3, %tid, 32, %wide3;";
            let text = format!("{start} {}", copy("shared"));
            if space == "shared" {
                (text, ".shared")
            } else {
                (text + " cvta.shared.u64 %wide3, %wide3;", "")
            }
        }
        _ => {
            let start = ".local .align 32 .b8 mine[32]; mov.u64 %wide3, mine;";
            let text = format!("{start} {}", copy("local"));
            if space == "local" {
                (text, ".local")
            } else {
                (text + " cvta.local.u64 %wide3, %wide3;", "")
            }
        }
    }
}

const SPACES: [&str; 6] = ["global", "", "shared", "generic shared", "local", "generic local"];

fn bytes(x: &[u64]) -> Vec<u8> {
    x.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Element `i` of memory, extended to 64 bits where the type is an integer.
fn element(memory: &[u8], i: usize, size: u32, is_signed: bool) -> u64 {
    let at = i * size as usize;
    let raw = memory[at..at + size as usize].iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
    if is_signed { signed(raw, 8 * size) as u64 } else { raw }
}

fn fold(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, |d, v| d.wrapping_mul(31).wrapping_add(v))
}

fn load_store(form: &str, space: &str, lanes: usize, ty: (&str, u32, bool)) -> Vec<Row> {
    let (name, size, is_signed) = ty;
    let (setup, _) = place(space);
    let registers: Vec<String> = (0..lanes).map(|i| format!("%e{i}")).collect();
    let list = if lanes == 1 { "%e0".into() } else { format!("{{{}}}", registers.join(", ")) };
    let ins = [B64; 4];
    let load = format!("ld{form}.{name}");
    let folded: String = (0..lanes).map(|i| format!(" mad.lo.u64 $d, $d, 31, %e{i};")).collect();
    let body = format!(".reg .b64 %e<8>; {setup} {load} {list}, [%wide3]; mov.u64 $d, 0;{folded}");
    let ld = row(load, B64, &ins, move |x| {
        let memory = bytes(x);
        fold((0..lanes).map(|i| element(&memory, i, size, is_signed)))
    });
    // What is stored is read back as whole words.
    let store = format!("st{form}.{name}");
    let mut values = String::new();
    for i in 0..lanes {
        values += &format!(" mad.lo.u64 %e{i}, $s3, {}, $s0;", 2 * i + 1);
    }
    let space_of = if space.starts_with("generic") { "" } else { space };
    let dot = if space_of.is_empty() { "" } else { "." };
    let mut back = String::new();
    for i in 0..4 {
        back += &format!(
            " ld{dot}{space_of}.b64 %wide0, [%wide3+{}]; mad.lo.u64 $d, $d, 31, %wide0;",
            8 * i
        );
    }
    let text =
        format!(".reg .b64 %e<8>; {setup}{values} {store} [%wide3], {list}; mov.u64 $d, 0;{back}");
    let st = row(store, B64, &ins, move |x| {
        let mut memory = bytes(x);
        for i in 0..lanes {
            let v = x[3].wrapping_mul(2 * i as u64 + 1).wrapping_add(x[0]);
            let at = i * size as usize;
            memory[at..at + size as usize].copy_from_slice(&v.to_le_bytes()[..size as usize]);
        }
        fold((0..4).map(|i| element(&memory, i, 8, false)))
    });
    vec![ld.body(body), st.body(text)]
}

fn accesses() -> Vec<Row> {
    let mut rows = Vec::new();
    for space in SPACES {
        let suffix = place(space).1;
        for ty in TYPES {
            for (lanes, v) in [(1, ""), (2, ".v2"), (4, ".v4"), (8, ".v8")] {
                if lanes as u32 * ty.1 > 32 || lanes == 8 && ty.1 != 4 {
                    continue;
                }
                rows.extend(load_store(&format!("{suffix}{v}"), space, lanes, ty));
            }
        }
        for order in ["volatile", "relaxed.cta", "relaxed.gpu", "relaxed.sys", "weak"] {
            let form = format!(".{order}{suffix}");
            rows.extend(load_store(&form, space, 1, ("u32", 4, false)));
            rows.extend(load_store(&format!("{form}.v2"), space, 2, ("s16", 2, true)));
        }
    }
    let hint = |form: &str, keep: usize| {
        let mut pair = load_store(form, "global", 1, ("u32", 4, false));
        pair.swap_remove(1 - keep)
    };
    for h in [
        "ca",
        "cg",
        "cs",
        "lu",
        "cv",
        "nc",
        "L1::evict_first",
        "L1::evict_last",
        "L1::no_allocate",
        "L2::64B",
        "L2::128B",
        "L2::256B",
    ] {
        rows.push(hint(&format!(".global.{h}"), 0));
    }
    for h in ["wb", "cg", "cs", "wt", "L1::evict_first", "L1::evict_last", "L1::no_allocate"] {
        rows.push(hint(&format!(".global.{h}"), 1));
    }
    rows.push(hint(".acquire.gpu.global", 0));
    rows.push(hint(".release.gpu.global", 1));
    // 128-bit registers.
    rows.push(row("ld.global.b128", B64, &[B64, B64], |x| x[1].wrapping_sub(x[0])).body(
        ".reg .b128 %q; ld.global.b128 %q, [%in]; mov.b128 {%wide0, %wide1}, %q; \
             sub.u64 $d, %wide1, %wide0;",
    ));
    rows.push(row("st.global.b128", B64, &[B64, B64], |x| x[1]).body(
        ".reg .b128 %q; mov.b128 %q, {$s1, $s0}; st.global.b128 [%in], %q; \
             ld.global.b64 $d, [%in];",
    ));
    rows
}

/// Read-modify-write: the old value, and what memory holds then, in two rows.
fn atomics() -> Vec<Row> {
    type Change = Box<dyn Fn(u64, u64, u64) -> u64>;
    let mut forms: Vec<(String, Kind, Change)> = Vec::new();
    for b in [32u32, 64] {
        let k = Kind::Int(b);
        for (op, f) in [
            ("and", (|a, x, _| a & x) as fn(u64, u64, u64) -> u64),
            ("or", |a, x, _| a | x),
            ("xor", |a, x, _| a ^ x),
            ("exch", |_, x, _| x),
            ("cas", |a, x, y| if a == x { y } else { a }),
        ] {
            forms.push((format!("{op}.b{b}"), k, Box::new(f)));
        }
        for l in ['u', 's'] {
            forms.push((
                format!("add.{l}{b}"),
                k,
                Box::new(move |a, x, _| a.wrapping_add(x) & mask(b)),
            ));
            for (op, max) in [("min", false), ("max", true)] {
                forms.push((
                    format!("{op}.{l}{b}"),
                    k,
                    Box::new(move |a, x, _| {
                        let read = |v| if l == 's' { signed(v, b) } else { i128::from(v) };
                        if (read(a) > read(x)) == max { a } else { x }
                    }),
                ));
            }
        }
    }
    forms.push(("cas.b16".into(), B16, Box::new(|a, x, y| if a == x { y } else { a })));
    forms.push(("inc.u32".into(), B32, Box::new(|a, x, _| if a >= x { 0 } else { a + 1 })));
    forms.push((
        "dec.u32".into(),
        B32,
        Box::new(|a, x, _| if a == 0 || a > x { x } else { a - 1 }),
    ));
    let sum = |f: exact::Fmt| move |a: u64, x: u64| exact::fma(a, f.one(), Some(x), f, Mode::Rn);
    forms.push(("add.f64".into(), F64, Box::new(move |a, x, _| sum(exact::F64)(a, x))));
    for (t, f) in [("f16", exact::F16), ("bf16", exact::BF16)] {
        let one = sum(f);
        forms.push((format!("add.noftz.{t}"), Kind::Float(f), Box::new(move |a, x, _| one(a, x))));
        forms.push((
            format!("add.noftz.{t}x2"),
            Kind::Pair(f),
            Box::new(move |a, x, _| one(a & 0xffff, x & 0xffff) | one(a >> 16, x >> 16) << 16),
        ));
    }
    let mut rows = Vec::new();
    let mut both = |form: &str, space: &str, k: Kind, change: std::rc::Rc<Change>| {
        let b = k.bits();
        let (dot, setup, at) = match space {
            "shared" => (
                ".shared",
                format!(
                    ".shared .align 16 .b8 buf[4096]; mov.u64 %wide3, buf; \
                     mad.wide.u32 %wide3, %tid, 16, %wide3; st.shared.b{b} [%wide3], $s0;"
                ),
                "%wide3",
            ),
            "global" => (".global", String::new(), "%in"),
            _ => ("", String::new(), "%in"),
        };
        let swap = if form.starts_with("cas") { ", $s2" } else { "" };
        let again = change.clone();
        let atom = format!("atom{dot}.{form}");
        rows.push(
            row(atom.clone(), k, &[k, k, k], |x| x[0])
                .body(format!("{setup} {atom} $d, [{at}], $s1{swap};")),
        );
        rows.push(
            row(atom.clone(), k, &[k, k, k], move |x| change(x[0], x[1], x[2]))
                .body(format!("{setup} {atom} $d, [{at}], $s1{swap}; ld{dot}.b{b} $d, [{at}];")),
        );
        if !form.starts_with("cas") && !form.starts_with("exch") {
            let red = format!("red{dot}.{form}");
            rows.push(
                row(red.clone(), k, &[k, k, k], move |x| again(x[0], x[1], x[2]))
                    .body(format!("{setup} {red} [{at}], $s1; ld{dot}.b{b} $d, [{at}];")),
            );
        }
    };
    for (form, k, change) in forms {
        let change = std::rc::Rc::new(change);
        for space in ["global", "shared", ""] {
            both(&form, space, k, change.clone());
        }
    }
    // In global memory, f32 addition flushes; in shared memory it does not.
    for (space, ftz) in [("global", true), ("shared", false), ("", true)] {
        let f = exact::F32;
        let add: Change = Box::new(move |a, x, _| {
            let flush = |v| if ftz { f.flush(v) } else { v };
            flush(exact::fma(flush(a), f.one(), Some(flush(x)), f, Mode::Rn))
        });
        both("add.f32", space, F32, std::rc::Rc::new(add));
    }
    for order in ["relaxed.cta", "acquire.gpu", "release.sys", "acq_rel.gpu"] {
        let add: Change = Box::new(|a, x, _| a.wrapping_add(x) & mask(32));
        let form = format!("atom.{order}.global.add.u32");
        rows.push(
            row(form.clone(), B32, &[B32, B32], move |x| add(x[0], x[1], 0))
                .body(format!("{form} $d, [%in], $s1; ld.global.b32 $d, [%in];")),
        );
    }
    // Sixteen bytes at once.
    let wide = ".reg .b128 %q, %r, %s; mov.b128 %q, {$s2, $s3};";
    for part in 0..4usize {
        let read = [
            "mov.b128 {$d, %wide0}, %r;",
            "mov.b128 {%wide0, $d}, %r;",
            "ld.global.b64 $d, [%in];",
            "ld.global.b64 $d, [%in+8];",
        ][part];
        rows.push(
            row("atom.global.exch.b128", B64, &[B64; 4], move |x| x[part])
                .body(format!("{wide} atom.global.exch.b128 %r, [%in], %q; {read}")),
        );
        // Compared with what is there in even threads, with something else in odd ones.
        rows.push(
            row("atom.global.cas.b128", B64, &[B64; 4], move |x| {
                if part < 2 || x[2] & 1 == 1 { x[part & 1] } else { x[part] }
            })
            .body(format!(
                "{wide} and.b64 %wide1, $s2, 1; xor.b64 %wide1, %wide1, $s1; \
                 mov.b128 %s, {{$s0, %wide1}}; atom.global.cas.b128 %r, [%in], %s, %q; {read}"
            )),
        );
    }
    // Vectors in global memory.
    for (op, max) in [("add", None), ("min", Some(false)), ("max", Some(true))] {
        for (t, f, lanes) in [
            ("f32", exact::F32, 2),
            ("f32", exact::F32, 4),
            ("f16", exact::F16, 2),
            ("f16", exact::F16, 4),
            ("bf16", exact::BF16, 2),
            ("bf16", exact::BF16, 4),
        ] {
            if t == "f32" && max.is_some() {
                continue;
            }
            let z = if t == "f32" { "" } else { ".noftz" };
            let form = format!("red.global.v{lanes}.{t}.{op}{z}");
            let form = if t == "f32" { form } else { format!("red.global.{op}{z}.v{lanes}.{t}") };
            let b = f.bits();
            let list: Vec<_> = (0..lanes).map(|i| format!("%x{i}")).collect();
            let body = format!(
                ".reg .b{b} %x<4>; ld.global.v{lanes}.b{b} {{{0}}}, [%in+16]; \
                 {form} [%in], {{{0}}}; ld.global.b64 $d, [%in]; ld.global.b64 %wide0, [%in+8]; \
                 mad.lo.u64 $d, $d, 31, %wide0;",
                list.join(", ")
            );
            let want = row(form, B64, &[B64; 4], move |x| {
                let mut words = [x[0], x[1]];
                for i in 0..lanes {
                    let (w, shift) = (i * b / 64, i * b % 64);
                    let field = |v: &[u64]| v[w as usize] >> shift & mask(b);
                    let (a, y) = (field(x), field(&x[2..]));
                    let flush = |v| if t == "f32" { f.flush(v) } else { v };
                    let d = match max {
                        None => flush(exact::fma(flush(a), f.one(), Some(flush(y)), f, Mode::Rn)),
                        Some(max) => crate::float::extreme(f, a, y, max, false, false, false),
                    };
                    let word = &mut words[w as usize];
                    *word = *word & !(mask(b) << shift) | d << shift;
                }
                fold(words.into_iter())
            });
            rows.push(want.body(body));
        }
    }
    rows
}

fn addresses() -> Vec<Row> {
    let mut rows = Vec::new();
    let setup = ".shared .b8 s[4]; .local .b8 l[4]; .reg .b64 %g, %sh, %lo, %pa; \
                 mov.u64 %g, %in; mov.u64 %sh, s; cvta.shared.u64 %sh, %sh; \
                 mov.u64 %lo, l; cvta.local.u64 %lo, %lo; \
                 mov.u64 %pa, pin; cvta.param.u64 %pa, %pa;";
    for (i, space) in ["global", "shared", "local", "param"].into_iter().enumerate() {
        let form = format!("isspacep.{space}");
        let mut body = format!("{setup} mov.u32 $d, 0;");
        for (bit, register) in ["%g", "%sh", "%lo", "%pa"].into_iter().enumerate() {
            body += &format!(
                " {form} %p0, {register}; selp.u32 %word0, {}, 0, %p0; or.b32 $d, $d, %word0;",
                1 << bit
            );
        }
        rows.push(row(form, B32, &[B32], move |_| 1u64 << i).body(body));
        // There and back again.
        let form = format!("cvta.to.{space}.u64");
        let register = ["%in", "%sh", "%lo", "%pa"][i];
        let body = format!(
            "{setup} {form} %wide0, {register}; cvta.{space}.u64 %wide0, %wide0; \
             sub.u64 $d, %wide0, {register};"
        );
        rows.push(row(form, B64, &[B32], |_| 0u64).body(body));
    }
    rows.push(row("ld.param.u64", B64, &[B64], |x| x[0]).body(
        "ld.param.u64 %wide0, [pin]; mad.wide.u32 %wide0, %tid, 8, %wide0; \
                 mov.u64 %wide1, pin; cvta.param.u64 %wide1, %wide1; ld.u64 %wide2, [%wide1]; \
                 mad.wide.u32 %wide2, %tid, 8, %wide2; sub.u64 %wide2, %wide2, %wide0; \
                 ld.global.u64 $d, [%wide0]; add.u64 $d, $d, %wide2;",
    ));
    rows
}

pub fn rows() -> Vec<Row> {
    let mut rows = accesses();
    rows.extend(atomics());
    rows.extend(addresses());
    rows
}

#[test]
fn loads_extend_and_stores_write_only_their_bytes() {
    check_all(&accesses());
}

#[test]
fn atomics_give_the_old_value_and_leave_the_new() {
    check_all(&atomics());
}

#[test]
fn generic_addresses_know_their_space() {
    check_all(&addresses());
}
