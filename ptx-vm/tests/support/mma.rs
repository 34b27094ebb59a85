//! Every form of `mma.sync`: its fragment tables as the PTX ISA gives them ("Matrix fragments
//! for mma.m…"), a kernel that runs it once, random operands.

use super::Random;
use super::exact::*;

/// Row and column of element `i`, with `g` and `t` of the lane: groupID and
/// threadID_in_group.
pub type Layout = fn(g: usize, t: usize, i: usize) -> (usize, usize);

/// A shape and width, and where the ISA says its elements are.
pub struct Shape {
    pub name: &'static str,
    pub m: usize,
    pub k: usize,
    pub bits: usize,
    pub a: Layout,
    pub b: Layout,
}

/// The C and D tables are the same for all shapes.
pub fn c_table(g: usize, t: usize, i: usize) -> (usize, usize) {
    (if i < 2 { g } else { g + 8 }, t * 2 + (i & 1))
}

#[rustfmt::skip]
pub const SHAPES: &[Shape] = &[
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
pub struct Operand {
    pub name: &'static str,
    pub bits: usize,
    /// Bits of the container below the code.
    pub low: u32,
    pub width: u32,
    pub ty: Type,
}

pub const fn operand(name: &'static str, bits: usize, low: u32, width: u32, ty: Type) -> Operand {
    Operand { name, bits, low, width, ty }
}

pub const HALF: Operand = operand("f16", 16, 0, 16, F16);
pub const BRAIN: Operand = operand("bf16", 16, 0, 16, BF16);
pub const TENSOR: Operand = operand("tf32", 32, 13, 19, TF32);
pub const S8: Operand = operand("s8", 8, 0, 8, Type::Signed(8));
pub const U8: Operand = operand("u8", 8, 0, 8, Type::Unsigned(8));
pub const S4: Operand = operand("s4", 4, 0, 4, Type::Signed(4));
pub const U4: Operand = operand("u4", 4, 0, 4, Type::Unsigned(4));
pub const FP4: Operand = operand("e2m1", 4, 0, 4, E2M1);
/// The types of `kind::f8f6f4`, each in a byte.
pub const BYTES: [Operand; 5] = [
    operand("e4m3", 8, 0, 8, E4M3),
    operand("e5m2", 8, 0, 8, E5M2),
    operand("e3m2", 8, 0, 6, E3M2),
    operand("e2m3", 8, 0, 6, E2M3),
    operand("e2m1", 8, 2, 4, E2M1),
];

/// Block scales of an instruction.
#[derive(Clone, Copy)]
pub struct Scaling {
    pub per_line: usize,
    pub ue4m3: bool,
}

/// One instruction.
#[derive(Clone)]
pub struct Form {
    pub target: &'static str,
    pub text: String,
    pub shape: &'static Shape,
    pub a: Operand,
    pub b: Operand,
    /// `f32`, `f16` or `s32`, of C and of D.
    pub c: &'static str,
    pub d: &'static str,
    pub scaling: Option<Scaling>,
    pub saturate: bool,
}

pub fn shape(name: &str, bits: usize) -> &'static Shape {
    SHAPES.iter().find(|s| s.name == name && s.bits == bits).expect("a shape in the table")
}

pub fn form(
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
pub fn forms() -> Vec<Form> {
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
pub type Selectors = [usize; 4];

impl Form {
    pub fn registers(&self) -> [usize; 4] {
        let s = self.shape;
        let acc = |ty: &str| s.m * 8 * if ty == "f16" { 16 } else { 32 } / 1024;
        [s.m * s.k * s.bits / 1024, 8 * s.k * s.bits / 1024, acc(self.c), acc(self.d)]
    }

    /// A kernel that loads every lane's registers, multiplies, and stores D.
    pub fn kernel(&self, [ba, ta, bb, tb]: Selectors) -> String {
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

pub fn load(name: &str, n: usize, param: usize) -> String {
    let mut out = format!(
        "ld.param.u64 %p, [p{param}];\nmul.wide.u32 %o, %l, {};\nadd.s64 %p, %p, %o;\n",
        4 * n
    );
    for i in 0..n {
        out += &format!("ld.global.b32 %{name}{i}, [%p+{}];\n", 4 * i);
    }
    out
}

pub fn store(name: &str, n: usize, param: usize) -> String {
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
pub enum Draw {
    /// Any bits: NaN and infinity too.
    Bits,
    /// Near one.
    Plain,
    /// A few huge values among tiny ones.
    Extreme,
    /// Subnormals and zeros.
    Small,
    /// Near one, but for block scales that are NaN.
    NanScales,
}

pub fn draw_code(r: &mut Random, how: Draw, ty: Type, width: u32) -> u32 {
    let bits = r.bits() as u32 & (u32::MAX >> (32 - width));
    let Type::Float { exponent: e, mantissa: m, .. } = ty else { return bits };
    let sign = bits & 1 << (e + m);
    let fraction = bits & ((1 << m) - 1);
    let bias = (1u32 << (e - 1)) - 1;
    let biased = match how {
        Draw::Bits => return bits,
        Draw::Plain | Draw::NanScales => bias.saturating_sub(3) + (r.bits() % 5) as u32,
        Draw::Extreme if r.bits().is_multiple_of(4) => (bias + bias / 3).min((1 << e) - 2),
        Draw::Extreme => bias - bias / 3,
        Draw::Small => u32::from(r.bits().is_multiple_of(4)),
    };
    sign | biased.min((1 << e) - 1) << m | fraction
}

/// Random registers: `n` for each lane, with codes in their containers and noise in the
/// padding.
pub fn draw(r: &mut Random, how: Draw, n: usize, o: Operand) -> Vec<u32> {
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
pub fn matrix(
    words: &[u32],
    n: usize,
    o: Operand,
    cols: usize,
    rows: usize,
    at: Layout,
) -> Vec<Value> {
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

pub fn accumulator(ty: &str) -> Operand {
    match ty {
        "f32" => operand("f32", 32, 0, 32, F32),
        "f16" => operand("f16", 16, 0, 16, F16),
        _ => operand("s32", 32, 0, 32, Type::Signed(32)),
    }
}

pub struct Inputs {
    pub a: Vec<u32>,
    pub b: Vec<u32>,
    pub c: Vec<u32>,
    pub s: Vec<u32>,
    pub selectors: Selectors,
}

pub fn inputs(f: &Form, seed: u64, how: Draw) -> Inputs {
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
        let nan = if ue4m3 { 0x7f } else { 0xff };
        for w in &mut s {
            *w = (0..4).fold(0, |v, i| {
                let is_nan = matches!(how, Draw::NanScales) && r.bits().is_multiple_of(16);
                v | if is_nan { nan } else { near(&mut r, ue4m3) } << (8 * i)
            });
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
