//! `mma.sync`: gather the fragments, multiply small matrices exactly, scatter the result.
//!
//! Every fragment layout here follows one rule. A register holds `e = 32 / bits` elements;
//! with `g = lane / 4` and `t = lane % 4`, element `i` of register `r` of A is at row
//! `g + 8·(r mod 2)`, column `e·t + i + 4e·(r / 2)` (for 8-row shapes: row `g`, column
//! `e·t + i + 4e·r`); of B at row (k) `e·t + i + 4e·r`, column `g`; of C and D at row
//! `g + 8·(r / 2)`, column `2t + r mod 2`, one element after the other.

use super::warp::{Raise, Step, Warp};
use crate::error::FaultKind;
use crate::lower::ops::Slot;
use crate::numeric::Format;
use crate::numeric::float::e8m0_exponent;
use crate::numeric::sum::{Num, Sum, Term};
use crate::target::Target;

/// How sums of products in matrix instructions are rounded.
///
/// Products are exact in both models. Integer matrices are exact in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Arithmetic {
    /// `D = round(C + Σ a·b)`: one rounding of the exact sum, to nearest even.
    #[default]
    Exact,
    /// As tensor cores are described: the products are added in groups, each term cut
    /// (towards zero) to a grid some bits below the largest one, the sum of a group and
    /// the accumulator cut to the accumulator's format. See [`HardwareModel`].
    Hardware,
}

/// The parameters of [`Arithmetic::Hardware`].
///
/// They are taken from published measurements (Fasi et al. 2021, DOI 10.7717/peerj-cs.330;
/// Li et al. 2024, arXiv 2403.00232; the DeepSeek-V3 report, arXiv 2412.19437, on FP8 on
/// Hopper), not measured here: `FIDELITY.md` says what was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HardwareModel {
    /// Products added to the accumulator at once.
    pub group: usize,
    /// Bits kept below the leading bit of the largest term.
    pub fraction_bits: u32,
}

impl HardwareModel {
    fn of(target: Target, a: Element) -> HardwareModel {
        let narrow = a.container_bits() <= 8;
        let (group, fraction_bits) = match (target.number(), narrow) {
            (..80, _) => (4, 23),
            (80..=88, _) => (8, 24),
            (89..=99, true) => (32, 13),
            (89, false) => (8, 24),
            (90..=99, false) => (16, 25),
            (_, true) => (64, 25),
            (_, false) => (16, 25),
        };
        HardwareModel { group, fraction_bits }
    }
}

/// An operand type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    E3m2,
    E2m3,
    /// Two to a byte.
    E2m1,
    /// One to a byte, in bits 2 to 5 (`kind::f8f6f4`).
    E2m1Byte,
    S8,
    U8,
    S4,
    U4,
}

impl Element {
    /// Bits that one element takes in a register.
    pub fn container_bits(self) -> u32 {
        match self {
            Element::Tf32 => 32,
            Element::F16 | Element::Bf16 => 16,
            Element::E2m1 | Element::S4 | Element::U4 => 4,
            _ => 8,
        }
    }

    /// Whether this is one of the 8-, 6- and 4-bit floats that come in bytes.
    pub fn narrow_float(self) -> bool {
        use Element::{E2m1Byte, E2m3, E3m2, E4m3, E5m2};
        matches!(self, E4m3 | E5m2 | E3m2 | E2m3 | E2m1Byte)
    }

    fn value(self, code: u64) -> Num {
        let int = |v: i64| Num::Finite(Term { m: v, e: 0 });
        match self {
            Element::F16 => Num::from_code(code, Format::F16),
            Element::Bf16 => Num::from_code(code, Format::BF16),
            // The low 13 bits of the register are not looked at.
            Element::Tf32 => Num::from_code(code >> 13, Format::TF32),
            Element::E4m3 => Num::from_code(code, Format::E4M3),
            Element::E5m2 => Num::from_code(code, Format::E5M2),
            Element::E3m2 => Num::from_code(code & 0x3f, Format::E3M2),
            Element::E2m3 => Num::from_code(code & 0x3f, Format::E2M3),
            Element::E2m1 => Num::from_code(code, Format::E2M1),
            Element::E2m1Byte => Num::from_code(code >> 2 & 0xf, Format::E2M1),
            Element::S8 => int(i64::from(code as u8 as i8)),
            Element::U8 | Element::U4 => int(code as i64),
            Element::S4 => int(((code << 60) as i64) >> 60),
        }
    }
}

/// A type of C and D.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accumulator {
    F32,
    F16,
    S32,
}

