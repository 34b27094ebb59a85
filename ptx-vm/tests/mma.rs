//! Every form of `mma.sync` against exact integer arithmetic, with the fragment layouts of
//! the PTX ISA ("Matrix fragments for mma.m…") typed in as its tables give them.

mod support;

use proptest::prelude::*;
use ptx_vm::{Arithmetic, LaunchConfig, Machine, Module};
use support::exact::{self, *};
use support::*;

/// Row and column of element `i`, with `g` and `t` of the lane: groupID and
/// threadID_in_group.
type Layout = fn(g: usize, t: usize, i: usize) -> (usize, usize);

/// A shape and width, and where the ISA says its elements are.
struct Shape {
    name: &'static str,
    m: usize,
    k: usize,
    bits: usize,
    a: Layout,
    b: Layout,
}

/// The C and D tables are the same for all shapes.
fn c_table(g: usize, t: usize, i: usize) -> (usize, usize) {
    (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1))
}

#[rustfmt::skip]
const SHAPES: &[Shape] = &[
    Shape { name: "m16n8k8", m: 16, k: 8, bits: 16,
        a: |g, t, i| (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1)),
        b: |g, t, i| (t * 2 + i, g) },
    Shape { name: "m16n8k16", m: 16, k: 16, bits: 16,
        a: |g, t, i| (if i < 2 || (4..6).contains(&i) { g } else { g + 8 },
            t * 2 + (i & 1) + if i >= 4 { 8 } else { 0 }),
        b: |g, t, i| (t * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, g) },
    Shape { name: "m16n8k4", m: 16, k: 4, bits: 32,
        a: |g, t, i| (if i == 0 { g } else { g + 8 }, t),
        b: |g, t, _| (t, g) },
    Shape { name: "m16n8k8", m: 16, k: 8, bits: 32,
        a: |g, t, i| (if i == 0 || i == 2 { g } else { g + 8 }, if i < 2 { t } else { t + 4 }),
        b: |g, t, i| (if i == 0 { t } else { t + 4 }, g) },
    Shape { name: "m16n8k16", m: 16, k: 16, bits: 8,
        a: |g, t, i| (if i < 4 { g } else { g + 8 }, t * 4 + (i & 3)),
        b: |g, t, i| (t * 4 + i, g) },
    Shape { name: "m16n8k32", m: 16, k: 32, bits: 8,
        a: |g, t, i| (if i < 4 || (8..12).contains(&i) { g } else { g + 8 },
            t * 4 + (i & 3) + if i >= 8 { 16 } else { 0 }),
        b: |g, t, i| (t * 4 + (i & 3) + if i >= 4 { 16 } else { 0 }, g) },
    Shape { name: "m16n8k32", m: 16, k: 32, bits: 4,
        a: |g, t, i| (if i < 8 { g } else { g + 8 }, t * 8 + (i & 7)),
        b: |g, t, i| (t * 8 + i, g) },
    Shape { name: "m16n8k64", m: 16, k: 64, bits: 4,
        a: |g, t, i| (if i < 8 || (16..24).contains(&i) { g } else { g + 8 },
            t * 8 + (i & 7) + if i >= 16 { 32 } else { 0 }),
        b: |g, t, i| (t * 8 + (i & 7) + if i >= 8 { 32 } else { 0 }, g) },
    Shape { name: "m8n8k16", m: 8, k: 16, bits: 8,
        a: |g, t, i| (g, t * 4 + i),
        b: |g, t, i| (t * 4 + i, g) },
    Shape { name: "m8n8k32", m: 8, k: 32, bits: 4,
        a: |g, t, i| (g, t * 8 + i),
        b: |g, t, i| (t * 8 + i, g) },
];

/// A type's name, its container in a register, and what it means.
#[derive(Clone, Copy)]
struct Operand {
    name: &'static str,
    bits: usize,
    /// Bits of the container below the code.
    low: u32,
    width: u32,
    ty: Type,
}

const fn operand(name: &'static str, bits: usize, low: u32, width: u32, ty: Type) -> Operand {
    Operand { name, bits, low, width, ty }
}

