//! `ldmatrix`, `stmatrix` and `movmatrix` against the PTX ISA's fragment figures typed in,
//! with rows at random places.

mod support;

use proptest::prelude::*;
use ptx_vm::{Error, FaultKind, LaunchConfig, Machine, Module};
use support::*;

const SHARED: usize = 8192;

/// Every lane gives an address; memory comes from p0 and goes back there.
fn kernel(target: &str, registers: usize, instruction: &str, store: bool) -> String {
    let list: Vec<String> = (0..registers).map(|i| format!("%r{i}")).collect();
    let list = format!("{{{}}}", list.join(", "));
    let (mut before, mut after) = (String::new(), String::new());
    for i in 0..registers {
        let at = 4 * i;
        before += &format!("ld.global.b32 %r{i}, [%p2+{at}];\n");
        after += &format!("st.global.b32 [%p2+{at}], %r{i};\n");
    }
    let body = if store {
        format!("{before}{instruction} [%at], {list};\n")
    } else {
        format!("{instruction} {list}, [%at];\n{after}")
    };
    let copy = |load: &str, store: &str, label: &str| {
        format!(
            "mov.u32 %n, 0;\n{label}:\nadd.u32 %s, %n, %lane;\nmad.wide.u32 %o, %s, 4, %p0;\n\
             shl.b32 %s, %s, 2;\nmov.u32 %t, s;\nadd.u32 %s, %s, %t;\n{load}\n{store}\n\
             add.u32 %n, %n, 32;\nsetp.lt.u32 %q, %n, {};\n@%q bra {label};\n",
            SHARED / 4
        )
    };
    format!(
        ".version 9.0\n.target {target}\n.address_size 64\n.visible .entry k(.param .u64 p0, \
         .param .u64 p1, .param .u64 p2)\n{{\n.shared .align 128 .b8 s[{SHARED}];\n\
         .reg .b32 %r<4>, %v, %n, %s, %t, %lane, %at;\n.reg .b64 %p<3>, %o;\n.reg .pred %q;\n\
         mov.u32 %lane, %tid.x;\nld.param.u64 %p0, [p0];\nld.param.u64 %p1, [p1];\n\
         ld.param.u64 %p2, [p2];\nmad.wide.u32 %p1, %lane, 4, %p1;\n\
         mad.wide.u32 %p2, %lane, {}, %p2;\nld.global.b32 %at, [%p1];\nmov.u32 %t, s;\n\
         add.u32 %at, %at, %t;\n{}bar.warp.sync -1;\n{body}bar.warp.sync -1;\n{}ret;\n}}\n",
        4 * registers,
        copy("ld.global.b32 %v, [%o];", "st.shared.b32 [%s], %v;", "fill"),
        copy("ld.shared.b32 %v, [%s];", "st.global.b32 [%o], %v;", "back"),
    )
}

struct Run {
    memory: Vec<u8>,
    registers: Vec<u32>,
}

fn run(ptx: &str, memory: &[u8], addresses: &[u32], registers: &[u32]) -> Result<Run, Error> {
    let module = Module::from_ptx(ptx)?;
    let mut m = Machine::new();
    let (p0, p1, p2) =
        (m.upload(memory)?, upload_u32(&mut m, addresses), upload_u32(&mut m, registers));
    m.launch(&module, "k", &LaunchConfig::new(1, 32), &[p0.into(), p1.into(), p2.into()])?;
    let mut out = vec![0; memory.len()];
    m.read(p0, &mut out)?;
    Ok(Run { memory: out, registers: read_u32(&m, p2, registers.len()) })
}

/// Distinct places of 32 rows of 16 bytes.
fn rows(r: &mut Random) -> Vec<u32> {
    let mut places: Vec<u32> = (0..(SHARED / 16) as u32).map(|i| 16 * i).collect();
    for i in (1..places.len()).rev() {
        places.swap(i, (r.bits() >> 20) as usize % (i + 1));
    }
    places.truncate(32);
    places
}

fn noise(r: &mut Random, n: usize) -> Vec<u8> {
    (0..n).map(|_| (r.bits() >> 23) as u8).collect()
}

/// Where byte `i` of register `r` of lane `l` lies: which lane's row, and its byte.
type Place = fn(l: usize, r: usize, i: usize) -> (usize, usize);

