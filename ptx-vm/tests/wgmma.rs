//! `wgmma`: products against exact integer arithmetic, operands in shared memory where the
//! PTX ISA's tables of canonical layouts put them, and what the checker says of misuse.

mod support;

use proptest::prelude::*;
use ptx_vm::{Arithmetic, Error, FaultKind, LaunchConfig, Machine, Module};
use support::exact::{self, *};
use support::wgmma::*;
use support::*;

fn launch(
    ptx: &str,
    x: &Data,
    a: u64,
    b: u64,
    accumulate: bool,
    arithmetic: Arithmetic,
) -> Result<Vec<u32>, Error> {
    let module = Module::from_ptx(ptx)?;
    let mut m = Machine::new();
    m.set_arithmetic(arithmetic);
    let image = m.upload(&x.image)?;
    let (a_regs, d) = (upload_u32(&mut m, &x.a), upload_u32(&mut m, &x.d));
    let args =
        [image.into(), a_regs.into(), d.into(), a.into(), b.into(), u32::from(accumulate).into()];
    m.launch(&module, "k", &LaunchConfig::new(1, 128), &args)?;
    Ok(read_u32(&m, d, x.d.len()))
}

/// Element `i` of D of a thread (figure "WGMMA .m64nNk16 register fragment layout for
/// accumulator matrix D").
fn d_table(thread: usize, i: usize) -> (usize, usize) {
    let (warp, g, t) = (thread / 32, thread % 32 / 4, thread % 4);
    (16 * warp + g + if i % 4 >= 2 { 8 } else { 0 }, i / 4 * 8 + t * 2 + (i & 1))
}

/// Element `i` of A of a thread (figures of m64nNk16, k8 and k32).
fn a_table(thread: usize, i: usize, bytes: usize) -> (usize, usize) {
    let (warp, g, t) = (thread / 32, thread % 32 / 4, thread % 4);
    let (row, col) = match bytes {
        2 => (
            if i < 2 || (4..6).contains(&i) { g } else { g + 8 },
            t * 2 + (i & 1) + if i >= 4 { 8 } else { 0 },
        ),
        4 => (if i == 0 || i == 2 { g } else { g + 8 }, if i < 2 { t } else { t + 4 }),
        _ => (
            if i < 4 || (8..12).contains(&i) { g } else { g + 8 },
            t * 4 + (i & 3) + if i >= 8 { 16 } else { 0 },
        ),
    };
    (16 * warp + row, col)
}

fn check(c: &Case, arithmetic: Arithmetic) -> Result<(), TestCaseError> {
    let x = data(c);
    let ptx = kernel("sm_90a", c.registers(), c.d, &around(&c.text()));
    let a_desc = c.a.as_ref().map_or(0, Placed::descriptor);
    let got = launch(&ptx, &x, a_desc, c.b.descriptor(), c.accumulate, arithmetic);
    let got = got.unwrap_or_else(|e| panic!("{e}\n{c:?}\n{}", c.text()));
    let k = c.k();
    let mut a = vec![ZERO; 64 * k];
    match &c.a {
        Some(p) => p.elements().for_each(|(l, j)| a[l * k + j] = p.value(&x.image, l, j)),
        None => {
            let bytes: Vec<u8> = x.a.iter().flat_map(|w| w.to_le_bytes()).collect();
            let size = c.a_type.bytes;
            for (thread, regs) in bytes.chunks(16).enumerate() {
                for (i, b) in regs.chunks(size).enumerate() {
                    let (row, col) = a_table(thread, i, size);
                    a[row * k + col] = code(b, c.a_type);
                }
            }
        }
    }
    let (d_type, bits) = match c.d {
        "f32" => (F32, 32),
        "f16" => (F16, 16),
        _ => (Type::Signed(32), 32),
    };
    let per = 32 / bits;
    for thread in 0..128 {
        for i in 0..c.registers() * per {
            let (row, col) = d_table(thread, i);
            let field = |words: &[u32]| {
                words[thread * c.registers() + i / per] >> (i % per * bits)
                    & (u32::MAX >> (32 - bits))
            };
            let before = if c.accumulate { d_type.decode(field(&x.d)) } else { ZERO };
            let pairs: Vec<(Value, Value)> = (0..k)
                .map(|j| {
                    let (p, q) = (a[row * k + j], c.b.value(&x.image, col, j));
                    (
                        if c.negate.0 { p.negated() } else { p },
                        if c.negate.1 { q.negated() } else { q },
                    )
                })
                .collect();
            let want = match (c.d, arithmetic) {
                ("s32", _) => integer(before, &pairs, c.saturate),
                (_, Arithmetic::Exact) => {
                    let terms: Vec<Value> =
                        pairs.iter().map(|(p, q)| p.times(*q)).chain([before]).collect();
                    exact::exact(&terms, d_type)
                }
                _ => hardware(c, before, &pairs, d_type),
            };
            prop_assert_eq!(field(&got), want, "{}: row {} column {}\n{:?}", c.text(), row, col, c);
        }
    }
    Ok(())
}