const HALF: Operand = operand("f16", 16, 0, 16, F16);
const BRAIN: Operand = operand("bf16", 16, 0, 16, BF16);
const TENSOR: Operand = operand("tf32", 32, 13, 19, TF32);
const S8: Operand = operand("s8", 8, 0, 8, Type::Signed(8));
const U8: Operand = operand("u8", 8, 0, 8, Type::Unsigned(8));
const S4: Operand = operand("s4", 4, 0, 4, Type::Signed(4));
const U4: Operand = operand("u4", 4, 0, 4, Type::Unsigned(4));
const FP4: Operand = operand("e2m1", 4, 0, 4, E2M1);
/// The types of `kind::f8f6f4`, each in a byte.
const BYTES: [Operand; 5] = [
    operand("e4m3", 8, 0, 8, E4M3),
    operand("e5m2", 8, 0, 8, E5M2),
    operand("e3m2", 8, 0, 6, E3M2),
    operand("e2m3", 8, 0, 6, E2M3),
    operand("e2m1", 8, 2, 4, E2M1),
];

/// Block scales of an instruction.
#[derive(Clone, Copy)]
struct Scaling {
    per_line: usize,
    ue4m3: bool,
}

/// One instruction.
#[derive(Clone)]
struct Form {
    target: &'static str,
    text: String,
    shape: &'static Shape,
    a: Operand,
    b: Operand,
    /// `f32`, `f16` or `s32`, of C and of D.
    c: &'static str,
    d: &'static str,
    scaling: Option<Scaling>,
    saturate: bool,
}

fn shape(name: &str, bits: usize) -> &'static Shape {
    SHAPES.iter().find(|s| s.name == name && s.bits == bits).expect("a shape in the table")
}

fn form(
    target: &'static str,
    kind: &str,
    name: &str,
    d: &'static str,
    a: Operand,
    b: Operand,
    c: &'static str,
) -> Form {
    let shape = shape(name, a.bits);
    let text = format!("mma.sync.aligned{kind}.{name}.row.col.{d}.{}.{}.{c}", a.name, b.name);
    Form { target, text, shape, a, b, c, d, scaling: None, saturate: false }
}

/// All forms, each for a target that has it.
fn forms() -> Vec<Form> {
    let mut out = vec![
        form("sm_80", "", "m16n8k4", "f32", TENSOR, TENSOR, "f32"),
        form("sm_90", "", "m16n8k8", "f32", TENSOR, TENSOR, "f32"),
        form("sm_80", "", "m16n8k8", "f32", BRAIN, BRAIN, "f32"),
        form("sm_121a", "", "m16n8k16", "f32", BRAIN, BRAIN, "f32"),
        form("sm_75", "", "m16n8k8", "f32", HALF, HALF, "f32"),
        form("sm_80", "", "m16n8k8", "f16", HALF, HALF, "f16"),
        form("sm_80", "", "m16n8k16", "f32", HALF, HALF, "f32"),
        form("sm_90a", "", "m16n8k16", "f16", HALF, HALF, "f16"),
    ];
    for (a, b) in [(S8, S8), (S8, U8), (U8, S8), (U8, U8)] {
        for name in ["m8n8k16", "m16n8k16", "m16n8k32"] {
            out.push(form("sm_80", "", name, "s32", a, b, "s32"));
        }
    }
    for (a, b) in [(S4, S4), (S4, U4), (U4, S4), (U4, U4)] {
        for name in ["m8n8k32", "m16n8k32", "m16n8k64"] {
            out.push(form("sm_80", "", name, "s32", a, b, "s32"));
        }
    }
    let clamped: Vec<Form> = out
        .iter()
        .filter(|f| f.d == "s32")
        .map(|f| {
            let text = f.text.replace(".col.s32", ".col.satfinite.s32");
            Form { text, saturate: true, ..f.clone() }
        })
        .collect();
    out.extend(clamped);
    for a in &BYTES[..2] {
        for b in &BYTES[..2] {
            for acc in ["f32", "f16"] {
                out.push(form("sm_89", "", "m16n8k32", acc, *a, *b, acc));
                out.push(form("sm_90", "", "m16n8k16", acc, *a, *b, acc));
            }
        }
    }
    for a in BYTES {
        for b in BYTES {
            for acc in ["f32", "f16"] {
                out.push(form("sm_121a", ".kind::f8f6f4", "m16n8k32", acc, a, b, acc));
            }
            let mut f =
                form("sm_121a", ".kind::mxf8f6f4.block_scale", "m16n8k32", "f32", a, b, "f32");
            f.text += ".ue8m0";
            f.scaling = Some(Scaling { per_line: 1, ue4m3: false });
            out.push(f);
        }
    }
    for (kind, scale, per_line) in [
        (".kind::mxf4.block_scale", "ue8m0", 2),
        (".kind::mxf4.block_scale.scale_vec::2X", "ue8m0", 2),
        (".kind::mxf4nvf4.block_scale.scale_vec::2X", "ue8m0", 2),
        (".kind::mxf4nvf4.block_scale.scale_vec::4X", "ue4m3", 4),
    ] {
        let mut f = form("sm_120a", kind, "m16n8k64", "f32", FP4, FP4, "f32");
        f.text += &format!(".{scale}");
        f.scaling = Some(Scaling { per_line, ue4m3: scale == "ue4m3" });
        out.push(f);
    }
    out
}

