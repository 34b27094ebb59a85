//! `wgmma` with operands in shared memory where the PTX ISA's tables of canonical layouts put
//! them: random cases, and a kernel that runs one.

use super::Random;
use super::exact::*;

/// Bytes of the kernels' shared memory, all filled by the host.
pub const SHARED: usize = 48 << 10;
/// Where shared variables of a kernel start: the system keeps the first KiB for itself.
pub const BASE: usize = 1024;

/// An element type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Operand {
    pub name: &'static str,
    pub bytes: usize,
    pub ty: Type,
}

pub const HALF: Operand = Operand { name: "f16", bytes: 2, ty: F16 };
pub const BRAIN: Operand = Operand { name: "bf16", bytes: 2, ty: BF16 };
/// The low 13 bits of the register are not looked at.
pub const TENSOR: Operand = Operand { name: "tf32", bytes: 4, ty: TF32 };
pub const P8: Operand = Operand { name: "e4m3", bytes: 1, ty: E4M3 };
pub const Q8: Operand = Operand { name: "e5m2", bytes: 1, ty: E5M2 };
pub const S8: Operand = Operand { name: "s8", bytes: 1, ty: Type::Signed(8) };
pub const U8: Operand = Operand { name: "u8", bytes: 1, ty: Type::Unsigned(8) };

pub const TYPES: &[(&str, Operand, Operand)] = &[
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
pub const SWIZZLES: [(u32, u64); 4] = [(0, 0), (1, 3), (2, 2), (3, 1)];

/// A layout of the ISA's table: nested shapes and strides, in elements.
pub type Modes = [(usize, usize); 3];

pub fn walk(modes: &Modes, mut i: usize) -> usize {
    let mut at = 0;
    for (shape, stride) in modes {
        at += i % shape * stride;
        i /= shape;
    }
    at
}

/// One matrix in shared memory.
#[derive(Debug, Clone)]
pub struct Placed {
    pub operand: Operand,
    /// Rows of A or columns of B.
    pub lines: usize,
    pub k: usize,
    pub mn_major: bool,
    pub swizzle: (u32, u64),
    /// Byte offsets; `start` is where the pattern starts, `inside` how far into it.
    pub start: usize,
    pub inside: usize,
    pub leading: usize,
    pub stride: usize,
}

impl Placed {
    /// The ISA's table "canonical layouts": modes along M or N, and along K.
    pub fn modes(&self) -> (Modes, Modes) {
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
    pub fn address(&self, line: usize, j: usize) -> usize {
        let (mn, k) = self.modes();
        let offset = (walk(&mn, line) + walk(&k, j)) * self.operand.bytes + self.inside;
        // Swizzle<B, 4, 3> within the repeating pattern: bits 4 and up change by those from 7.
        let bits = (1 << self.swizzle.0) - 1;
        self.start + (offset ^ (offset >> 7 & bits) << 4)
    }

    /// (x & 0x3FFFF) >> 4 of each field; base offset = (pattern start >> 7) & 7.
    pub fn descriptor(&self) -> u64 {
        let encode = |x: usize| (x as u64 & 0x3_ffff) >> 4;
        let base = if self.swizzle.0 == 0 { 0 } else { self.start as u64 >> 7 & 7 };
        // The base offset's meaning for patterns that repeat more often is the same field.
        encode(self.start + self.inside)
            | encode(self.leading) << 16
            | encode(self.stride) << 32
            | base << 49
            | self.swizzle.1 << 62
    }

    pub fn elements(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.lines).flat_map(|l| (0..self.k).map(move |j| (l, j)))
    }

    /// One past the last byte.
    pub fn end(&self) -> usize {
        self.elements().map(|(l, j)| self.address(l, j)).max().expect("elements") + 4
    }

    pub fn value(&self, image: &[u8], line: usize, j: usize) -> Value {
        let at = self.address(line, j) - BASE;
        code(&image[at..at + self.operand.bytes], self.operand)
    }
}

pub fn code(bytes: &[u8], o: Operand) -> Value {
    let word = bytes.iter().rev().fold(0u32, |v, b| v << 8 | u32::from(*b));
    o.ty.decode(if o.bytes == 4 { word >> 13 } else { word })
}

/// Fills shared memory, runs `body`, stores D. Descriptors are given as if shared variables
/// started at [`BASE`].
pub fn kernel(target: &str, registers: usize, ty: &str, body: &str) -> String {
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
         mov.u32 %at, s;\nsub.u32 %at, %at, {BASE};\nshr.u32 %at, %at, 4;\n\
         cvt.u64.u32 %o, %at;\nadd.s64 %da, %da, %o;\nadd.s64 %db, %db, %o;\n\
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
pub fn around(mma: &str) -> String {
    format!(
        "fence.proxy.async.shared::cta;\nbar.sync 0;\nwgmma.fence.sync.aligned;\n{mma}\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n"
    )
}

pub fn list(name: &str, n: usize) -> String {
    let all: Vec<String> = (0..n).map(|i| format!("%{name}{i}")).collect();
    format!("{{{}}}", all.join(", "))
}

/// One multiplication.
#[derive(Debug, Clone)]
pub struct Case {
    pub d: &'static str,
    pub n: usize,
    pub a: Option<Placed>,
    pub a_type: Operand,
    pub b: Placed,
    pub negate: (bool, bool),
    pub accumulate: bool,
    pub saturate: bool,
    pub seed: u64,
}

impl Case {
    pub fn k(&self) -> usize {
        32 / self.a_type.bytes
    }

    pub fn registers(&self) -> usize {
        self.n / if self.d == "f16" { 4 } else { 2 }
    }

    pub fn text(&self) -> String {
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
pub fn place(r: &mut Random, operand: Operand, lines: usize, from: usize) -> Placed {
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

pub fn draw(seed: u64, index: usize) -> Case {
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
pub fn noise(r: &mut Random, n: usize, o: Operand, wild: bool) -> Vec<u8> {
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

pub struct Data {
    pub image: Vec<u8>,
    pub a: Vec<u32>,
    pub d: Vec<u32>,
}

pub fn data(c: &Case) -> Data {
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
