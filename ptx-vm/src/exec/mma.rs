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
use crate::numeric::element::{Accumulator, Element, ScaleFormat};
use crate::numeric::product::{Arithmetic, HardwareModel, Product, Scales};
use crate::target::Target;

/// The scale operands.
#[derive(Debug, Clone)]
pub(crate) struct ScaleOps {
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
    pub scales: Option<ScaleOps>,
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

/// The scales of one instruction: of the rows of A and of the columns of B.
type ScaleValues = (Vec<f64>, Vec<f64>);

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
        let a = self.a_fragment(op.m, op.a, k, &op.a_regs)?;
        let mut b = vec![0.0; 8 * k];
        let bits = op.b.container_bits();
        for (r, &slot) in op.b_regs.iter().enumerate() {
            for (lane, word) in self.read(slot, mask)?.iter().enumerate() {
                op.b.unpack(*word as u32, |i, v| {
                    let (row, col) = b_place(bits, lane, r, i);
                    b[col * k + row] = v;
                });
            }
        }
        let mut c = vec![0.0; m * 8];
        let (per, field) = (op.c.per_register(), u32::MAX >> (32 - op.c.bits()));
        for (r, &slot) in op.c_regs.iter().enumerate() {
            for (lane, word) in self.read(slot, mask)?.iter().enumerate() {
                for i in 0..per {
                    let (row, col) = c_place(lane, r * per + i);
                    c[row * 8 + col] = op.c.value(*word as u32 >> (i as u32 * op.c.bits()) & field);
                }
            }
        }
        let values = match &op.scales {
            Some(s) => Some(self.scales(s, mask)?),
            None => None,
        };
        let scales = match (&op.scales, &values) {
            (Some(s), Some((a, b))) => {
                Some(Scales { per_line: s.per_row as usize, format: s.format, a, b })
            }
            _ => None,
        };
        let product = Product { k, a: &a, b: &b, scales };
        let d = match (op.d, arithmetic) {
            (Accumulator::S32, _) => product.integer(&c, op.saturate),
            (d, Arithmetic::Exact) => product.exact(&c, format(d)),
            (d, Arithmetic::Hardware) => {
                let model = HardwareModel::mma(target, op.a, k);
                product.hardware(&c, (op.a, op.b), model, format(d))
            }
        };
        for (r, &slot) in op.d_regs.iter().enumerate() {
            let mut out = [0u64; 32];
            let per = op.d.per_register();
            for (lane, o) in out.iter_mut().enumerate() {
                for i in 0..per {
                    let (row, col) = c_place(lane, r * per + i);
                    *o |= u64::from(d[row * 8 + col]) << (i as u32 * op.d.bits());
                }
            }
            self.write(slot, &out, mask);
        }
        Ok(())
    }

    /// A's rows from registers.
    pub(super) fn a_fragment(&self, m: u32, a: Element, k: usize, regs: &[Slot]) -> Step<Vec<f64>> {
        let mut out = vec![0.0; m as usize * k];
        let bits = a.container_bits();
        for (r, &slot) in regs.iter().enumerate() {
            for (lane, word) in self.read(slot, u32::MAX)?.iter().enumerate() {
                a.unpack(*word as u32, |i, v| {
                    let (row, col) = a_place(m, bits, lane, r, i);
                    out[row * k + col] = v;
                });
            }
        }
        Ok(out)
    }

    /// The scales that the selectors choose.
    fn scales(&self, s: &ScaleOps, mask: u32) -> Step<ScaleValues> {
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
        // Only the lanes that give scales need to have written them.
        let mut givers = (0u32, 0u32);
        for g in 0..8 {
            givers.0 |= 0b11 << (4 * g + 2 * a_thread);
            givers.1 |= 1 << (4 * g + b_thread);
        }
        let (sa, sb) = (self.read(s.a, givers.0)?, self.read(s.b, givers.1)?);
        let n = s.per_row as usize;
        let bytes = |word: u64, first: usize| {
            (0..n).map(move |i| s.format.value((word >> (8 * (first + i))) as u8))
        };
        let a = (0..16).flat_map(|row| bytes(sa[row % 8 * 4 + 2 * a_thread + row / 8], a_byte));
        let b = (0..8).flat_map(|col| bytes(sb[col * 4 + b_thread], b_byte));
        Ok((a.collect(), b.collect()))
    }
}

/// The float format of C or D.
pub(super) fn format(a: Accumulator) -> Format {
    if a == Accumulator::F16 { Format::F16 } else { Format::F32 }
}
