//! The inner loop: one instruction after the other for a group of lanes.

use super::access::Place;
use super::block::{Env, Turn};
use super::compute::boolean;
use super::warp::{Group, Raise, State, Step, Warp, converges};
use crate::error::{FaultKind, Space};
use crate::lower::ops::{AT_RETURN, Op};
use crate::lower::special::Clock;

impl Warp {
    /// Runs a group until it waits, ends, or used up its instructions. An error comes with
    /// the function and instruction it happened at.
    pub fn run(
        &mut self,
        env: &mut Env<'_>,
        mut g: Group,
        slice: u32,
    ) -> Result<Turn, (Raise, usize, u32)> {
        let image = env.image;
        self.enter(env, g.function);
        self.note_frames(&g);
        for _ in 0..slice {
            if self.at_meeting(&g) {
                self.arrive(g);
                return Ok(Turn::Gone);
            }
            if g.pc == AT_RETURN {
                match self.leave(env, g) {
                    Some(back) => {
                        g = back;
                        self.note_frames(&g);
                        continue;
                    }
                    None => return Ok(Turn::Gone),
                }
            }
            let (function, pc) = (g.function, g.pc);
            let inst = &image.functions[function].insts[pc as usize];
            let place = |raise: Raise| (raise, function, pc);
            env.line = inst.line;
            env.executed += 1;
            if env.executed > image.config.max_instructions {
                let kind = FaultKind::Budget(image.config.max_instructions);
                return Err(place(Raise { kind, lane: Some(g.mask.trailing_zeros()) }));
            }
            let mut mask = g.mask;
            if let Some(p) = inst.guard {
                mask &= self.pred(p, mask).map_err(place)?;
            }
            env.lanes += u64::from(mask.count_ones());
            if let Some(p) = &mut env.profile {
                p.count(inst.line, mask);
            }
            match &inst.op {
                Op::Bra { .. } | Op::BrxIdx { .. } | Op::Call { .. } | Op::Ret | Op::Exit => {
                    match self.flow(env, g, inst, mask).map_err(place)? {
                        Some(next) => {
                            g = next;
                            if matches!(inst.op, Op::Call { .. }) {
                                self.note_frames(&g);
                            }
                        }
                        None => return Ok(Turn::Gone),
                    }
                }
                _ if mask == 0 => g.pc += 1,
                Op::Nanosleep => {
                    g.pc += 1;
                    return Ok(Turn::Over(g));
                }
                Op::Bar { aligned, .. } => {
                    if *aligned && mask != self.live {
                        g.state = State::Converging;
                        return Ok(Turn::Wait(g));
                    }
                    g.pc += 1;
                    g.state = self.block_barrier(env, inst, mask).map_err(place)?;
                    if g.state != State::Ready {
                        return Ok(Turn::Wait(g));
                    }
                }
                Op::SetMaxNreg { increase, count } => {
                    if mask != self.live {
                        g.state = State::Converging;
                        return Ok(Turn::Wait(g));
                    }
                    let at = (function, pc);
                    if !self.set_registers(env, at, *increase, *count).map_err(place)? {
                        // Others must give registers back first.
                        env.polled = Some(inst.line);
                        return Ok(Turn::Over(g));
                    }
                    g.pc += 1;
                }
                _ if converges(inst) => {
                    let needed = self.sync_mask(&inst.op, mask).map_err(place)?;
                    if mask != needed & self.live {
                        g.state = State::Converging;
                        return Ok(Turn::Wait(g));
                    }
                    self.together(env, inst, (function, pc), mask).map_err(place)?;
                    g.pc += 1;
                }
                _ => {
                    let polls = env.polled;
                    let at = (g.stack, g.frames.len());
                    if let Err(raise) = self.step(env, &inst.op, mask, at.0, at.1) {
                        self.step_around(env, &inst.op, mask, at, raise).map_err(place)?;
                    }
                    g.pc += 1;
                    if env.polled.is_some() && polls != env.polled {
                        // A failed wait: let others run.
                        return Ok(Turn::Over(g));
                    }
                }
            }
        }
        Ok(Turn::Over(g))
    }

