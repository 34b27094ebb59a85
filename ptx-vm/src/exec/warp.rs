//! One warp: registers, the groups of lanes that run together, and where they meet.

use super::wgmma::InFlight;
use crate::error::FaultKind;
use crate::lower::ops::{Inst, Lanes, NOWHERE, PSlot, Pred, Slot};

/// A fault and the lane it happened in.
#[derive(Debug)]
pub(crate) struct Raise {
    pub kind: FaultKind,
    pub lane: Option<u32>,
}

impl Raise {
    pub fn at(lane: usize) -> impl FnOnce(FaultKind) -> Raise {
        move |kind| Raise { kind, lane: Some(lane as u32) }
    }
}

impl From<FaultKind> for Raise {
    fn from(kind: FaultKind) -> Raise {
        Raise { kind, lane: None }
    }
}

pub(crate) type Step<T = ()> = Result<T, Raise>;

/// Where a call returns to.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub function: usize,
    pub pc: u32,
    pub stack: u64,
    /// Registers of the callee that a recursive call would overwrite.
    pub saved: Option<Box<Saved>>,
}

/// Register contents around a recursive call.
#[derive(Debug, Clone)]
pub(crate) struct Saved {
    pub values: Vec<Lanes>,
    pub written: Vec<u32>,
    pub preds: Vec<u32>,
    pub preds_written: Vec<u32>,
}

/// Why a group does not run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum State {
    Ready,
    /// At a block barrier, arrived in this generation.
    AtBarrier {
        id: usize,
        generation: u64,
    },
    /// At an instruction that other lanes must reach too.
    Converging,
}

/// Lanes that run together.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub mask: u32,
    pub function: usize,
    pub pc: u32,
    pub stack: u64,
    pub node: usize,
    pub frames: Vec<Frame>,
    pub state: State,
    /// Turns in a row that ended because time was up.
    pub turns: u32,
}

/// A meeting point in use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub function: usize,
    pub pc: u32,
    pub stack: u64,
    pub depth: usize,
    /// Lanes still to come plus those that came.
    pub expected: u32,
    pub arrived: u32,
    pub parent: usize,
}

/// No meeting point.
pub(crate) const NO_NODE: usize = usize::MAX;

/// A warp.
pub(crate) struct Warp {
    pub id: usize,
    pub live: u32,
    pub groups: Vec<Group>,
    nodes: Vec<Node>,
    free_nodes: Vec<usize>,
    pub values: Vec<Lanes>,
    pub written: Vec<u32>,
    pub preds: Vec<u32>,
    pub preds_written: Vec<u32>,
    /// Where predicates that are open come from.
    pub pred_lines: Vec<u32>,
    /// The carry flags, and those that a division by zero left open.
    pub carry: u32,
    pub carry_open: u32,
    pub carry_lines: [u32; 32],
    /// First registers of the running function.
    pub value_base: usize,
    pub pred_base: usize,
    pub checked: bool,
    pub local: Vec<Local>,
    /// Functions and stack positions of the running group, innermost last.
    pub frames: Vec<(usize, u64)>,
    pub copies: Vec<Copies<u32>>,
    pub in_flight: InFlight,
    /// Bulk stores by what they read, address and bytes.
    pub stores: Vec<Copies<(u64, u32)>>,
}

/// Local memory of one lane.
#[derive(Debug, Default, Clone)]
pub(crate) struct Local {
    pub data: Vec<u8>,
    pub written: Vec<bool>,
}

/// Asynchronous copies of one lane.
#[derive(Debug, Default, Clone)]
pub(crate) struct Copies<T> {
    /// Issued since the last commit.
    pub open: Vec<T>,
    /// Committed groups, oldest first.
    pub groups: Vec<Vec<T>>,
}

impl<T> Copies<T> {
    /// What is open becomes a group.
    pub fn commit(&mut self) {
        self.groups.push(std::mem::take(&mut self.open));
    }

    /// The copies of all groups but the latest so many, which are over.
    pub fn finish(&mut self, pending: usize) -> Vec<T> {
        let done = self.groups.len().saturating_sub(pending);
        self.groups.drain(..done).flatten().collect()
    }
}

impl Warp {
    pub fn new(id: usize, live: u32, values: usize, preds: usize, checked: bool) -> Warp {
        Warp {
            id,
            live,
            groups: Vec::new(),
            nodes: Vec::new(),
            free_nodes: Vec::new(),
            values: vec![[0; 32]; values],
            written: vec![0; values],
            preds: vec![0; preds],
            preds_written: vec![0; preds],
            pred_lines: vec![0; preds],
            carry: 0,
            carry_open: 0,
            carry_lines: [0; 32],
            value_base: 0,
            pred_base: 0,
            checked,
            local: vec![Local::default(); 32],
            frames: Vec::new(),
            copies: vec![Copies::default(); 32],
            in_flight: InFlight::default(),
            stores: vec![Copies::default(); 32],
        }
    }

