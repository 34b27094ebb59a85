//! Registers that a division by zero left open.
//!
//! A GPU does not trap there; PTX leaves the result unspecified, and compilers move divisions
//! out of the branches that guard them. The lane then counts as unwritten, and in place of a
//! value it keeps the division's line. Instructions on registers hand it on; whatever else
//! reads it (stores, addresses, branches, shuffles, matrix instructions) reports it.

use super::block::Env;
use super::warp::{Raise, Step, Warp};
use crate::lower::ops::{BoolOp, Op, PSlot, Pred, Slot};

/// For every lane the line of the division that its value comes from, 0 for none.
type Lines = [u32; 32];

/// What an instruction reads and writes that works on registers alone.
#[derive(Default)]
struct Flow {
    from: Vec<Slot>,
    from_preds: Vec<Pred>,
    to: Vec<Slot>,
    to_preds: Vec<PSlot>,
    /// With this, one operand may decide the result alone.
    logic: Option<BoolOp>,
    /// Whether the carry flag is read and written.
    carry: (bool, bool),
}

fn flow(op: &Op) -> Option<Flow> {
    let mut flow = Flow::default();
    match op {
        Op::Alu { d, s, .. } => (flow.from, flow.to) = (s.to_vec(), vec![*d]),
        Op::Divide { d, a, b, .. } => (flow.from, flow.to) = (vec![*a, *b], vec![*d]),
        Op::Carry { d, s, reads, writes, .. } => {
            (flow.from, flow.to) = (s.to_vec(), vec![*d]);
            flow.carry = (*reads, *writes);
        }
        Op::Pack { d, parts, .. } => (flow.from, flow.to) = (parts.clone(), vec![*d]),
        Op::Unpack { parts, a, .. } => {
            (flow.from, flow.to) = (vec![*a], parts.iter().flatten().copied().collect());
        }
        // A value that is chosen is copied with what is known of it.
        Op::Selp { d, p, .. } => (flow.from_preds, flow.to) = (vec![*p], vec![*d]),
        Op::MovPred { d, a } | Op::NotPred { d, a } => {
            (flow.from_preds, flow.to_preds) = (vec![*a], vec![*d]);
        }
        Op::LogicPred { op, d, a, b } => {
            (flow.from_preds, flow.to_preds) = (vec![*a, *b], vec![*d]);
            flow.logic = Some(*op);
        }
        Op::Setp { d, second, a, b, combine, .. } => {
            flow.from = vec![*a, *b];
            flow.from_preds = combine.iter().map(|c| c.1).collect();
            flow.to_preds = std::iter::once(*d).chain(*second).collect();
            flow.logic = combine.map(|c| c.0);
        }
        Op::Set { d, a, b, combine, .. } => {
            (flow.from, flow.to) = (vec![*a, *b], vec![*d]);
            flow.from_preds = combine.iter().map(|c| c.1).collect();
        }
        Op::Test { d, a, .. } | Op::IsSpace { d, a, .. } => {
            (flow.from, flow.to_preds) = (vec![*a], vec![*d]);
        }
        _ => return None,
    }
    Some(flow)
}

impl Warp {
    /// The line of the division that left a lane of a register open.
    pub fn opened_at(&self, register: usize, lane: u32) -> Option<u32> {
        let open = self.written[register] >> lane & 1 == 0 && !self.in_flight.holds(register);
        // Lanes that nobody ever wrote hold zero.
        Some(self.values[register][lane as usize] as u32).filter(|&line| open && line != 0)
    }

    /// The same of a predicate, of the latest division.
    pub fn pred_opened_at(&self, register: usize, lane: u32) -> Option<u32> {
        let bit = |of: &[u32]| of[register] >> lane & 1 == 1;
        let open = bit(&self.preds) && !bit(&self.preds_written);
        open.then_some(self.pred_lines[register])
    }

    /// The lanes of a result are open.
    #[cold]
    pub fn leave_open(&mut self, d: Slot, lines: &Lines) {
        let register = self.value_base + d as usize;
        for l in lanes_of(lines) {
            self.values[register][l] = u64::from(lines[l]);
            self.written[register] &= !(1 << l);
        }
    }

