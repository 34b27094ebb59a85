//! Branches, calls, returns and block barriers.

use super::block::Env;
use super::memory::LOCAL_WINDOW;
use super::warp::{Frame, Group, Raise, Saved, State, Step, Warp};
use crate::error::FaultKind;
use crate::lower::ops::{AT_RETURN, BarKind, Inst, Op};

/// Digits after the point that `printf` shows.
const MAX_DIGITS: usize = 64;
/// Calls nest at most this deep.
const MAX_DEPTH: u32 = 1024;
/// Local memory of a thread, frames of all callers included: the limit of every target.
pub(crate) const MAX_STACK: u64 = 512 << 10;

impl Warp {
    /// Runs a control instruction. `mask` are the lanes for which the guard holds. `None`
    /// when the group was split up or ended.
    pub fn flow(
        &mut self,
        env: &mut Env<'_>,
        mut g: Group,
        inst: &Inst,
        mask: u32,
    ) -> Step<Option<Group>> {
        let rest = g.mask & !mask;
        let next = g.pc + 1;
        match &inst.op {
            Op::Bra { target, meet } => {
                if rest == 0 || mask == 0 {
                    g.pc = if rest == 0 { *target } else { next };
                    return Ok(Some(g));
                }
                self.part(g, &[(*target, mask), (next, rest)], *meet);
                Ok(None)
            }
            Op::BrxIdx { index, targets, meet } => {
                let lanes = *self.read(*index, mask)?;
                let mut ways: Vec<(u32, u32)> = Vec::new();
                for l in (0..32).filter(|l| mask >> l & 1 == 1) {
                    let Some(&to) = usize::try_from(lanes[l]).ok().and_then(|i| targets.get(i))
                    else {
                        let message = format!(
                            "branch index {} is out of a table of {}",
                            lanes[l],
                            targets.len()
                        );
                        return Err(Raise::at(l)(FaultKind::InvalidOperand(message)));
                    };
                    match ways.iter_mut().find(|w| w.0 == to) {
                        Some(w) => w.1 |= 1 << l,
                        None => ways.push((to, 1 << l)),
                    }
                }
                if rest != 0 {
                    ways.push((next, rest));
                }
                if let [(to, _)] = ways[..] {
                    g.pc = to;
                    return Ok(Some(g));
                }
                self.part(g, &ways, *meet);
                Ok(None)
            }
            Op::Ret => {
                if mask == 0 {
                    g.pc = next;
                    return Ok(Some(g));
                }
                if rest == 0 {
                    g.pc = AT_RETURN;
                    return Ok(Some(g));
                }
                self.part(g, &[(AT_RETURN, mask), (next, rest)], inst.meet);
                Ok(None)
            }
            Op::Exit => {
                if mask != 0 {
                    self.end(env, &g, mask);
                }
                g.mask = rest;
                g.pc = next;
                Ok((rest != 0).then_some(g))
            }
            Op::Call { callee, args, .. } => {
                if mask == 0 {
                    g.pc = next;
                    return Ok(Some(g));
                }
                if rest != 0 {
                    // The lanes that do not call wait behind the call.
                    let call = [(g.pc, mask), (next, rest)];
                    self.part(g, &call, next);
                    return Ok(None);
                }
                self.call(env, g, *callee as usize, args).map(Some)
            }
            _ => Ok(Some(g)),
        }
    }

    fn call(
        &mut self,
        env: &mut Env<'_>,
        mut g: Group,
        callee: usize,
        args: &[(i64, i64, u32)],
    ) -> Step<Group> {
        if g.frames.len() as u32 >= MAX_DEPTH {
            let kind = FaultKind::CallDepth(MAX_DEPTH);
            return Err(Raise { kind, lane: Some(g.mask.trailing_zeros()) });
        }
        let image = env.image;
        let caller = &image.functions[g.function];
        let frame_bytes = image.functions[callee].frame_bytes;
        let align = image.functions[callee].frame_align;
        let stack = (g.stack + caller.frame_bytes).next_multiple_of(align);
        if stack + frame_bytes > MAX_STACK {
            let kind = FaultKind::StackOverflow { needed: stack + frame_bytes, limit: MAX_STACK };
            return Err(Raise { kind, lane: Some(g.mask.trailing_zeros()) });
        }
        for l in (0..32).filter(|l| g.mask >> l & 1 == 1) {
            self.clear_frame(l, stack, frame_bytes);
            for (from, to, bytes) in args {
                self.copy_local(
                    l,
                    g.stack.wrapping_add_signed(*from),
                    stack.wrapping_add_signed(*to),
                    *bytes,
                );
            }
        }
        let recursive = g.function == callee || g.frames.iter().any(|f| f.function == callee);
        let saved = recursive.then(|| {
            let v = image.value_base[callee]
                ..image.value_base[callee] + image.functions[callee].slots as usize;
            let p = image.pred_base[callee]
                ..image.pred_base[callee] + image.functions[callee].preds as usize;
            Box::new(Saved {
                values: self.values[v.clone()].to_vec(),
                written: self.written[v].to_vec(),
                preds: self.preds[p.clone()].to_vec(),
                preds_written: self.preds_written[p].to_vec(),
            })
        });
        g.frames.push(Frame { function: g.function, pc: g.pc, stack: g.stack, saved });
        g.function = callee;
        g.pc = 0;
        g.stack = stack;
        self.enter(env, callee);
        Ok(g)
    }