impl Accumulator {
    pub fn bits(self) -> u32 {
        if self == Accumulator::F16 { 16 } else { 32 }
    }
}

/// A type of block scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScaleFormat {
    Ue8m0,
    Ue4m3,
}

impl ScaleFormat {
    fn value(self, code: u8) -> Num {
        match self {
            ScaleFormat::Ue8m0 => match e8m0_exponent(code) {
                Some(e) => Num::Finite(Term { m: 1, e }),
                None => Num::Nan,
            },
            // The sign bit is not part of the format.
            ScaleFormat::Ue4m3 => Num::from_code(u64::from(code & 0x7f), Format::E4M3),
        }
    }
}

/// The scale operands.
#[derive(Debug, Clone)]
pub(crate) struct Scales {
    /// Scales along k of one row of A or column of B.
    pub per_row: u32,
    pub format: ScaleFormat,
    pub a: Slot,
    pub a_byte: Slot,
    pub a_thread: Slot,
    pub b: Slot,
    pub b_byte: Slot,
    pub b_thread: Slot,
}

/// A matrix multiplication.
#[derive(Debug, Clone)]
pub(crate) struct MmaOp {
    pub m: u32,
    pub k: u32,
    pub a: Element,
    pub b: Element,
    pub c: Accumulator,
    pub d: Accumulator,
    pub saturate: bool,
    pub d_regs: Vec<Slot>,
    pub a_regs: Vec<Slot>,
    pub b_regs: Vec<Slot>,
    pub c_regs: Vec<Slot>,
    pub scales: Option<Scales>,
}

/// Row and column of element `i` of register `r` of A.
pub(crate) fn a_place(m: u32, bits: u32, lane: usize, r: usize, i: usize) -> (usize, usize) {
    let e = 32 / bits as usize;
    let (g, t) = (lane / 4, lane % 4);
    if m == 8 { (g, e * t + i + 4 * e * r) } else { (g + 8 * (r % 2), e * t + i + 4 * e * (r / 2)) }
}

/// Row (k) and column of element `i` of register `r` of B.
pub(crate) fn b_place(bits: u32, lane: usize, r: usize, i: usize) -> (usize, usize) {
    let e = 32 / bits as usize;
    (e * (lane % 4) + i + 4 * e * r, lane / 4)
}

/// Row and column of the `i`-th element of C or D in a lane.
pub(crate) fn c_place(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)
}

impl Warp {
    pub(super) fn mma(
        &mut self,
        op: &MmaOp,
        arithmetic: Arithmetic,
        target: Target,
        mask: u32,
    ) -> Step {
        if mask != u32::MAX {
            let kind = FaultKind::DivergentBarrier {
                what: "matrix multiplication",
                active: mask,
                expected: u32::MAX,
            };
            return Err(Raise { kind, lane: Some(mask.trailing_zeros()) });
        }
        let (m, k) = (op.m as usize, op.k as usize);
        let mut a = vec![Num::ZERO; m * k];
        let mut b = vec![Num::ZERO; 8 * k];
        for (r, &slot) in op.a_regs.iter().enumerate() {
            let lanes = self.read(slot, mask)?;
            for (lane, word) in lanes.iter().enumerate() {
                for (i, v) in elements(*word, op.a).enumerate() {
                    let (row, col) = a_place(op.m, op.a.container_bits(), lane, r, i);
                    a[row * k + col] = v;
                }
            }
        }
        for (r, &slot) in op.b_regs.iter().enumerate() {
            let lanes = self.read(slot, mask)?;
            for (lane, word) in lanes.iter().enumerate() {
                for (i, v) in elements(*word, op.b).enumerate() {
                    let (row, col) = b_place(op.b.container_bits(), lane, r, i);
                    b[col * k + row] = v;
                }
            }
        }
        if let Some(s) = &op.scales {
            self.apply_scales(s, &mut a, &mut b, k, mask)?;
        }
        let mut c = [[0u64; 8]; 16];
        for (r, &slot) in op.c_regs.iter().enumerate() {
            let lanes = self.read(slot, mask)?;
            for (lane, word) in lanes.iter().enumerate() {
                for i in 0..32 / op.c.bits() as usize {
                    let (row, col) = c_place(lane, r * 32 / op.c.bits() as usize + i);
                    let field = u64::MAX >> (64 - op.c.bits());
                    c[row][col] = word >> (i as u32 * op.c.bits()) & field;
                }
            }
        }
        let mut d = [[0u64; 8]; 16];
        let mut sum = Sum::default();
        let model = HardwareModel::of(target, op.a);
        for row in 0..m {
            for col in 0..8 {
                let (x, y) = (&a[row * k..row * k + k], &b[col * k..col * k + k]);
                d[row][col] = match arithmetic {
                    _ if op.c == Accumulator::S32 => {
                        integer_dot(x, y, c[row][col] as u32 as i32, op.saturate)
                    }
                    Arithmetic::Exact => {
                        sum.clear();
                        sum.add(Num::from_code(c[row][col], format(op.c)));
                        x.iter().zip(y).for_each(|(p, q)| sum.add(p.times(*q)));
                        sum.exact(format(op.d))
                    }
                    Arithmetic::Hardware => {
                        let mut acc = Num::from_code(c[row][col], format(op.c));
                        let mut code = c[row][col];
                        for (p, q) in x.chunks(model.group).zip(y.chunks(model.group)) {
                            sum.clear();
                            sum.add(acc);
                            p.iter().zip(q).for_each(|(p, q)| sum.add(p.times(*q)));
                            code = sum.truncated(model.fraction_bits, format(op.d));
                            acc = Num::from_code(code, format(op.d));
                        }
                        code
                    }
                };
            }
        }
        for (r, &slot) in op.d_regs.iter().enumerate() {
            let mut out = [0u64; 32];
            let per = 32 / op.d.bits() as usize;
            for (lane, o) in out.iter_mut().enumerate() {
                for i in 0..per {
                    let (row, col) = c_place(lane, r * per + i);
                    *o |= d[row][col] << (i as u32 * op.d.bits());
                }
            }
            self.write(slot, &out, mask);
        }
        Ok(())
    }