    /// The lanes' values.
    #[inline(always)]
    pub fn value(&self, slot: Slot) -> &Lanes {
        &self.values[self.value_base + slot as usize]
    }

    /// The lanes' values, which must all be written.
    #[inline(always)]
    pub fn read(&self, slot: Slot, mask: u32) -> Step<&Lanes> {
        self.need(slot, mask)?;
        Ok(self.value(slot))
    }

    /// Checks that the lanes wrote the register.
    #[inline(always)]
    pub fn need(&self, slot: Slot, mask: u32) -> Step {
        if self.checked {
            let missing = mask & !self.written[self.value_base + slot as usize];
            if missing != 0 {
                return Err(self.unwritten(slot, false, missing));
            }
        }
        Ok(())
    }

    #[cold]
    fn unwritten(&self, slot: u32, pred: bool, missing: u32) -> Raise {
        // The name is filled in by the caller that knows the function.
        let register = format!("{}{slot}", if pred { "p#" } else { "r#" });
        let lane = Some(missing.trailing_zeros());
        if !pred && let Some(issued_line) = self.in_flight.line_of(self.value_base + slot as usize)
        {
            let kind = FaultKind::PendingMma { access: "read", what: register, issued_line };
            return Raise { kind, lane };
        }
        let first = missing.trailing_zeros();
        let opened = match pred {
            true => self.pred_opened_at(self.pred_base + slot as usize, first),
            false => self.opened_at(self.value_base + slot as usize, first),
        };
        let kind = match opened {
            Some(divided_line) => FaultKind::DivisionByZero { register, divided_line },
            None => FaultKind::UninitialisedRegister { register },
        };
        Raise { kind, lane }
    }

    /// Writes the lanes in the mask.
    #[inline(always)]
    pub fn write(&mut self, slot: Slot, lanes: &Lanes, mask: u32) {
        let i = self.value_base + slot as usize;
        self.written[i] |= mask;
        let to = &mut self.values[i];
        if mask == u32::MAX {
            *to = *lanes;
        } else {
            for (l, (to, from)) in to.iter_mut().zip(lanes).enumerate() {
                if mask >> l & 1 == 1 {
                    *to = *from;
                }
            }
        }
    }

    /// Writes one lane.
    #[inline(always)]
    pub fn write_lane(&mut self, slot: Slot, lane: usize, value: u64) {
        let i = self.value_base + slot as usize;
        self.values[i][lane] = value;
        self.written[i] |= 1 << lane;
    }

    /// A value that all lanes of the mask must agree on.
    pub fn uniform(&self, slot: Slot, mask: u32, what: &str) -> Step<u64> {
        let lanes = self.read(slot, mask)?;
        let first = mask.trailing_zeros() as usize;
        let value = lanes[first & 31];
        for (l, v) in lanes.iter().enumerate() {
            if mask >> l & 1 == 1 && *v != value {
                let message = format!("{what} differs between lanes {first} and {l}");
                return Err(Raise::at(l)(FaultKind::InvalidOperand(message)));
            }
        }
        Ok(value)
    }

    /// The lanes for which the predicate holds.
    #[inline(always)]
    pub fn pred(&self, p: Pred, mask: u32) -> Step<u32> {
        let i = self.pred_base + p.slot as usize;
        if self.checked {
            let missing = mask & !self.preds_written[i];
            if missing != 0 {
                return Err(self.unwritten(p.slot, true, missing));
            }
        }
        let v = self.preds[i];
        Ok(if p.negated { !v } else { v })
    }

    /// Writes the lanes in the mask.
    #[inline(always)]
    pub fn write_pred(&mut self, slot: PSlot, value: u32, mask: u32) {
        let i = self.pred_base + slot as usize;
        self.preds[i] = self.preds[i] & !mask | value & mask;
        self.preds_written[i] |= mask;
    }

