//! One block: its warps take turns until all have ended.

use std::collections::HashMap;

use super::barrier::Barrier;
use super::image::Image;
use super::mbarrier::MbarState;
use super::warp::{Group, NO_NODE, Raise, State, Warp, name_register};
use super::wgmma::GroupLog;
use crate::check::order::Clocks;
use crate::check::shared::SharedMemory;
use crate::error::{Error, Fault, FaultKind, Result};
use crate::lower::ops::Op;
use crate::profile::Profile;
use crate::target::Target;

/// Instructions a group runs before others get their turn.
const SLICE: u32 = 4096;
/// Turns after which lanes that wait for a group to meet them stop waiting.
const PATIENCE: u32 = 8;
/// Turns without a store, a barrier or an ended thread, in which somebody only polls,
/// before this counts as a deadlock.
const IDLE_ROUNDS: u32 = 64;

/// What the warps of a block share.
pub(crate) struct Env<'a> {
    pub image: &'a Image<'a>,
    pub block: [u32; 3],
    pub shared: SharedMemory,
    pub clocks: Clocks,
    pub barriers: Vec<Barrier>,
    pub mbarriers: HashMap<u64, MbarState>,
    /// What each warpgroup executes together.
    pub groups: Vec<GroupLog>,
    /// Registers of a thread, by warp; those of all warps fit in the pool.
    pub registers: Vec<u32>,
    pub register_pool: u32,
    pub live: u32,
    pub executed: u64,
    pub lanes: u64,
    /// Counts what can wake a polling thread.
    pub progress: u64,
    /// Line of the last poll that failed.
    pub polled: Option<u32>,
    pub line: u32,
    pub profile: Option<Profile>,
    pub output: Vec<u8>,
}

/// How a group's turn ended.
pub(crate) enum Turn {
    /// The group is gone: it ended, or it waits at a meeting point.
    Gone,
    /// It waits in the given state.
    Wait(Group),
    /// Its time is over.
    Over(Group),
}

/// The warps and what they share.
pub(crate) struct Block<'a> {
    env: Env<'a>,
    warps: Vec<Warp>,
}

impl<'a> Block<'a> {
    pub fn new(image: &'a Image<'a>, block: [u32; 3]) -> Block<'a> {
        let threads: u32 = image.config.block.iter().product();
        let checked = image.config.checks;
        let count = threads.div_ceil(32) as usize;
        let warps = (0..count)
            .map(|w| {
                let lanes = threads - 32 * w as u32;
                let live = if lanes >= 32 { u32::MAX } else { (1 << lanes) - 1 };
                let mut warp = Warp::new(w, live, image.values, image.preds, checked);
                for &(slot, v) in &image.constants {
                    warp.values[slot] = [v; 32];
                    warp.written[slot] = u32::MAX;
                }
                for &(slot, s) in &image.specials {
                    warp.values[slot] = image.special(s, block, w);
                    warp.written[slot] = u32::MAX;
                }
                warp.groups.push(Group {
                    mask: live,
                    function: image.entry,
                    pc: 0,
                    stack: 0,
                    node: NO_NODE,
                    frames: Vec::new(),
                    state: State::Ready,
                    turns: 0,
                });
                warp
            })
            .collect();
        let most = (Target::REGISTERS / (count as u32 * 32) / 8 * 8).min(256);
        let registers = image.functions[image.entry].tuning.max_nreg.unwrap_or(most);
        let env = Env {
            image,
            block,
            shared: SharedMemory::new(image.regions.clone(), checked),
            clocks: Clocks::new(count),
            barriers: (0..17).map(|_| Barrier::default()).collect(),
            mbarriers: HashMap::new(),
            groups: (0..count.div_ceil(4)).map(|_| GroupLog::default()).collect(),
            registers: vec![registers; count],
            register_pool: registers * count as u32,
            live: threads,
            executed: 0,
            lanes: 0,
            progress: 0,
            polled: None,
            line: 0,
            profile: image.config.profile.then(Profile::default),
            output: Vec::new(),
        };
        Block { env, warps }
    }

    /// Runs the block to its end; gives back what it counted.
    pub fn run(mut self) -> Result<Env<'a>> {
        let mut idle = 0;
        loop {
            let before = (self.env.executed, self.env.progress);
            self.env.polled = None;
            let mut running = false;
            for w in 0..self.warps.len() {
                self.turn(w)?;
                running |= !self.warps[w].groups.is_empty();
                let live = self.env.live;
                for b in &mut self.env.barriers {
                    self.env.progress += u64::from(b.settle(live));
                }
            }
            if !running {
                self.groups_agree()?;
                return Ok(self.env);
            }
            if self.env.executed == before.0 && self.env.progress == before.1 {
                return Err(self.deadlock());
            }
            idle = if self.env.progress == before.1 && self.env.polled.is_some() {
                idle + 1
            } else {
                0
            };
            if idle > IDLE_ROUNDS {
                return Err(self.deadlock());
            }
        }
    }

    /// Whatever some warp of a warpgroup ran for the whole group, all must have run.
    fn groups_agree(&self) -> Result<()> {
        let left = self
            .env
            .groups
            .iter()
            .enumerate()
            .find_map(|(g, log)| log.left_over().map(|(entry, warp)| (entry, 4 * g + warp)));
        let Some((entry, warp)) = left else { return Ok(()) };
        let message = "other warps of the warpgroup ended without running this".to_string();
        let raise = Raise { kind: FaultKind::BarrierMisuse(message), lane: Some(0) };
        Err(fault(&self.env, warp, raise, entry.function, entry.pc))
    }

    /// Lets one warp run until its groups wait or used up their time.
    fn turn(&mut self, w: usize) -> Result<()> {
        let warp = &mut self.warps[w];
        let env = &mut self.env;
        let mut over = Vec::new();
        loop {
            for i in 0..warp.groups.len() {
                if let State::AtBarrier { id, generation } = warp.groups[i].state
                    && env.barriers[id].generation != generation
                {
                    warp.groups[i].state = State::Ready;
                    let g = warp.groups[i].clone();
                    env.clocks.acquire(w, &env.barriers[id].released);
                    env.clocks.sync_lanes(w, g.mask, warp.live);
                    warp.barrier_result(env, &g, id);
                }
            }
            let Some(i) = warp.groups.iter().position(|g| g.state == State::Ready) else {
                if !over.is_empty() || !resolve(warp, env)? {
                    break;
                }
                continue;
            };
            let g = warp.groups.swap_remove(i);
            let place = (g.function, g.pc);
            match warp.run(env, g, SLICE) {
                Ok(Turn::Gone) => {}
                Ok(Turn::Wait(g)) => warp.groups.push(g),
                Ok(Turn::Over(mut g)) => {
                    g.turns += 1;
                    if g.turns % PATIENCE == 0 {
                        warp.unblock(&g);
                    }
                    over.push(g);
                }
                Err((raise, function, pc)) => {
                    debug_assert!(place.0 < env.image.functions.len());
                    return Err(fault(env, w, raise, function, pc));
                }
            }
        }
        warp.groups.append(&mut over);
        Ok(())
    }

    fn deadlock(&self) -> Error {
        let mut waits = Vec::new();
        for (id, b) in self.env.barriers.iter().enumerate().filter(|b| b.1.arrived > 0) {
            let needed = b.count.unwrap_or(self.env.live);
            waits.push(format!(
                "barrier {id} (PTX line {}) has {} of {needed} threads",
                b.line, b.arrived
            ));
        }
        if let Some(line) = self.env.polled {
            waits.push(format!("the wait at PTX line {line} never comes true"));
        }
        let (w, g) = self
            .warps
            .iter()
            .find_map(|w| w.groups.first().map(|g| (w.id, g)))
            .map_or((0, None), |(w, g)| (w, Some(g)));
        let (function, pc, lane) =
            g.map_or((self.env.image.entry, 0, 0), |g| (g.function, g.pc, g.mask.trailing_zeros()));
        // A group at a barrier has gone one past it.
        let pc = match g.map(|g| g.state) {
            Some(State::AtBarrier { .. }) => pc.saturating_sub(1),
            _ => pc,
        };
        let kind = FaultKind::Deadlock(waits.join("; "));
        fault(&self.env, w, Raise { kind, lane: Some(lane) }, function, pc)
    }
}