    /// Returns from a function; from the kernel, the lanes end.
    pub fn leave(&mut self, env: &mut Env<'_>, mut g: Group) -> Option<Group> {
        let Some(frame) = g.frames.pop() else {
            let mask = g.mask;
            self.end(env, &g, mask);
            return None;
        };
        let image = env.image;
        let inst = &image.functions[frame.function].insts[frame.pc as usize];
        if let Op::Call { returns, .. } = &inst.op {
            for l in (0..32).filter(|l| g.mask >> l & 1 == 1) {
                for (ours, theirs, bytes) in returns {
                    self.copy_local(
                        l,
                        g.stack.wrapping_add_signed(*theirs),
                        frame.stack.wrapping_add_signed(*ours),
                        *bytes,
                    );
                }
            }
        }
        if let Some(saved) = &frame.saved {
            let (v, p) = (image.value_base[g.function], image.pred_base[g.function]);
            for (i, lanes) in saved.values.iter().enumerate() {
                for (l, x) in lanes.iter().enumerate().filter(|(l, _)| g.mask >> l & 1 == 1) {
                    self.values[v + i][l] = *x;
                }
                let w = &mut self.written[v + i];
                *w = *w & !g.mask | saved.written[i] & g.mask;
            }
            for i in 0..saved.preds.len() {
                let (x, w) = (&mut self.preds[p + i], &mut self.preds_written[p + i]);
                *x = *x & !g.mask | saved.preds[i] & g.mask;
                *w = *w & !g.mask | saved.preds_written[i] & g.mask;
            }
        }
        g.function = frame.function;
        g.pc = frame.pc + 1;
        g.stack = frame.stack;
        self.enter(env, g.function);
        Some(g)
    }

    /// Ends lanes.
    fn end(&mut self, env: &mut Env<'_>, g: &Group, mask: u32) {
        env.live -= mask.count_ones();
        env.progress += 1;
        self.retire(g, mask);
    }

