//! Atomics and reductions on memory.

use super::access::Place;
use super::block::Env;
use super::warp::{Raise, Step, Warp};
use crate::error::{FaultKind, Space};
use crate::lower::alu::half::lesser;
use crate::lower::alu::{mask_of, sign_extend};
use crate::lower::ops::{Addr, AtomOp, Slot};
use crate::numeric::native::{add_odd, b, bb, db, f, fb, flush, h, hb};
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
        self.profile_access(env, space, &addresses, bytes * b.len() as u32, mask);
        env.progress += 1;
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            let place = Place::of(space, addresses[lane]);
            let total = bytes * b.len() as u32;
            atomic_place(place, total).map_err(Raise::at(lane))?;
            env.clocks.strong(self.id, addresses[lane], true, true);
            for (i, &r) in b.iter().enumerate() {
                let at = place.plus(i as u64 * u64::from(bytes));
                let operand = self.value(r)[lane] & mask_of(ty.bits());
                let swap = c.map_or(0, |c| self.value(c)[lane] & mask_of(ty.bits()));
                let memory = env.image.memory;
                // Element by element under the lock of the sixteen bytes around the first.
                let guard = memory.lock(addresses[lane]);
                let old = self.get(env, at, bytes, lane, false).map_err(Raise::at(lane))?;
                // Global f32 additions flush subnormals; shared ones do not.
                let flushes = op == AtomOp::Add && ty == Ty::F32 && matches!(at, Place::Device(_));
                let new = if flushes {
                    flush(combine(op, ty, flush(old), flush(operand), swap))
                } else {
                    combine(op, ty, old, operand, swap)
                };
                self.set(env, at, bytes, new, lane, false).map_err(Raise::at(lane))?;
                drop(guard);
                if let Some(&d) = d.get(i) {
                    self.write_lane(d, lane, old);
                }
            }
        }
        Ok(())
    }

    /// Exchanges 16 bytes, if `c` is given only where they equal `b`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn atomic_wide(
        &mut self,
        env: &mut Env<'_>,
        space: Space,
        addr: Addr,
        d: [Slot; 2],
        b: [Slot; 2],
        c: Option<[Slot; 2]>,
        mask: u32,
    ) -> Step {
        let addresses = self.addresses(addr, mask, 0)?;
        for r in b.iter().chain(c.iter().flatten()) {
            self.need(*r, mask)?;
        }
        self.profile_access(env, space, &addresses, 16, mask);
        env.progress += 1;
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            let place = Place::of(space, addresses[lane]);
            atomic_place(place, 16).map_err(Raise::at(lane))?;
            env.clocks.strong(self.id, addresses[lane], true, true);
            let pair = |w: &Warp, slots: [Slot; 2]| slots.map(|s| w.value(s)[lane]);
            let memory = env.image.memory;
            let guard = memory.lock(addresses[lane]);
            let mut old = [0; 2];
            for (i, o) in old.iter_mut().enumerate() {
                let at = place.plus(8 * i as u64);
                *o = self.get(env, at, 8, lane, false).map_err(Raise::at(lane))?;
            }
            let new = match c {
                None => pair(self, b),
                Some(c) if old == pair(self, b) => pair(self, c),
                Some(_) => old,
            };
            for (i, v) in new.into_iter().enumerate() {
                let at = place.plus(8 * i as u64);
                self.set(env, at, 8, v, lane, false).map_err(Raise::at(lane))?;
            }
            drop(guard);
            for (d, o) in d.into_iter().zip(old) {
                self.write_lane(d, lane, o);
            }
        }
        Ok(())
    }
}

fn atomic_place(place: Place, bytes: u32) -> Result<(), FaultKind> {
    place.aligned(bytes, "atomic")?;
    if matches!(place, Place::Local(_) | Place::Param(_)) {
        let message = "atomics work on global and shared memory".to_string();
        return Err(FaultKind::InvalidOperand(message));
    }
    Ok(())
}

/// The new value. Float additions round to nearest even.
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
            Ty::F64 => db(f64::from_bits(old) + f64::from_bits(x)),
            Ty::F16 => add16(old, x),
            Ty::Bf16 => addb(old, x),
            Ty::F16x2 => pair(old, x, add16),
            Ty::Bf16x2 => pair(old, x, addb),
            _ => old.wrapping_add(x) & mask_of(bits),
        },
        AtomOp::Min | AtomOp::Max => {
            let greater = op == AtomOp::Max;
            let pick = |old_wins: bool| if old_wins { old } else { x };
            match ty {
                Ty::F16 => lesser(old, x, wide16, greater, false),
                Ty::Bf16 => lesser(old, x, wideb, greater, false),
                Ty::F16x2 => pair(old, x, |p, q| lesser(p, q, wide16, greater, false)),
                Ty::Bf16x2 => pair(old, x, |p, q| lesser(p, q, wideb, greater, false)),
                _ if ty.signed() => pick((signed(old) > signed(x)) == greater),
                _ => pick((old > x) == greater),
            }
        }
    }
}

fn pair(a: u64, b: u64, op: impl Fn(u64, u64) -> u64) -> u64 {
    op(a & 0xffff, b & 0xffff) | op(a >> 16 & 0xffff, b >> 16 & 0xffff) << 16
}

fn wide16(x: u64) -> f64 {
    f64::from(h(x))
}

fn wideb(x: u64) -> f64 {
    f64::from(b(x))
}

fn add16(x: u64, y: u64) -> u64 {
    hb(add_odd(wide16(x), wide16(y)))
}

fn addb(x: u64, y: u64) -> u64 {
    bb(add_odd(wideb(x), wideb(y)))
}