/// Selectors: byte and thread of A and of B.
type Selectors = [usize; 4];

impl Form {
    fn registers(&self) -> [usize; 4] {
        let s = self.shape;
        let acc = |ty: &str| s.m * 8 * if ty == "f16" { 16 } else { 32 } / 1024;
        [s.m * s.k * s.bits / 1024, 8 * s.k * s.bits / 1024, acc(self.c), acc(self.d)]
    }

    /// A kernel that loads every lane's registers, multiplies, and stores D.
    fn kernel(&self, [ba, ta, bb, tb]: Selectors) -> String {
        let [na, nb, nc, nd] = self.registers();
        let version = "9.0";
        let mut body = String::new();
        for (name, n, param) in [("a", na, 0), ("b", nb, 1), ("c", nc, 2), ("s", 2, 3)] {
            body += &load(name, n, param);
        }
        let list = |name: &str, n: usize| {
            let all: Vec<String> = (0..n).map(|i| format!("%{name}{i}")).collect();
            format!("{{{}}}", all.join(", "))
        };
        let scales = match self.scaling {
            // Registers with scales are written in braces or without.
            Some(_) => format!(", {{%s0}}, {{{ba}, {ta}}}, %s1, {{{bb}, {tb}}}"),
            None => String::new(),
        };
        body += &format!(
            "{} {}, {}, {}, {}{scales};\n",
            self.text,
            list("d", nd),
            list("a", na),
            list("b", nb),
            list("c", nc)
        );
        body += &store("d", nd, 4);
        // C and D are f32 registers where they hold f32.
        let reg = |ty: &str| if ty == "f32" { ".f32" } else { ".b32" };
        format!(
            ".version {version}\n.target {}\n.address_size 64\n.visible .entry k(.param .u64 p0, \
             .param .u64 p1, .param .u64 p2, .param .u64 p3, .param .u64 p4)\n{{\n\
             .reg .b32 %a<{na}>, %b<{nb}>, %s<2>, %l;\n.reg {} %c<{nc}>;\n.reg {} %d<{nd}>;\n\
             .reg .b64 %p, %o;\nmov.u32 %l, %tid.x;\n{body}ret;\n}}\n",
            self.target,
            reg(self.c),
            reg(self.d)
        )
    }
}

fn load(name: &str, n: usize, param: usize) -> String {
    let mut out = format!(
        "ld.param.u64 %p, [p{param}];\nmul.wide.u32 %o, %l, {};\nadd.s64 %p, %p, %o;\n",
        4 * n
    );
    for i in 0..n {
        out += &format!("ld.global.b32 %{name}{i}, [%p+{}];\n", 4 * i);
    }
    out
}

fn store(name: &str, n: usize, param: usize) -> String {
    load(name, n, param)
        .replace("ld.global.b32 ", "st.global.b32 ")
        .lines()
        .map(|l| match l.strip_prefix("st.global.b32 ").and_then(|l| l.strip_suffix(';')) {
            Some(l) => {
                let (reg, at) = l.split_once(", ").expect("two operands");
                format!("st.global.b32 {at}, {reg};\n")
            }
            None => format!("{l}\n"),
        })
        .collect()
}

