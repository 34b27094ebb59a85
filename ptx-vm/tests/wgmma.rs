//! `wgmma`: products against exact integer arithmetic, operands in shared memory where the
//! PTX ISA's tables of canonical layouts put them, and what the checker says of misuse.

mod support;

use proptest::prelude::*;
use ptx_vm::{Arithmetic, Error, FaultKind, LaunchConfig, Machine, Module};
use support::exact::{self, *};
use support::*;

/// Bytes of the kernels' shared memory, all filled by the host.
const SHARED: usize = 48 << 10;
/// Where shared variables of a kernel start: the machine keeps the first KiB for itself.
const BASE: usize = 1024;

/// An element type.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Operand {
    name: &'static str,
    bytes: usize,
    ty: Type,
}

const HALF: Operand = Operand { name: "f16", bytes: 2, ty: F16 };
const BRAIN: Operand = Operand { name: "bf16", bytes: 2, ty: BF16 };
/// The low 13 bits of the register are not looked at.
const TENSOR: Operand = Operand { name: "tf32", bytes: 4, ty: TF32 };
const P8: Operand = Operand { name: "e4m3", bytes: 1, ty: E4M3 };
const Q8: Operand = Operand { name: "e5m2", bytes: 1, ty: E5M2 };
const S8: Operand = Operand { name: "s8", bytes: 1, ty: Type::Signed(8) };
const U8: Operand = Operand { name: "u8", bytes: 1, ty: Type::Unsigned(8) };

const TYPES: &[(&str, Operand, Operand)] = &[
    ("f32", HALF, HALF),
    ("f16", HALF, HALF),
    ("f32", BRAIN, BRAIN),
    ("f32", TENSOR, TENSOR),
    ("f32", P8, P8),
    ("f32", P8, Q8),
    ("f16", Q8, P8),
    ("f32", Q8, Q8),
    ("s32", S8, S8),
    ("s32", U8, S8),
    ("s32", S8, U8),
    ("s32", U8, U8),
];

/// Swizzling modes by the bits of `Swizzle<B, 4, 3>` and their code in the descriptor.
const SWIZZLES: [(u32, u64); 4] = [(0, 0), (1, 3), (2, 2), (3, 1)];

/// A layout of the ISA's table: nested shapes and strides, in elements.
type Modes = [(usize, usize); 3];

fn walk(modes: &Modes, mut i: usize) -> usize {
    let mut at = 0;
    for (shape, stride) in modes {
        at += i % shape * stride;
        i /= shape;
    }
    at
}

/// One matrix in shared memory.
#[derive(Debug, Clone)]
struct Placed {
    operand: Operand,
    /// Rows of A or columns of B.
    lines: usize,
    k: usize,
    mn_major: bool,
    swizzle: (u32, u64),
    /// Byte offsets; `start` is where the pattern starts, `inside` how far into it.
    start: usize,
    inside: usize,
    leading: usize,
    stride: usize,
}

impl Placed {
    /// The ISA's table "canonical layouts": modes along M or N, and along K.
    fn modes(&self) -> (Modes, Modes) {
        let b = self.operand.bytes;
        let t = 16 / b;
        let (lbo, sbo) = (self.leading / b, self.stride / b);
        let rest = usize::MAX;
        match (self.mn_major, self.swizzle.0) {
            (true, 0) => ([(t, 1), (1, t), (rest, sbo)], [(8, t), (rest, lbo), (1, 0)]),
            (true, 1) => ([(t, 1), (2, t), (rest, lbo)], [(8, 2 * t), (rest, sbo), (1, 0)]),
            (true, 2) => ([(t, 1), (4, t), (rest, lbo)], [(8, 4 * t), (rest, sbo), (1, 0)]),
            (true, _) => ([(t, 1), (8, t), (rest, lbo)], [(8, 8 * t), (rest, sbo), (1, 0)]),
            (false, 0) => ([(8, t), (rest, sbo), (1, 0)], [(t, 1), (rest, lbo), (1, 0)]),
            (false, 1) => ([(8, 2 * t), (rest, sbo), (1, 0)], [(t, 1), (rest, t), (1, 0)]),
            (false, 2) => ([(8, 4 * t), (rest, sbo), (1, 0)], [(t, 1), (rest, t), (1, 0)]),
            (false, _) => ([(8, 8 * t), (rest, sbo), (1, 0)], [(t, 1), (rest, t), (1, 0)]),
        }
    }

    /// The byte address of an element.
    fn address(&self, line: usize, j: usize) -> usize {
        let (mn, k) = self.modes();
        let offset = (walk(&mn, line) + walk(&k, j)) * self.operand.bytes + self.inside;
        // Swizzle<B, 4, 3> within the repeating pattern: bits 4 and up change by those from 7.
        let bits = (1 << self.swizzle.0) - 1;
        self.start + (offset ^ (offset >> 7 & bits) << 4)
    }