    fn new_node(&mut self, node: Node) -> usize {
        match self.free_nodes.pop() {
            Some(i) => {
                self.nodes[i] = node;
                i
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }

    /// Whether the group stands at its meeting point.
    #[inline(always)]
    pub fn at_meeting(&self, g: &Group) -> bool {
        g.node != NO_NODE && {
            let n = &self.nodes[g.node];
            n.pc == g.pc && n.depth == g.frames.len()
        }
    }

    /// Sends the lanes of `g` different ways. Each way becomes a group of its own.
    pub fn part(&mut self, g: Group, ways: &[(u32, u32)], meet: u32) {
        let depth = g.frames.len();
        let mut node = g.node;
        if meet != NOWHERE {
            let shared = node != NO_NODE && {
                let n = &self.nodes[node];
                n.pc == meet && n.depth == depth
            };
            if !shared {
                let expected = g.mask;
                let parent = g.node;
                let (function, stack) = (g.function, g.stack);
                node = self.new_node(Node {
                    function,
                    pc: meet,
                    stack,
                    depth,
                    expected,
                    arrived: 0,
                    parent,
                });
            }
        }
        for &(pc, mask) in ways.iter().filter(|w| w.1 != 0) {
            let group = Group { mask, pc, node, ..g.clone() };
            if self.at_meeting(&group) {
                self.arrive(group);
            } else {
                self.groups.push(group);
            }
        }
    }

    /// The group waits at its meeting point; the last one to come sets all going.
    pub fn arrive(&mut self, g: Group) {
        self.nodes[g.node].arrived |= g.mask;
        self.settle(g);
    }

    /// Lets the lanes at `g`'s meeting point go on if all have come.
    fn settle(&mut self, g: Group) {
        let n = self.nodes[g.node];
        if n.arrived != n.expected {
            return;
        }
        self.free_nodes.push(g.node);
        if n.arrived != 0 {
            let (function, pc, stack) = (n.function, n.pc, n.stack);
            let mut group = Group { mask: n.arrived, function, pc, stack, node: n.parent, ..g };
            group.frames.truncate(n.depth);
            group.state = State::Ready;
            group.turns = 0;
            if self.at_meeting(&group) {
                self.arrive(group);
            } else {
                self.groups.push(group);
            }
        }
    }

    /// Lets lanes go on that wait for this group: it may be spinning on something that only
    /// they can do. They meet it again further on, if at all.
    pub fn unblock(&mut self, g: &Group) {
        let mut node = g.node;
        while node != NO_NODE {
            let n = self.nodes[node];
            if n.arrived != 0 {
                self.nodes[node].expected &= !n.arrived;
                self.nodes[node].arrived = 0;
                let mut group = Group {
                    mask: n.arrived,
                    function: n.function,
                    pc: n.pc,
                    stack: n.stack,
                    node: n.parent,
                    turns: 0,
                    ..g.clone()
                };
                group.frames.truncate(n.depth);
                if self.at_meeting(&group) {
                    self.arrive(group);
                } else {
                    self.groups.push(group);
                }
            }
            node = n.parent;
        }
    }

    /// The lanes end: nobody waits for them any more. `g` is the group they were in.
    pub fn retire(&mut self, g: &Group, mask: u32) {
        self.live &= !mask;
        let mut node = g.node;
        while node != NO_NODE {
            let n = &mut self.nodes[node];
            n.expected &= !mask;
            let (parent, done) = (n.parent, n.expected == n.arrived);
            if done {
                // `settle` cuts the frames back to the depth of the meeting point.
                self.settle(Group { node, ..g.clone() });
            }
            node = parent;
        }
    }

    /// The lanes of all groups that stand at this instruction.
    pub fn standing_at(&self, function: usize, pc: u32, depth: usize) -> Vec<usize> {
        (0..self.groups.len())
            .filter(|&i| {
                let g = &self.groups[i];
                g.state == State::Converging
                    && g.function == function
                    && g.pc == pc
                    && g.frames.len() == depth
            })
            .collect()
    }
}

/// Names a register in a fault, now that the function is known.
pub(crate) fn name_register(kind: FaultKind, names: &[String], preds: &[String]) -> FaultKind {
    let pick = |list: &[String], n: &str| {
        n.parse::<usize>().ok().and_then(|i| list.get(i)).cloned().unwrap_or_default()
    };
    let name = |register: String| {
        if let Some(n) = register.strip_prefix("r#") {
            pick(names, n)
        } else if let Some(n) = register.strip_prefix("p#") {
            pick(preds, n)
        } else {
            register
        }
    };
    match kind {
        FaultKind::UninitialisedRegister { register } => {
            FaultKind::UninitialisedRegister { register: name(register) }
        }
        FaultKind::DivisionByZero { register, divided_line } => {
            FaultKind::DivisionByZero { register: name(register), divided_line }
        }
        FaultKind::PendingMma { access, what, issued_line } if what.contains('#') => {
            FaultKind::PendingMma {
                access,
                what: format!("register `{}`", name(what)),
                issued_line,
            }
        }
        kind => kind,
    }
}

/// Whether an instruction needs lanes to converge first.
pub(crate) fn converges(inst: &Inst) -> bool {
    use crate::lower::ops::Op;
    match &inst.op {
        Op::Bar { aligned, .. } => *aligned,
        Op::WarpSync { .. }
        | Op::Shfl { .. }
        | Op::Vote { .. }
        | Op::Match { .. }
        | Op::Redux { .. }
        | Op::Elect { .. }
        | Op::LdMatrix { .. }
        | Op::StMatrix { .. }
        | Op::MovMatrix { .. }
        | Op::Mma(_)
        | Op::Wgmma(_)
        | Op::WgmmaFence
        | Op::WgmmaCommit
        | Op::WgmmaWait { .. }
        | Op::SetMaxNreg { .. } => true,
        _ => false,
    }
}