fn integer(c: Value, pairs: &[(Value, Value)], saturate: bool) -> u32 {
    let int = |v: Value| match v {
        Value::Finite { negative: true, magnitude, .. } => -(magnitude as i64),
        Value::Finite { magnitude, .. } => magnitude as i64,
        _ => panic!("an integer"),
    };
    let sum = int(c) + pairs.iter().map(|(p, q)| int(*p) * int(*q)).sum::<i64>();
    if saturate { sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32 } else { sum as u32 }
}

fn hardware(c: &Case, before: Value, pairs: &[(Value, Value)], d: Type) -> u32 {
    let (fraction, output) = if c.a_type.bytes == 1 { (13, 13) } else { (25, 23) };
    let (min_a, min_b) = (c.a_type.ty.min_exponent(), c.b.operand.ty.min_exponent());
    let mut terms = vec![(before, before.leading(d.min_exponent()))];
    for (p, q) in pairs {
        terms.push((p.times(*q), p.leading(min_a) + q.leading(min_b)));
    }
    cut(&terms, fraction, output, d)
}

#[test]
fn every_type_layout_and_swizzle_gives_the_exact_product() {
    let config = ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() };
    for index in 0..TYPES.len() {
        proptest!(config.clone(), |(seed in any::<u64>())| {
            check(&draw(seed, index), Arithmetic::Exact)?;
        });
    }
}

#[test]
fn products_are_cut_as_hopper_does() {
    let config = ProptestConfig { cases: 6, failure_persistence: None, ..Default::default() };
    for index in 0..TYPES.len() {
        proptest!(config.clone(), |(seed in any::<u64>())| {
            check(&draw(seed, index), Arithmetic::Hardware)?;
        });
    }
}

/// The examples that the ISA works out, with its parameters and its exact layouts.
#[test]
fn the_isa_examples_of_canonical_layouts_are_reproduced() {
    #[allow(clippy::type_complexity)]
    #[rustfmt::skip]
    let examples: &[(&str, Operand, bool, usize, usize, usize, Modes, Modes)] = &[
        ("K major, no swizzle, tf32", TENSOR, false, 0, 64 * 4, 32 * 4,
            [(8, 4), (2, 32), (1, 0)], [(4, 1), (4, 64), (1, 0)]),
        ("K major, 32B, tf32", TENSOR, false, 1, 16, 64 * 4,
            [(8, 8), (2, 64), (1, 0)], [(4, 1), (4, 4), (1, 0)]),
        ("MN major, no swizzle, bf16", BRAIN, true, 0, 128 * 2, 64 * 2,
            [(8, 1), (1, 8), (2, 64)], [(8, 8), (2, 128), (1, 0)]),
        ("MN major, 32B, bf16", BRAIN, true, 1, 128 * 2, 256 * 2,
            [(8, 1), (2, 8), (2, 128)], [(8, 16), (2, 256), (1, 0)]),
        ("MN major, 64B, bf16", BRAIN, true, 2, 256 * 2, 512 * 2,
            [(8, 1), (4, 8), (2, 256)], [(8, 32), (2, 512), (1, 0)]),
    ];
    for (name, operand, mn_major, swizzle, leading, stride, mn, k) in examples {
        let p = Placed {
            operand: *operand,
            lines: 8,
            k: 8,
            mn_major: *mn_major,
            swizzle: SWIZZLES[*swizzle],
            start: 0,
            inside: 0,
            leading: *leading,
            stride: *stride,
        };
        let size = |m: &Modes| m.iter().map(|x| x.0).product::<usize>();
        let (our_mn, our_k) = p.modes();
        (0..size(mn)).for_each(|i| assert_eq!(walk(&our_mn, i), walk(mn, i), "{name}: {i}"));
        (0..size(k)).for_each(|i| assert_eq!(walk(&our_k, i), walk(k, i), "{name}: k {i}"));
    }
}

