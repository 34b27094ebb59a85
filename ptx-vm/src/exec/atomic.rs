//! Atomics and reductions on memory.

use half::{bf16, f16};

use super::access::Place;
use super::block::Env;
use super::warp::{Raise, Step, Warp};
use crate::error::{FaultKind, Space};
use crate::lower::alu::{mask_of, sign_extend};
use crate::lower::ops::{Addr, AtomOp, Slot};
use crate::numeric::native::{add_odd, b, bb, f, fb, h, hb};
use crate::parse::ast::Ty;

impl Warp {
    /// One atomic for every lane in the mask, in the order of the lanes.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn atomic(
        &mut self,
        env: &mut Env<'_>,
        (op, ty): (AtomOp, Ty),
        space: Space,
        addr: Addr,
        d: &[Slot],
        b: &[Slot],
        c: Option<Slot>,
        mask: u32,
    ) -> Step {
        let addresses = self.addresses(addr, mask, 0)?;
        for r in b.iter().chain(&c) {
            self.need(*r, mask)?;
        }
        let bytes = ty.bytes();
        env.progress += 1;
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            let place = Place::of(space, addresses[lane]);
            let total = bytes * b.len() as u32;
            place.aligned(total, "atomic").map_err(Raise::at(lane))?;
            if matches!(place, Place::Local(_) | Place::Param(_)) {
                let message = "atomics work on global and shared memory".to_string();
                return Err(Raise::at(lane)(FaultKind::InvalidOperand(message)));
            }
            env.clocks.strong(self.id, addresses[lane], true, true);
            for (i, &r) in b.iter().enumerate() {
                let at = place.plus(i as u64 * u64::from(bytes));
                let operand = self.value(r)[lane] & mask_of(ty.bits());
                let swap = c.map_or(0, |c| self.value(c)[lane] & mask_of(ty.bits()));
                let memory = env.image.memory;
                // Word by word under the lock of the first byte's eight: two 16-bit halves
                // of a word share it.
                let guard = memory.lock(addresses[lane]);
                let old = self.get(env, at, bytes, lane, false).map_err(Raise::at(lane))?;
                let new = combine(op, ty, old, operand, swap);
                self.set(env, at, bytes, new, lane, false).map_err(Raise::at(lane))?;
                drop(guard);
                if let Some(&d) = d.get(i) {
                    self.write_lane(d, lane, old);
                }
            }
        }
        Ok(())
    }
}

/// The new value. Float additions round to nearest even; f32 ones flush subnormals on
/// hardware for global memory, which is not modelled.
fn combine(op: AtomOp, ty: Ty, old: u64, x: u64, swap: u64) -> u64 {
    let bits = ty.bits();
    let signed = |v: u64| sign_extend(v, bits);
    match op {
        AtomOp::Exch => x,
        AtomOp::Cas => {
            if old == x {
                swap
            } else {
                old
            }
        }
        AtomOp::And => old & x,
        AtomOp::Or => old | x,
        AtomOp::Xor => old ^ x,
        AtomOp::Inc => {
            if old >= x {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > x {
                x
            } else {
                old - 1
            }
        }
        AtomOp::Add => match ty {
            Ty::F32 => fb(f(old) + f(x)),
            Ty::F64 => (f64::from_bits(old) + f64::from_bits(x)).to_bits(),
            Ty::F16 => half16(old, x, add16),
            Ty::Bf16 => half16(old, x, addb),
            Ty::F16x2 => pair(old, x, add16),
            Ty::Bf16x2 => pair(old, x, addb),
            _ => old.wrapping_add(x) & mask_of(bits),
        },
        AtomOp::Min | AtomOp::Max => {
            let greater = op == AtomOp::Max;
            let pick = |old_wins: bool| if old_wins { old } else { x };
            match ty {
                Ty::F16 => half16(old, x, if greater { max16 } else { min16 }),
                Ty::Bf16 => half16(old, x, if greater { maxb } else { minb }),
                Ty::F16x2 => pair(old, x, if greater { max16 } else { min16 }),
                Ty::Bf16x2 => pair(old, x, if greater { maxb } else { minb }),
                _ if ty.signed() => pick((signed(old) > signed(x)) == greater),
                _ => pick((old > x) == greater),
            }
        }
    }
}

fn half16(a: u64, b: u64, op: fn(u64, u64) -> u64) -> u64 {
    op(a & 0xffff, b & 0xffff)
}

fn pair(a: u64, b: u64, op: fn(u64, u64) -> u64) -> u64 {
    op(a & 0xffff, b & 0xffff) | op(a >> 16 & 0xffff, b >> 16 & 0xffff) << 16
}

fn add16(x: u64, y: u64) -> u64 {
    hb(add_odd(f64::from(h(x)), f64::from(h(y))))
}

fn addb(x: u64, y: u64) -> u64 {
    bb(add_odd(f64::from(b(x)), f64::from(b(y))))
}

fn min16(x: u64, y: u64) -> u64 {
    let (a, b) = (f16::from_bits(x as u16), f16::from_bits(y as u16));
    if b.is_nan() || a < b { x } else { y }
}

fn max16(x: u64, y: u64) -> u64 {
    let (a, b) = (f16::from_bits(x as u16), f16::from_bits(y as u16));
    if b.is_nan() || a > b { x } else { y }
}

fn minb(x: u64, y: u64) -> u64 {
    let (a, b) = (bf16::from_bits(x as u16), bf16::from_bits(y as u16));
    if b.is_nan() || a < b { x } else { y }
}

fn maxb(x: u64, y: u64) -> u64 {
    let (a, b) = (bf16::from_bits(x as u16), bf16::from_bits(y as u16));
    if b.is_nan() || a > b { x } else { y }
}