    /// Multiplies the scales into the operands: products stay exact.
    fn apply_scales(&self, s: &Scales, a: &mut [Num], b: &mut [Num], k: usize, mask: u32) -> Step {
        let selector = |slot, what: &str, max: u64| -> Step<usize> {
            let v = self.uniform(slot, mask, what)?;
            if v > max || what.starts_with("byte") && s.per_row == 2 && v % 2 == 1 {
                let message = format!("{what} is {v}, at most {max} is possible");
                return Err(FaultKind::InvalidOperand(message).into());
            }
            Ok(v as usize)
        };
        let max_byte = match s.per_row {
            1 => 3,
            2 => 2,
            _ => 0,
        };
        let (a_byte, b_byte) = (
            selector(s.a_byte, "byte-id-a", max_byte)?,
            selector(s.b_byte, "byte-id-b", max_byte)?,
        );
        let a_thread = selector(s.a_thread, "thread-id-a", 1)?;
        let b_thread = selector(s.b_thread, "thread-id-b", 3)?;
        let n = s.per_row as usize;
        let block = k / n;
        // Only the lanes that give scales need to have written them.
        let mut givers = (0u32, 0u32);
        for g in 0..8 {
            givers.0 |= 0b11 << (4 * g + 2 * a_thread);
            givers.1 |= 1 << (4 * g + b_thread);
        }
        let (sa, sb) = (self.read(s.a, givers.0)?, self.read(s.b, givers.1)?);
        let scale = |word: u64, byte: usize| s.format.value((word >> (8 * byte)) as u8);
        for row in 0..16 {
            let lane = row % 8 * 4 + 2 * a_thread + row / 8;
            for i in 0..n {
                let v = scale(sa[lane], a_byte + i);
                a[row * k + i * block..][..block].iter_mut().for_each(|x| *x = x.times(v));
            }
        }
        for col in 0..8 {
            let lane = col * 4 + b_thread;
            for i in 0..n {
                let v = scale(sb[lane], b_byte + i);
                b[col * k + i * block..][..block].iter_mut().for_each(|x| *x = x.times(v));
            }
        }
        Ok(())
    }
}

fn elements(word: u64, e: Element) -> impl Iterator<Item = Num> {
    let bits = e.container_bits();
    let field = u64::MAX >> (64 - bits);
    (0..32 / bits).map(move |i| e.value(word >> (i * bits) & field))
}

fn format(a: Accumulator) -> Format {
    if a == Accumulator::F16 { Format::F16 } else { Format::F32 }
}

fn integer_dot(x: &[Num], y: &[Num], c: i32, saturate: bool) -> u64 {
    let int = |n: &Num| if let Num::Finite(t) = n { t.m } else { 0 };
    let total = i64::from(c) + x.iter().zip(y).map(|(p, q)| int(p) * int(q)).sum::<i64>();
    let total = if saturate {
        total.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
    } else {
        total as i32
    };
    u64::from(total as u32)
}