/// A plain case: bf16, n = 16, both operands without swizzle.
fn plain() -> Case {
    let at = |lines, start| Placed {
        operand: BRAIN,
        lines,
        k: 16,
        mn_major: false,
        swizzle: SWIZZLES[0],
        start,
        inside: 0,
        leading: 128 * lines / 8,
        stride: 128,
    };
    Case {
        d: "f32",
        n: 16,
        a: Some(at(64, BASE)),
        a_type: BRAIN,
        b: at(16, BASE + 8192),
        negate: (false, false),
        accumulate: true,
        saturate: false,
        seed: 1,
    }
}

/// Runs a body with the plain case's data; the fault, and the text of the line it names.
fn fault_of(body: &str) -> Option<(FaultKind, String)> {
    let c = plain();
    let ptx = kernel("sm_90a", c.registers(), c.d, body);
    let b = c.b.descriptor();
    let a = c.a.as_ref().map_or(0, Placed::descriptor);
    match launch(&ptx, &data(&c), a, b, true, Arithmetic::Exact) {
        Ok(_) => None,
        Err(Error::Fault(f)) => {
            let line = ptx.lines().nth(f.line as usize - 1).unwrap_or("").to_string();
            Some((f.kind, line))
        }
        Err(e) => panic!("{e}\n{ptx}"),
    }
}

const READY: &str = "fence.proxy.async.shared::cta;\nbar.sync 0;\n";
const FENCE: &str = "wgmma.fence.sync.aligned;\n";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;\n";
const WAIT: &str = "wgmma.wait_group.sync.aligned 0;\n";

#[test]
fn a_correct_program_is_clean() {
    let mma = plain().text();
    assert_eq!(fault_of(&around(&mma)), None);
    // Several in a row on the same accumulators need no wait between them.
    assert_eq!(fault_of(&around(&format!("{mma}\n{mma}"))), None);
    // Copies of accumulators in progress, as compilers make at the head of a loop, are in
    // progress too.
    let copy = format!("{mma}\nmov.b32 %v0, %d0;");
    let use_it = "add.u32 %v1, %v0, 1;\n";
    assert_eq!(fault_of(&(around(&copy) + use_it)), None);
    let (kind, line) = fault_of(&around(&format!("{copy}\n{use_it}"))).expect("a fault");
    assert!(matches!(kind, FaultKind::PendingMma { access: "read", .. }), "{kind}");
    assert!(line.starts_with("add.u32"));
}

#[test]
fn reading_accumulators_before_the_wait_is_reported() {
    let mma = plain().text();
    for body in [
        format!("{READY}{FENCE}{mma}\n"),
        format!("{READY}{FENCE}{mma}\n{COMMIT}"),
        // The wait leaves one group out.
        format!("{READY}{FENCE}{mma}\n{COMMIT}{mma}\n{COMMIT}wgmma.wait_group.sync.aligned 1;\n"),
    ] {
        let (kind, line) = fault_of(&body).expect("a fault");
        let FaultKind::PendingMma { access: "read", what, .. } = kind else { panic!("{kind}") };
        assert_eq!(what, "register `%d0`");
        assert!(line.starts_with("st.global.b32 [%p2+0]"), "{line}");
    }
}