    /// The functions that CUDA's headers call and that have no body.
    pub fn call_extern(
        &mut self,
        env: &mut Env<'_>,
        name: &str,
        args: &[(i64, u32)],
        returns: &[(i64, u32)],
        mask: u32,
        stack: u64,
    ) -> Step {
        if name == "__assertfail" {
            let lane = mask.trailing_zeros() as usize;
            let mut text = String::new();
            if let Some(&(at, 8)) = args.first() {
                let at = LOCAL_WINDOW + stack.wrapping_add_signed(at);
                let pointer = self.local_word(lane, at);
                text = env.text_at(pointer);
            }
            let message = format!(": the device-side assertion `{text}` failed");
            return Err(Raise::at(lane)(FaultKind::Trap(message)));
        }
        // `vprintf`: the format goes to the launch's output as it is, once for every lane.
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            if let Some(&(at, 8)) = args.first() {
                let at = LOCAL_WINDOW + stack.wrapping_add_signed(at);
                let format = env.text_at(self.local_word(lane, at));
                let values = args.get(1).map_or(0, |&(at, _)| {
                    self.local_word(lane, LOCAL_WINDOW + stack.wrapping_add_signed(at))
                });
                let line = self.format(lane, &format, values);
                env.output.extend_from_slice(line.as_bytes());
            }
            for &(at, bytes) in returns {
                self.put_local(lane, stack.wrapping_add_signed(at), bytes, 0);
            }
        }
        Ok(())
    }

    /// `printf`'s formatting of what device code passes: integers, floats, pointers.
    fn format(&self, lane: usize, format: &str, mut at: u64) -> String {
        let mut out = String::new();
        // The next argument, aligned to its size, which is a power of two.
        let take = |at: &mut u64, size: u64| {
            let start = at.wrapping_add(size - 1) & !(size - 1);
            *at = start.wrapping_add(size);
            self.local_word(lane, start)
        };
        let mut rest = format.chars().peekable();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut long = false;
            let mut precision = String::new();
            for c in rest.by_ref() {
                match c {
                    '%' => out.push('%'),
                    'l' | 'z' => {
                        long = true;
                        continue;
                    }
                    '0'..='9' | '.' | '-' | '+' | ' ' | '#' | 'h' => {
                        precision.push(c);
                        continue;
                    }
                    'd' | 'i' | 'u' | 'x' | 'X' | 'c' => {
                        let size = if long { 8 } else { 4 };
                        let v = take(&mut at, size);
                        let v32 = v as u32;
                        out += &match (c, long) {
                            ('d' | 'i', false) => (v32 as i32).to_string(),
                            ('d' | 'i', true) => (v as i64).to_string(),
                            ('u', false) => v32.to_string(),
                            ('u', true) => v.to_string(),
                            ('c', _) => char::from(v32 as u8).to_string(),
                            (_, false) => format!("{v32:x}"),
                            (_, true) => format!("{v:x}"),
                        };
                    }
                    'f' | 'g' | 'e' => {
                        let v = f64::from_bits(take(&mut at, 8));
                        let digits: Option<usize> =
                            precision.split('.').nth(1).and_then(|p| p.parse().ok());
                        let digits = digits.map(|d| d.min(MAX_DIGITS));
                        out += &match c {
                            'f' => format!("{v:.*}", digits.unwrap_or(6)),
                            'e' => format!("{v:e}"),
                            _ => format!("{v}"),
                        };
                    }
                    'p' => {
                        out += &format!("{:#x}", take(&mut at, 8));
                    }
                    other => {
                        out.push('%');
                        out.push(other);
                    }
                }
                break;
            }
        }
        out
    }

    /// Arrives at a block barrier.
    pub fn block_barrier(&mut self, env: &mut Env<'_>, inst: &Inst, mask: u32) -> Step<State> {
        let Op::Bar { kind, id, count, aligned } = &inst.op else { return Ok(State::Ready) };
        let misuse = |message: String| Raise {
            kind: FaultKind::BarrierMisuse(message),
            lane: Some(mask.trailing_zeros()),
        };
        let id = self.uniform(*id, mask, "the barrier number")?;
        let count = match count {
            None => None,
            Some(c) => Some(self.uniform(*c, mask, "the barrier's thread count")? as u32),
        };
        let known = env.barriers.len() as u64;
        // The last one is the cluster's, which no number in a kernel may name.
        if id >= known || id == known - 1 && count.is_some() {
            return Err(misuse(format!("barrier {id} does not exist, there are 16")));
        }
        if let Some(c) = count
            && (c == 0 || c % 32 != 0)
        {
            return Err(misuse(format!("{c} threads: the count must be a multiple of 32")));
        }
        let (red, ones) = match kind {
            BarKind::Red { op, input, .. } => {
                (Some(*op), (self.pred(*input, mask)? & mask).count_ones())
            }
            _ => (None, 0),
        };
        let id = id as usize;
        // Warps count as 32 threads where a number of threads is given.
        let threads = if count.is_some() && *aligned { 32 } else { mask.count_ones() };
        let live = env.live;
        let b = &mut env.barriers[id];
        if b.arrived > 0 && b.count != count {
            let show = |c: Option<u32>| c.map_or("all".to_string(), |c| c.to_string());
            return Err(misuse(format!(
                "barrier {id} is used for {} threads here and for {} at PTX line {}",
                show(count),
                show(b.count),
                b.line
            )));
        }
        if b.arrived > 0 && b.red != red && !matches!(kind, BarKind::Arrive) && b.red.is_some() {
            return Err(misuse(format!("barrier {id} is used for different reductions")));
        }
        if b.arrived == 0 {
            b.line = inst.line;
        }
        b.count = count;
        b.red = b.red.or(red);
        b.arrived += threads;
        b.inputs += mask.count_ones();
        b.ones += ones;
        if count.is_some_and(|c| b.arrived > c) {
            return Err(misuse(format!(
                "{} threads arrive at barrier {id}, which takes {}",
                b.arrived,
                count.unwrap_or(live)
            )));
        }
        let generation = b.generation;
        let mut gathered = std::mem::take(&mut b.gathered);
        env.clocks.release(self.id, &mut gathered);
        env.barriers[id].gathered = gathered;
        env.progress += 1;
        Ok(match kind {
            BarKind::Arrive => State::Ready,
            _ => State::AtBarrier { id, generation },
        })
    }

    /// Writes the result of a barrier's reduction when its lanes wake up.
    pub fn barrier_result(&mut self, env: &Env<'_>, g: &Group, id: usize) {
        let Some(pc) = g.pc.checked_sub(1) else { return };
        let f = &env.image.functions[g.function];
        let Some(inst) = f.insts.get(pc as usize) else { return };
        self.enter(env, g.function);
        if let Op::Bar { kind: BarKind::Red { value, pred, .. }, .. } = &inst.op {
            let result = env.barriers[id].result;
            if let Some(d) = value {
                self.write(*d, &[result; 32], g.mask);
            }
            if let Some(p) = pred {
                self.write_pred(*p, if result != 0 { u32::MAX } else { 0 }, g.mask);
            }
        }
    }
}

impl Env<'_> {
    /// A C string in device memory.
    fn text_at(&self, mut address: u64) -> String {
        let mut bytes = Vec::new();
        while bytes.len() < 4096 {
            match self.image.memory.load(address, 1, false) {
                Ok(0) | Err(_) => break,
                Ok(b) => bytes.push(b as u8),
            }
            address = address.wrapping_add(1);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