    /// Remembers which frames a local address may point into.
    fn note_frames(&mut self, g: &Group) {
        self.frames.clear();
        self.frames.extend(g.frames.iter().map(|f| (f.function, f.stack)));
        self.frames.push((g.function, g.stack));
    }

    /// Makes a function's registers the current ones.
    pub fn enter(&mut self, env: &Env<'_>, function: usize) {
        self.value_base = env.image.value_base[function];
        self.pred_base = env.image.pred_base[function];
    }

    /// Runs the instruction that group `i` waits at, with all groups that wait there too,
    /// if together they are the lanes that it needs.
    pub fn run_together(&mut self, env: &mut Env<'_>, i: usize) -> Step<bool> {
        let image = env.image;
        let g = &self.groups[i];
        let (function, pc, depth) = (g.function, g.pc, g.frames.len());
        let inst = &image.functions[function].insts[pc as usize];
        self.enter(env, function);
        let mut standing = self.standing_at(function, pc, depth);
        if matches!(inst.op, Op::WarpSync { .. }) {
            // `bar.warp.sync` may be reached at different places.
            standing = (0..self.groups.len())
                .filter(|&i| {
                    let g = &self.groups[i];
                    let f = &image.functions[g.function];
                    g.state == State::Converging
                        && g.function == function
                        && matches!(f.insts[g.pc as usize].op, Op::WarpSync { .. })
                })
                .collect();
        }
        let mut mask = 0;
        for &s in &standing {
            let own = self.groups[s].mask;
            mask |= match inst.guard {
                Some(p) => own & self.pred(p, own)?,
                None => own,
            };
        }
        env.line = inst.line;
        let (what, needed) = match &inst.op {
            Op::Bar { .. } => ("block barrier", self.live),
            op => (operation(op), self.sync_mask(op, mask)?),
        };
        if mask != needed & self.live {
            let kind = FaultKind::DivergentBarrier { what, active: mask, expected: needed };
            return Err(Raise { kind, lane: Some(mask.trailing_zeros()) });
        }
        let state = match &inst.op {
            Op::Bar { .. } => self.block_barrier(env, inst, mask)?,
            _ => {
                self.together(env, inst, (function, pc), mask)?;
                State::Ready
            }
        };
        for &s in &standing {
            self.groups[s].pc += 1;
            self.groups[s].state = state;
        }
        Ok(true)
    }