    /// (x & 0x3FFFF) >> 4 of each field; base offset = (pattern start >> 7) & 7.
    fn descriptor(&self) -> u64 {
        let encode = |x: usize| (x as u64 & 0x3_ffff) >> 4;
        let base = if self.swizzle.0 == 0 { 0 } else { self.start as u64 >> 7 & 7 };
        // The base offset's meaning for patterns that repeat more often is the same field.
        encode(self.start + self.inside)
            | encode(self.leading) << 16
            | encode(self.stride) << 32
            | base << 49
            | self.swizzle.1 << 62
    }

    fn elements(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.lines).flat_map(|l| (0..self.k).map(move |j| (l, j)))
    }

    /// One past the last byte.
    fn end(&self) -> usize {
        self.elements().map(|(l, j)| self.address(l, j)).max().expect("elements") + 4
    }

    fn value(&self, image: &[u8], line: usize, j: usize) -> Value {
        let at = self.address(line, j) - BASE;
        code(&image[at..at + self.operand.bytes], self.operand)
    }
}

fn code(bytes: &[u8], o: Operand) -> Value {
    let word = bytes.iter().rev().fold(0u32, |v, b| v << 8 | u32::from(*b));
    o.ty.decode(if o.bytes == 4 { word >> 13 } else { word })
}

/// Fills shared memory, runs `body`, stores D.
fn kernel(target: &str, registers: usize, ty: &str, body: &str) -> String {
    let reg = if ty == "f32" { ".f32" } else { ".b32" };
    let mut move_d = String::new();
    for i in 0..registers {
        move_d += &format!("ld.global.b32 %d{i}, [%p2+{}];\n", 4 * i);
    }
    let mut store_d = String::new();
    for i in 0..registers {
        store_d += &format!("st.global.b32 [%p2+{}], %d{i};\n", 4 * i);
    }
    format!(
        ".version 9.0\n.target {target}\n.address_size 64\n.visible .entry k(.param .u64 p0, \
         .param .u64 p1, .param .u64 p2, .param .u64 p3, .param .u64 p4, .param .u32 p5)\n{{\n\
         .shared .align 1024 .b8 s[{SHARED}];\n.reg .b32 %a<4>, %t, %n, %v<4>, %at;\n\
         .reg {reg} %d<{registers}>;\n.reg .b64 %p<5>, %o, %da, %db;\n.reg .pred %q, %z, %u;\n\
         mov.u32 %t, %tid.x;\nld.param.u64 %p0, [p0];\nld.param.u64 %p1, [p1];\n\
         ld.param.u64 %p2, [p2];\nld.param.u64 %da, [p3];\nld.param.u64 %db, [p4];\n\
         ld.param.u32 %n, [p5];\nsetp.ne.u32 %z, %n, 0;\n\
         mul.wide.u32 %o, %t, 16;\nadd.s64 %p0, %p0, %o;\nadd.s64 %p1, %p1, %o;\n\
         mul.wide.u32 %o, %t, {};\nadd.s64 %p2, %p2, %o;\nmov.u32 %at, s;\nshl.b32 %n, %t, 4;\n\
         add.u32 %at, %at, %n;\nmov.u32 %n, 0;\n\
         fill:\nld.global.v4.b32 {{%v0, %v1, %v2, %v3}}, [%p0];\n\
         st.shared.v4.b32 [%at], {{%v0, %v1, %v2, %v3}};\nadd.s64 %p0, %p0, 2048;\n\
         add.u32 %at, %at, 2048;\nadd.u32 %n, %n, 2048;\nsetp.lt.u32 %q, %n, {SHARED};\n\
         @%q bra fill;\n\
         ld.global.v4.b32 {{%a0, %a1, %a2, %a3}}, [%p1];\n{move_d}{body}{store_d}ret;\n}}\n",
        4 * registers
    )
}

/// What orders the host's bytes before the multiplication, and it before what follows.
fn around(mma: &str) -> String {
    format!(
        "fence.proxy.async.shared::cta;\nbar.sync 0;\nwgmma.fence.sync.aligned;\n{mma}\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n"
    )
}

fn list(name: &str, n: usize) -> String {
    let all: Vec<String> = (0..n).map(|i| format!("%{name}{i}")).collect();
    format!("{{{}}}", all.join(", "))
}

/// One multiplication.
#[derive(Debug, Clone)]
struct Case {
    d: &'static str,
    n: usize,
    a: Option<Placed>,
    a_type: Operand,
    b: Placed,
    negate: (bool, bool),
    accumulate: bool,
    saturate: bool,
    seed: u64,
}

impl Case {
    fn k(&self) -> usize {
        32 / self.a_type.bytes
    }

    fn registers(&self) -> usize {
        self.n / if self.d == "f16" { 4 } else { 2 }
    }

    fn text(&self) -> String {
        let sat = if self.saturate { ".satfinite" } else { "" };
        let mut out = format!(
            "wgmma.mma_async.sync.aligned.m64n{}k{}{sat}.{}.{}.{} {}, {}, %db, %z",
            self.n,
            self.k(),
            self.d,
            self.a_type.name,
            self.b.operand.name,
            list("d", self.registers()),
            if self.a.is_some() { "%da".to_string() } else { list("a", 4) },
        );
        let sign = |n: bool| if n { -1 } else { 1 };
        if self.d != "s32" {
            out += &format!(", {}, {}", sign(self.negate.0), sign(self.negate.1));
        }
        if self.a_type.bytes == 2 {
            if let Some(a) = &self.a {
                out += &format!(", {}", u32::from(a.mn_major));
            }
            out += &format!(", {}", u32::from(self.b.mn_major));
        }
        out + ";"
    }
}