#[test]
fn arithmetic_on_accumulators_before_the_wait_is_reported() {
    let mma = plain().text();
    let body = format!("{READY}{FENCE}{mma}\n{COMMIT}add.f32 %d3, %d3, %d3;\n{WAIT}");
    let (kind, line) = fault_of(&body).expect("a fault");
    assert!(matches!(kind, FaultKind::PendingMma { access: "read", .. }), "{kind}");
    assert!(line.starts_with("add.f32 %d3"));
}

#[test]
fn writing_accumulators_or_a_before_the_wait_is_reported() {
    let mma = plain().text();
    let body = format!("{READY}{FENCE}{mma}\n{COMMIT}mov.f32 %d5, 0f00000000;\n{WAIT}");
    let (kind, line) = fault_of(&body).expect("a fault");
    let FaultKind::PendingMma { access: "write", what, .. } = kind else { panic!("{kind}") };
    assert_eq!((what.as_str(), line.starts_with("wgmma.wait_group")), ("register `%d5`", true));

    let mut c = plain();
    c.a = None;
    let body = format!("{READY}{FENCE}{}\n{COMMIT}add.u32 %a2, %a2, 1;\n{WAIT}", c.text());
    let (kind, _) = fault_of(&body).expect("a fault");
    let FaultKind::PendingMma { access: "write", what, .. } = kind else { panic!("{kind}") };
    assert_eq!(what, "register `%a2`");
}

#[test]
fn overwriting_shared_operands_before_the_wait_is_reported() {
    let mma = plain().text();
    let store = "st.shared.b32 [s+8196], %a0;\n";
    let body = format!("{READY}{FENCE}{mma}\n{COMMIT}{store}{WAIT}");
    let (kind, line) = fault_of(&body).expect("a fault");
    let FaultKind::PendingMma { access: "write", what, issued_line } = kind else {
        panic!("{kind}")
    };
    assert_eq!(what, format!("shared address {:#x}", BASE + 8196));
    assert!(line.starts_with("st.shared.b32") && issued_line > 0);
    // After the wait of this warp another may still read: a barrier must come first.
    let body = format!("{READY}{FENCE}{mma}\n{COMMIT}{WAIT}setp.eq.u32 %q, %t, 64;\n@%q {store}");
    let (kind, _) = fault_of(&body).expect("a fault");
    assert!(matches!(kind, FaultKind::PendingMma { .. } | FaultKind::Race { .. }), "{kind}");
    let body = format!(
        "{READY}{FENCE}{mma}\n{COMMIT}{WAIT}bar.sync 0;\nsetp.eq.u32 %q, %t, 64;\n@%q {store}"
    );
    assert_eq!(fault_of(&body), None);
}

#[test]
fn missing_fences_and_barriers_are_reported() {
    let mma = plain().text();
    let (kind, line) = fault_of(&format!("{READY}{mma}\n{COMMIT}{WAIT}")).expect("a fault");
    assert!(matches!(kind, FaultKind::BarrierMisuse(_)) && line.starts_with("wgmma.mma"), "{kind}");
    // No proxy fence: the stores may not be visible.
    let (kind, line) =
        fault_of(&format!("bar.sync 0;\n{FENCE}{mma}\n{COMMIT}{WAIT}")).expect("a fault");
    assert!(
        matches!(kind, FaultKind::ProxyFence { .. }) && line.starts_with("wgmma.mma"),
        "{kind}"
    );
    // A fence after the barrier covers what the barrier ordered.
    let fence = "fence.proxy.async.shared::cta;\n";
    assert_eq!(fault_of(&format!("bar.sync 0;\n{fence}{FENCE}{mma}\n{COMMIT}{WAIT}")), None);
    // No barrier: other warps' stores are not ordered.
    let (kind, _) = fault_of(&format!("{fence}{FENCE}{mma}\n{COMMIT}{WAIT}")).expect("a fault");
    assert!(
        matches!(kind, FaultKind::Race { .. } | FaultKind::UninitialisedMemory { .. }),
        "{kind}"
    );
}