/// 8 × 8 of 16 bits (figure 104): a lane holds elements 2(l mod 4) and the next of row l / 4.
fn plain(l: usize, r: usize, i: usize) -> (usize, usize) {
    (8 * r + l / 4, 2 * (l % 4 * 2 + i / 2) + i % 2)
}

/// The same of the transposed matrix.
fn transposed(l: usize, r: usize, i: usize) -> (usize, usize) {
    (8 * r + l % 4 * 2 + i / 2, 2 * (l / 4) + i % 2)
}

/// 16 × 16 bytes, transposed (figure 105): the first register of a pair holds columns
/// 4(l mod 4) to +3 of row l / 4, the second of row l / 4 + 8; columns are rows of memory.
fn bytes_transposed(l: usize, r: usize, i: usize) -> (usize, usize) {
    (16 * (r / 2) + l % 4 * 4 + i, l / 4 + 8 * (r % 2))
}

/// 16 × 8 bytes, transposed (figure 108): elements 0 and 1 are columns 2(l mod 4) and the
/// next of row l / 4, elements 2 and 3 of row l / 4 + 8; columns are rows of memory.
fn bytes_stored(l: usize, r: usize, i: usize) -> (usize, usize) {
    (8 * r + l % 4 * 2 + i % 2, l / 4 + 8 * (i / 2))
}

#[rustfmt::skip]
const LOADS: &[(&str, &str, usize, Place)] = &[
    ("sm_75", "ldmatrix.sync.aligned.m8n8.x1.shared.b16", 1, plain),
    ("sm_80", "ldmatrix.sync.aligned.m8n8.x2.shared.b16", 2, plain),
    ("sm_90", "ldmatrix.sync.aligned.m8n8.x4.shared.b16", 4, plain),
    ("sm_75", "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16", 1, transposed),
    ("sm_80", "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16", 2, transposed),
    ("sm_121a", "ldmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16", 4, transposed),
    ("sm_120a", "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8", 2, bytes_transposed),
    ("sm_121a", "ldmatrix.sync.aligned.m16n16.x2.trans.shared.b8", 4, bytes_transposed),
];