    /// Instructions that concern each lane alone.
    pub(super) fn step(
        &mut self,
        env: &mut Env<'_>,
        op: &Op,
        mask: u32,
        stack: u64,
        depth: usize,
    ) -> Step {
        match op {
            Op::Alu { f, d, s, imm, pre, post } => self.alu(*f, *d, s, *imm, (*pre, *post), mask),
            Op::Divide { f, d, a, b } => {
                let (x, y) = (self.read(*a, mask)?, self.read(*b, mask)?);
                let mut out = [0; 32];
                f(x, y, &mut out);
                let zero = |l: usize| mask >> l & 1 == 1 && y[l] == 0;
                let open = std::array::from_fn(|l| if zero(l) { env.line } else { 0 });
                self.write(*d, &out, mask);
                if self.checked && open != [0; 32] {
                    self.leave_open(*d, &open);
                }
                Ok(())
            }
            Op::Mov { d, a } => {
                let v = *self.value(*a);
                let known = mask & self.written[self.value_base + *a as usize];
                self.write(*d, &v, mask);
                // An unwritten source makes an unwritten copy.
                self.written[self.value_base + *d as usize] &= !mask | known;
                if known != mask && self.checked {
                    self.copy_in_flight(*a, *d);
                }
                Ok(())
            }
            Op::MovPred { d, a } => {
                let v = self.pred(*a, mask)?;
                self.write_pred(*d, v, mask);
                Ok(())
            }
            Op::NotPred { d, a } => {
                let v = !self.pred(*a, mask)?;
                self.write_pred(*d, v, mask);
                Ok(())
            }
            Op::ConstPred { d, value } => {
                self.write_pred(*d, if *value { u32::MAX } else { 0 }, mask);
                Ok(())
            }
            Op::LogicPred { op, d, a, b } => {
                let v = boolean(*op, self.pred(*a, mask)?, self.pred(*b, mask)?);
                self.write_pred(*d, v, mask);
                Ok(())
            }
            Op::Selp { d, a, b, p } => {
                let choose = self.pred(*p, mask)?;
                let base = self.value_base;
                let known = choose & self.written[base + *a as usize]
                    | !choose & self.written[base + *b as usize];
                let (x, y) = (self.value(*a), self.value(*b));
                let mut out = [0; 32];
                for (l, o) in out.iter_mut().enumerate() {
                    *o = if choose >> l & 1 == 1 { x[l] } else { y[l] };
                }
                self.write(*d, &out, mask);
                self.written[base + *d as usize] &= !mask | known;
                if self.checked && known & mask != mask {
                    self.hide_in_flight(*d, [(*a, choose), (*b, !choose)], mask & !known);
                }
                Ok(())
            }
            Op::Setp { f, high, pre, d, second, a, b, combine } => {
                let m = self.compare(*f, *pre, *a, *b, mask)?;
                let other = match high {
                    Some(high) => self.compare(*high, *pre, *a, *b, mask)?,
                    None => !m,
                };
                let (p, q) =
                    (self.combine(*combine, m, mask)?, self.combine(*combine, other, mask)?);
                self.write_pred(*d, p, mask);
                if let Some(e) = second {
                    self.write_pred(*e, q, mask);
                }
                Ok(())
            }
            Op::Set { f, high, pre, d, a, b, one, combine } => {
                let m = self.compare(*f, *pre, *a, *b, mask)?;
                let m = self.combine(*combine, m, mask)?;
                let upper = match high {
                    Some(high) => {
                        let m = self.compare(*high, *pre, *a, *b, mask)?;
                        self.combine(*combine, m, mask)?
                    }
                    None => 0,
                };
                let mut out = [0; 32];
                for (l, o) in out.iter_mut().enumerate() {
                    let part = |m: u32| if m >> l & 1 == 1 { *one } else { 0 };
                    *o = part(m) | part(upper) << 16;
                }
                self.write(*d, &out, mask);
                Ok(())
            }
            Op::Test { f, d, a } => {
                let m = f(self.read(*a, mask)?);
                self.write_pred(*d, m, mask);
                Ok(())
            }
            Op::IsSpace { space, d, a } => {
                let v = self.read(*a, mask)?;
                let mut inside = 0u32;
                for (l, &address) in v.iter().enumerate() {
                    let place = Place::of(Space::Generic, address);
                    inside |= u32::from(place.is_in(*space, env.image.memory)) << l;
                }
                self.write_pred(*d, inside, mask);
                Ok(())
            }
            Op::Carry { f, d, s, reads, writes } => {
                for slot in s {
                    self.need(*slot, mask)?;
                }
                let open = mask & self.carry_open;
                if *reads && open != 0 {
                    let lane = open.trailing_zeros() as usize;
                    let register = "the carry flag".into();
                    let divided_line = self.carry_lines[lane];
                    let kind = FaultKind::DivisionByZero { register, divided_line };
                    return Err(Raise::at(lane)(kind));
                }
                let (x, y, z) = (*self.value(s[0]), *self.value(s[1]), *self.value(s[2]));
                let mut out = [0; 32];
                let mut flags = 0u32;
                for l in 0..32 {
                    let carry = *reads && self.carry >> l & 1 == 1;
                    let (v, c) = f(x[l], y[l], z[l], carry);
                    out[l] = v;
                    flags |= u32::from(c) << l;
                }
                self.write(*d, &out, mask);
                if *writes {
                    self.carry = self.carry & !mask | flags & mask;
                    self.carry_open &= !mask;
                }
                Ok(())
            }
            Op::Pack { d, parts, bits } => {
                let mut out = [0u64; 32];
                for (i, p) in parts.iter().enumerate() {
                    let part = self.read(*p, mask)?;
                    for (o, v) in out.iter_mut().zip(part) {
                        *o |= v << (i as u32 * bits);
                    }
                }
                self.write(*d, &out, mask);
                Ok(())
            }
            Op::Unpack { parts, a, bits } => {
                let v = *self.read(*a, mask)?;
                let field = (1u64 << bits) - 1;
                for (i, p) in parts.iter().enumerate() {
                    if let Some(p) = p {
                        let out = v.map(|x| x >> (i as u32 * bits) & field);
                        self.write(*p, &out, mask);
                    }
                }
                Ok(())
            }
            Op::FrameAddr { d, offset } => {
                let at = super::memory::LOCAL_WINDOW.wrapping_add(stack);
                self.write(*d, &[at.wrapping_add_signed(*offset); 32], mask);
                Ok(())
            }
            Op::ReadClock { d, clock } => {
                let v = match clock {
                    Clock::Cycles32 | Clock::NanosecondsLow => env.executed & 0xffff_ffff,
                    Clock::Cycles64 | Clock::Nanoseconds => env.executed,
                };
                // Somebody may be waiting for time to pass.
                self.write(*d, &[v; 32], mask);
                Ok(())
            }
            Op::LdParam { offset, bytes, sign_to, regs } => {
                for (i, r) in regs.iter().enumerate() {
                    let at = u64::from(*offset + i as u32 * bytes);
                    let v = env.image.param(at, *bytes).unwrap_or(0);
                    let v = super::access::extend(v, *bytes, *sign_to);
                    self.write(*r, &[v; 32], mask);
                }
                Ok(())
            }
            Op::Ld(a) => self.load(env, a, mask, stack, depth),
            Op::St(a) => self.store(env, a, mask, stack, depth),
            Op::Atom { op, ty, space, addr, d, b, c } => {
                self.atomic(env, (*op, *ty), *space, *addr, d, b, *c, mask)
            }
            Op::AtomWide { space, addr, d, b, c } => {
                self.atomic_wide(env, *space, *addr, *d, *b, *c, mask)
            }
            Op::CallExtern { name, args, returns } => {
                self.call_extern(env, name, args, returns, mask, stack)
            }
            Op::Trap => Err(Raise {
                kind: FaultKind::Trap(String::new()),
                lane: Some(mask.trailing_zeros()),
            }),
            Op::ActiveMask { d } => {
                self.write(*d, &[u64::from(mask); 32], mask);
                Ok(())
            }
            Op::Fence | Op::Nop => Ok(()),
            Op::FenceProxy => {
                env.clocks.proxy_fence(self.id);
                Ok(())
            }
            Op::CpAsync { dst, src, src_space, bytes, src_bytes, ignore } => {
                self.cp_async(env, (*dst, *src, *src_space), *bytes, *src_bytes, *ignore, mask)
            }
            Op::CpAsyncCommit => {
                self.commit_copies(mask);
                Ok(())
            }
            Op::CpAsyncWait { pending } => {
                self.wait_copies(env, *pending, mask);
                Ok(())
            }
            Op::Mbarrier { op, addr, space } => self.mbarrier(env, *op, *addr, *space, mask),
            Op::Bulk(b) => self.bulk(env, b, mask),
            // Taken care of by the callers.
            _ => Ok(()),
        }
    }
}

fn operation(op: &Op) -> &'static str {
    match op {
        Op::WarpSync { .. } => "warp barrier",
        Op::Shfl { .. } => "shuffle",
        Op::Vote { .. } => "vote",
        Op::Match { .. } => "match",
        Op::Redux { .. } => "reduction",
        Op::Elect { .. } => "election",
        Op::LdMatrix { .. } | Op::StMatrix { .. } | Op::MovMatrix { .. } => "matrix move",
        _ => "matrix multiplication",
    }
}