    /// A choice took lanes from these registers, of which `unknown` have no value: what a
    /// multiplication in progress holds is not the line of a division.
    #[cold]
    pub fn hide_in_flight(&mut self, d: Slot, from: [(Slot, u32); 2], unknown: u32) {
        let register = |s: Slot| self.value_base + s as usize;
        let held = |s: Slot| self.in_flight.holds(register(s));
        if held(d) {
            return;
        }
        let chosen = from.iter().filter(|f| held(f.0)).fold(0, |m, f| m | f.1);
        let d = register(d);
        for l in (0..32).filter(|l| (chosen & unknown) >> l & 1 == 1) {
            self.values[d][l] = 0;
        }
    }

    fn leave_pred_open(&mut self, d: PSlot, lines: &Lines) {
        let register = self.pred_base + d as usize;
        for l in lanes_of(lines) {
            self.preds[register] |= 1 << l;
            self.preds_written[register] &= !(1 << l);
            self.pred_lines[register] = lines[l];
        }
    }

    /// Runs an instruction that did not take its operands, if all that is wrong is that
    /// some lanes are open: those of the result are, too.
    #[cold]
    pub fn step_around(
        &mut self,
        env: &mut Env<'_>,
        op: &Op,
        mask: u32,
        (stack, depth): (u64, usize),
        raise: Raise,
    ) -> Step {
        let Some(flow) = flow(op) else { return Err(raise) };
        let mut lines = self.open_operands(&flow, mask);
        let open = lanes_of(&lines).fold(0, |m, l| m | 1 << l);
        if open == 0 {
            return Err(raise);
        }
        if mask != open {
            self.step(env, op, mask & !open, stack, depth)?;
        }
        if let Some(op @ (BoolOp::And | BoolOp::Or)) = flow.logic {
            let decided = open & self.deciding(op, &flow.from_preds);
            let value = if op == BoolOp::Or { u32::MAX } else { 0 };
            for d in &flow.to_preds {
                self.write_pred(*d, value, decided);
            }
            (0..32).filter(|l| decided >> l & 1 == 1).for_each(|l| lines[l] = 0);
        }
        flow.to.iter().for_each(|d| self.leave_open(*d, &lines));
        flow.to_preds.iter().for_each(|d| self.leave_pred_open(*d, &lines));
        if flow.carry.1 {
            lanes_of(&lines).for_each(|l| self.carry_lines[l] = lines[l]);
            self.carry_open |= open;
        }
        Ok(())
    }

    fn open_operands(&self, flow: &Flow, mask: u32) -> Lines {
        std::array::from_fn(|l| {
            let lane = l as u32;
            if mask >> l & 1 == 0 {
                return 0;
            }
            let value = |s: &Slot| self.opened_at(self.value_base + *s as usize, lane);
            let pred = |p: &Pred| self.pred_opened_at(self.pred_base + p.slot as usize, lane);
            let carry = flow.carry.0 && self.carry_open >> l & 1 == 1;
            let mut all = flow.from.iter().filter_map(value);
            all.next()
                .or_else(|| flow.from_preds.iter().find_map(pred))
                .or_else(|| carry.then_some(self.carry_lines[l]))
                .unwrap_or(0)
        })
    }

    /// The lanes in which a known operand decides: false of a conjunction, true of a
    /// disjunction.
    fn deciding(&self, op: BoolOp, operands: &[Pred]) -> u32 {
        operands.iter().fold(0, |lanes, p| {
            let register = self.pred_base + p.slot as usize;
            let holds = if p.negated { !self.preds[register] } else { self.preds[register] };
            let decides = if op == BoolOp::Or { holds } else { !holds };
            lanes | decides & self.preds_written[register]
        })
    }
}

fn lanes_of(lines: &Lines) -> impl Iterator<Item = usize> {
    (0..32).filter(|&l| lines[l] != 0)
}