#[rustfmt::skip]
const STORES: &[(&str, &str, usize, Place)] = &[
    ("sm_90", "stmatrix.sync.aligned.m8n8.x1.shared.b16", 1, plain),
    ("sm_90a", "stmatrix.sync.aligned.m8n8.x2.shared.b16", 2, plain),
    ("sm_121a", "stmatrix.sync.aligned.m8n8.x4.shared.b16", 4, plain),
    ("sm_90", "stmatrix.sync.aligned.m8n8.x1.trans.shared.b16", 1, transposed),
    ("sm_90", "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16", 2, transposed),
    ("sm_90", "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16", 4, transposed),
    ("sm_121a", "stmatrix.sync.aligned.m16n8.x1.trans.shared.b8", 1, bytes_stored),
    ("sm_121a", "stmatrix.sync.aligned.m16n8.x2.trans.shared.b8", 2, bytes_stored),
    ("sm_120a", "stmatrix.sync.aligned.m16n8.x4.trans.shared.b8", 4, bytes_stored),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..Default::default() })]

    #[test]
    fn matrices_are_loaded_as_the_figures_show(seed in any::<u64>()) {
        for (target, text, n, place) in LOADS {
            let mut r = Random::new(seed);
            let (memory, at) = (noise(&mut r, SHARED), rows(&mut r));
            let ptx = kernel(target, *n, text, false);
            let got = run(&ptx, &memory, &at, &vec![0; 32 * n]).unwrap_or_else(|e| panic!("{e}"));
            for (lane, regs) in got.registers.chunks(*n).enumerate() {
                for (r, word) in regs.iter().enumerate() {
                    for (i, byte) in word.to_le_bytes().into_iter().enumerate() {
                        let (row, col) = place(lane, r, i);
                        let want = memory[at[row] as usize + col];
                        prop_assert_eq!(byte, want, "{} lane {} r{} byte {}", text, lane, r, i);
                    }
                }
            }
        }
    }

    #[test]
    fn matrices_are_stored_as_the_figures_show(seed in any::<u64>()) {
        for (target, text, n, place) in STORES {
            let mut r = Random::new(seed);
            let (memory, at) = (noise(&mut r, SHARED), rows(&mut r));
            let words: Vec<u32> = (0..32 * n).map(|_| r.bits() as u32).collect();
            let ptx = kernel(target, *n, text, true);
            let got = run(&ptx, &memory, &at, &words).unwrap_or_else(|e| panic!("{e}"));
            let mut want = memory;
            for (lane, regs) in words.chunks(*n).enumerate() {
                for (r, word) in regs.iter().enumerate() {
                    for (i, byte) in word.to_le_bytes().into_iter().enumerate() {
                        let (row, col) = place(lane, r, i);
                        want[at[row] as usize + col] = byte;
                    }
                }
            }
            prop_assert!(got.memory == want, "{}", text);
        }
    }

    #[test]
    fn movmatrix_transposes_between_lanes(seed in any::<u64>()) {
        let mut r = Random::new(seed);
        let words: Vec<u32> = (0..32).map(|_| r.bits() as u32).collect();
        let ptx = ".version 9.0\n.target sm_75\n.address_size 64\n.visible .entry k(.param .u64 p0, \
                   .param .u64 p1, .param .u64 p2)\n{\n.reg .b32 %a, %d, %t;\n.reg .b64 %p;\n\
                   mov.u32 %t, %tid.x;\nld.param.u64 %p, [p2];\nmad.wide.u32 %p, %t, 4, %p;\n\
                   ld.global.b32 %a, [%p];\nmovmatrix.sync.aligned.m8n8.trans.b16 %d, %a;\n\
                   st.global.b32 [%p], %d;\nret;\n}\n";
        let got = run(ptx, &[0; 4], &[0; 32], &words).unwrap_or_else(|e| panic!("{e}"));
        let element = |w: &[u32], row: usize, col: usize| w[4 * row + col / 2] >> (16 * (col % 2)) & 0xffff;
        for row in 0..8 {
            for col in 0..8 {
                prop_assert_eq!(element(&got.registers, row, col), element(&words, col, row));
            }
        }
    }
}

#[test]
fn rows_must_be_aligned_inside_and_on_a_target_that_has_them() {
    let text = "ldmatrix.sync.aligned.m8n8.x4.shared.b16";
    let memory = vec![7; SHARED];
    let fault = |at: u32| {
        let mut rows: Vec<u32> = (0..32).map(|i| 16 * i).collect();
        rows[9] = at;
        match run(&kernel("sm_80", 4, text, false), &memory, &rows, &[0; 128]) {
            Err(Error::Fault(f)) => (f.kind, f.thread),
            _ => panic!("no fault"),
        }
    };
    let (kind, thread) = fault(8);
    assert!(matches!(kind, FaultKind::Misaligned { .. }) && thread == Some([9, 0, 0]), "{kind}");
    let (kind, thread) = fault(SHARED as u32);
    assert!(matches!(kind, FaultKind::OutOfBounds { .. }) && thread == Some([9, 0, 0]), "{kind}");
    for (target, text, registers, store) in [
        ("sm_70", text, 4, false),
        ("sm_80", "stmatrix.sync.aligned.m8n8.x4.shared.b16", 4, true),
        ("sm_121", "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8", 2, false),
        ("sm_90a", "stmatrix.sync.aligned.m16n8.x1.trans.shared.b8", 1, true),
    ] {
        let ptx = kernel(target, registers, text, store);
        assert!(matches!(Module::from_ptx(&ptx), Err(Error::IllegalForTarget { .. })), "{text}");
    }
    for (text, registers) in [
        ("ldmatrix.sync.aligned.m16n16.x1.shared.b8", 2),
        ("ldmatrix.sync.aligned.m16n16.x4.trans.shared.b8", 4),
        ("ldmatrix.sync.aligned.m8n8.x4.shared.b8", 4),
        ("ldmatrix.sync.aligned.m8n8.x4.shared.b16", 2),
    ] {
        let ptx = kernel("sm_121a", registers, text, false);
        assert!(matches!(Module::from_ptx(&ptx), Err(Error::Unsupported { .. })), "{text}");
    }
}