/// How operands are drawn.
#[derive(Debug, Clone, Copy)]
enum Draw {
    /// Any bits: NaN and infinity too.
    Bits,
    /// Near one.
    Plain,
    /// A few huge values among tiny ones.
    Extreme,
    /// Subnormals and zeros.
    Small,
}

fn draw_code(r: &mut Random, how: Draw, ty: Type, width: u32) -> u32 {
    let bits = r.bits() as u32 & (u32::MAX >> (32 - width));
    let Type::Float { exponent: e, mantissa: m, .. } = ty else { return bits };
    let sign = bits & 1 << (e + m);
    let fraction = bits & ((1 << m) - 1);
    let bias = (1u32 << (e - 1)) - 1;
    let biased = match how {
        Draw::Bits => return bits,
        Draw::Plain => bias.saturating_sub(3) + (r.bits() % 5) as u32,
        Draw::Extreme if r.bits().is_multiple_of(4) => (bias + bias / 3).min((1 << e) - 2),
        Draw::Extreme => bias - bias / 3,
        Draw::Small => u32::from(r.bits().is_multiple_of(4)),
    };
    sign | biased.min((1 << e) - 1) << m | fraction
}

/// Random registers: `n` for each lane, with codes in their containers and noise in the
/// padding.
fn draw(r: &mut Random, how: Draw, n: usize, o: Operand) -> Vec<u32> {
    (0..32 * n)
        .map(|_| {
            (0..32 / o.bits).fold(0u32, |word, i| {
                let field = u32::MAX >> (32 - o.bits);
                let code = draw_code(r, how, o.ty, o.width) << o.low;
                let kept = (u32::MAX >> (32 - o.width)) << o.low;
                let noise = r.bits() as u32 & field & !kept;
                word | (code | noise) << (i * o.bits)
            })
        })
        .collect()
}

/// The matrix that registers hold.
fn matrix(words: &[u32], n: usize, o: Operand, cols: usize, rows: usize, at: Layout) -> Vec<Value> {
    let mut out = vec![ZERO; rows * cols];
    let per = 32 / o.bits;
    for (lane, regs) in words.chunks(n).enumerate() {
        for i in 0..n * per {
            let word = regs[i / per] >> (i % per * o.bits) >> o.low;
            let code = word & (u32::MAX >> (32 - o.width));
            let (row, col) = at(lane / 4, lane % 4, i);
            out[row * cols + col] = o.ty.decode(code);
        }
    }
    out
}

fn accumulator(ty: &str) -> Operand {
    match ty {
        "f32" => operand("f32", 32, 0, 32, F32),
        "f16" => operand("f16", 16, 0, 16, F16),
        _ => operand("s32", 32, 0, 32, Type::Signed(32)),
    }
}

struct Inputs {
    a: Vec<u32>,
    b: Vec<u32>,
    c: Vec<u32>,
    s: Vec<u32>,
    selectors: Selectors,
}

fn inputs(f: &Form, seed: u64, how: Draw) -> Inputs {
    let mut r = Random::new(seed);
    let [na, nb, nc, _] = f.registers();
    let a = draw(&mut r, how, na, f.a);
    let b = draw(&mut r, how, nb, f.b);
    let c = draw(&mut r, how, nc, accumulator(f.c));
    let mut s: Vec<u32> = (0..64).map(|_| r.bits() as u32).collect();
    if !matches!(how, Draw::Bits) {
        let near = |r: &mut Random, ue4m3: bool| {
            if ue4m3 { r.bits() as u32 % 0x7f } else { 120 + r.bits() as u32 % 15 }
        };
        let ue4m3 = f.scaling.is_some_and(|s| s.ue4m3);
        for w in &mut s {
            *w = (0..4).fold(0, |v, i| v | near(&mut r, ue4m3) << (8 * i));
        }
    }
    let selectors = match f.scaling {
        Some(Scaling { per_line, .. }) => {
            let mut byte = || (r.bits() % (4 / per_line as u64)) as usize * per_line;
            let (ba, bb) = (byte(), byte());
            [ba, (r.bits() % 2) as usize, bb, (r.bits() % 4) as usize]
        }
        None => [0; 4],
    };
    Inputs { a, b, c, s, selectors }
}

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
    prop_oneof![Just(Draw::Bits), Just(Draw::Plain), Just(Draw::Extreme), Just(Draw::Small)]
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