#[test]
fn all_warps_of_a_warpgroup_must_take_part() {
    let mma = plain().text();
    let last = "setp.ge.u32 %q, %t, 96;\n";
    let body = format!("{READY}{FENCE}{last}@%q bra over;\n{mma}\nover:\n{COMMIT}{WAIT}");
    let (kind, _) = fault_of(&body).expect("a fault");
    assert!(matches!(kind, FaultKind::BarrierMisuse(_)), "{kind}");
    let body = format!("{READY}{last}@%q exit;\n{FENCE}{mma}\n{COMMIT}{WAIT}");
    let (kind, line) = fault_of(&body).expect("a fault");
    assert!(
        matches!(kind, FaultKind::BarrierMisuse(_)) && line.starts_with("wgmma.fence"),
        "{kind}"
    );
    // Descriptors must be the same in all of them.
    let other = "setp.lt.u32 %q, %t, 32;\n@%q add.s64 %db, %db, 16;\n";
    let (kind, _) = fault_of(&format!("{READY}{other}{FENCE}{mma}\n{COMMIT}{WAIT}")).expect("one");
    assert!(kind.to_string().contains("descriptors differ"), "{kind}");
}

#[test]
fn only_sm_90a_has_it() {
    let c = plain();
    for target in ["sm_90", "sm_100a", "sm_121a", "sm_80"] {
        let ptx = kernel(target, c.registers(), c.d, &around(&c.text()));
        assert!(matches!(Module::from_ptx(&ptx), Err(Error::IllegalForTarget { .. })), "{target}");
    }
    for wrong in [
        c.text().replace("n16k16", "n12k16"),
        c.text().replace("n16k16", "n264k16"),
        c.text().replace("k16", "k8"),
        c.text().replace("f32.bf16", "f16.bf16"),
        c.text().replace(", 1, 1, 0, 0;", ", 1, 2, 0, 0;"),
        c.text().replace(", 1, 1, 0, 0;", ", 1, 1, 0;"),
        c.text().replace(".aligned", ""),
    ] {
        let ptx = kernel("sm_90a", c.registers(), c.d, &around(&wrong));
        assert!(matches!(Module::from_ptx(&ptx), Err(Error::Unsupported { .. })), "{wrong}");
    }
}

fn registers(body: &str) -> Result<(), Error> {
    let ptx = format!(
        ".version 9.0\n.target sm_90a\n.address_size 64\n.visible .entry k()\n.maxntid 384\n\
         .maxnreg 168\n{{\n.reg .b32 %t;\n.reg .pred %p;\nmov.u32 %t, %tid.x;\n\
         setp.lt.u32 %p, %t, 128;\n@%p bra producer;\n{body}\nproducer:\n\
         setmaxnreg.dec.sync.aligned.u32 40;\nret;\n}}\n"
    );
    let module = Module::from_ptx(&ptx)?;
    Machine::new().launch(&module, "k", &LaunchConfig::new(1, 384), &[]).map(|_| ())
}

#[test]
fn setmaxnreg_moves_registers_between_warpgroups() {
    // 168 · 384 = 40 · 128 + 232 · 256: the consumers wait for the producer's registers.
    registers("setmaxnreg.inc.sync.aligned.u32 232;\nret;").expect("they fit");
    let Err(Error::Fault(f)) = registers("setmaxnreg.inc.sync.aligned.u32 240;\nret;") else {
        panic!("240 do not fit");
    };
    assert!(matches!(f.kind, FaultKind::Deadlock(_)), "{f}");
    let Err(Error::Fault(f)) = registers("setmaxnreg.dec.sync.aligned.u32 200;\nret;") else {
        panic!("200 is more than 168");
    };
    assert!(matches!(f.kind, FaultKind::InvalidOperand(_)), "{f}");
    let odd = registers("setmaxnreg.inc.sync.aligned.u32 100;\nret;");
    assert!(matches!(odd, Err(Error::Unsupported { .. })));
}