/// Runs an instruction for which lanes of several groups stand together, or says that it
/// can never run. `false` if there is nothing to do here.
fn resolve(warp: &mut Warp, env: &mut Env<'_>) -> Result<bool> {
    let Some(first) = warp.groups.iter().position(|g| g.state == State::Converging) else {
        return Ok(false);
    };
    let candidates: Vec<usize> =
        (0..warp.groups.len()).filter(|&i| warp.groups[i].state == State::Converging).collect();
    let mut refused = None;
    for i in candidates {
        let (function, pc) = (warp.groups[i].function, warp.groups[i].pc);
        match warp.run_together(env, i) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(raise) => {
                refused.get_or_insert((raise, function, pc));
            }
        }
    }
    // Lanes at block barriers may still come: then wait for them.
    if warp.groups.iter().any(|g| matches!(g.state, State::AtBarrier { .. })) {
        return Ok(false);
    }
    let g = &warp.groups[first];
    let (raise, function, pc) = refused.unwrap_or_else(|| {
        let expected = warp.live;
        let kind = FaultKind::DivergentBarrier { what: "barrier", active: g.mask, expected };
        (Raise { kind, lane: Some(g.mask.trailing_zeros()) }, g.function, g.pc)
    });
    Err(fault(env, warp.id, raise, function, pc))
}

/// Adds the place to what went wrong.
fn fault(env: &Env<'_>, warp: usize, raise: Raise, function: usize, pc: u32) -> Error {
    let image = env.image;
    let f = &image.functions[function];
    let last = f.insts.len() - 1;
    let inst = &f.insts[(pc as usize).min(last)];
    let text = image.text.get(inst.span.clone()).unwrap_or("");
    let mut instruction = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if instruction.is_empty() && matches!(inst.op, Op::Ret) {
        instruction = "ret".into();
    }
    let dims = image.config.block;
    let thread = raise.lane.map(|l| {
        let linear = warp as u32 * 32 + l;
        [linear % dims[0], linear / dims[0] % dims[1], linear / dims[0] / dims[1]]
    });
    let named = |(file, line)| image.files.get(&file).map(|name| (name.clone(), line));
    let other_line = match raise.kind {
        FaultKind::Race { other_line, .. } => Some(other_line),
        FaultKind::PendingCopy { issued_line, .. } => Some(issued_line),
        FaultKind::DivisionByZero { divided_line, .. } => Some(divided_line),
        _ => None,
    };
    let mut all = image.functions.iter().flat_map(|f| &f.insts);
    let other = other_line.and_then(|line| all.find(|i| i.line == line));
    Error::Fault(Box::new(Fault {
        kernel: image.functions[image.entry].name.clone(),
        function: f.name.clone(),
        line: inst.line,
        source: inst.loc.and_then(|l| named(l.at)),
        inlined_at: inst.loc.and_then(|l| l.inlined).and_then(named),
        other_source: other.and_then(|i| i.loc).and_then(|l| named(l.at)),
        instruction,
        block: env.block,
        thread,
        kind: name_register(raise.kind, &f.slot_names, &f.pred_names),
    }))
}