/// Draws where a matrix lies, from `start` on.
fn place(r: &mut Random, operand: Operand, lines: usize, from: usize) -> Placed {
    let pick = |r: &mut Random, n: usize| (r.bits() >> 20) as usize % n;
    let k = 32 / operand.bytes;
    let swizzle = SWIZZLES[pick(r, 4)];
    let mn_major = operand.bytes == 2 && pick(r, 2) == 1;
    let span = 16 << swizzle.0;
    let pattern = 8 * span;
    let pieces = lines / 8;
    // Strides that keep pieces apart, in whole patterns where there is a pattern.
    let (leading, stride) = match (mn_major, swizzle.0) {
        (false, 0) => (128 * (1 + pick(r, 2)) * pieces.max(1), 128),
        (false, _) => (16 * pick(r, 100), pattern * (1 + pick(r, 2) * usize::from(lines <= 64))),
        (true, 0) => (128 * (1 + pick(r, 2)) * pieces.max(1), 128),
        // Two groups of eight along k, then the next piece along the lines.
        (true, _) => (2 * pattern, pattern),
    };
    // Patterns may start on any 128 bytes, and K slices inside them.
    let unit = if swizzle.0 == 0 { 16 } else { 128 };
    let start = from.next_multiple_of(1024) + unit * pick(r, 1 + 896 / 128);
    let inside = if !mn_major && swizzle.0 >= 2 { 32 * pick(r, span / 32) } else { 0 };
    Placed { operand, lines, k, mn_major, swizzle, start, inside, leading, stride }
}

fn draw(seed: u64, index: usize) -> Case {
    let mut r = Random::new(seed);
    for _ in 0..4 {
        r.bits();
    }
    let (d, a_type, b_type) = TYPES[index];
    let most = if d == "s32" { 4 } else { 32 };
    let n = 8 * (1 + r.bits() as usize % most);
    let a = (r.bits() & 4 != 0).then(|| place(&mut r, a_type, 64, BASE));
    let from = a.as_ref().map_or(BASE, Placed::end);
    let mut b = place(&mut r, b_type, n, from);
    let mut n = n;
    while b.end() > BASE + SHARED {
        n -= 8;
        b.lines = n;
    }
    let flags = r.bits() >> 30;
    let float = d != "s32";
    Case {
        d,
        n,
        a,
        a_type,
        b,
        negate: (float && flags & 1 != 0, float && flags & 2 != 0),
        accumulate: flags & 12 != 0,
        saturate: !float && flags & 16 != 0,
        seed,
    }
}

/// Random bytes with every element near one, or any bits.
fn noise(r: &mut Random, n: usize, o: Operand, wild: bool) -> Vec<u8> {
    let mut out: Vec<u8> = (0..n).map(|_| (r.bits() >> 13) as u8).collect();
    if let (false, Type::Float { exponent, mantissa, .. }) = (wild, o.ty) {
        let low = if o.bytes == 4 { 13 } else { 0 };
        for c in out.chunks_mut(o.bytes) {
            let word = c.iter().rev().fold(0u32, |v, b| v << 8 | u32::from(*b));
            let field = ((1u32 << exponent) - 1) << (mantissa + low);
            let bias = (1u32 << (exponent - 1)) - 1;
            let biased = bias.saturating_sub(2) + (r.bits() >> 9) as u32 % 4;
            let word = word & !field | biased << (mantissa + low);
            c.copy_from_slice(&word.to_le_bytes()[..o.bytes]);
        }
    }
    out
}

struct Data {
    image: Vec<u8>,
    a: Vec<u32>,
    d: Vec<u32>,
}

fn data(c: &Case) -> Data {
    let mut r = Random::new(c.seed ^ 0x5555);
    let wild = c.seed.is_multiple_of(4);
    // A and B may have different types of one size: each drawn bytes suit both.
    let image = noise(&mut r, SHARED, c.a_type, wild);
    let words = |bytes: Vec<u8>| -> Vec<u32> {
        bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let a = words(noise(&mut r, 128 * 16, c.a_type, wild));
    let d_type = match c.d {
        "f32" => Operand { name: "f32", bytes: 4, ty: F32 },
        "f16" => HALF,
        _ => Operand { name: "s32", bytes: 4, ty: Type::Signed(32) },
    };
    // Accumulators of 32 bits are drawn as such, not as tf32.
    let d = match d_type.ty {
        F32 if !wild => (0..128 * c.registers())
            .map(|_| ((r.bits() >> 40) as f32 / 2f32.powi(22) - 2.0).to_bits())
            .collect(),
        _ => words(noise(&mut r, 128 * 4 * c.registers(), d_type, wild)),
    };
    Data { image, a, d }
}

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
