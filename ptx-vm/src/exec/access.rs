//! Loads, stores, `cp.async`.

use super::block::Env;
use super::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use super::warp::{Local, Raise, Step, Warp};
use crate::check::shared::Actor;
use crate::error::{FaultKind, Space};
use crate::lower::ops::{Access, Addr, Order, Pred, Slot};

/// Sign-extends `bytes` to a register of `to` bits; 0 leaves the value.
pub(super) fn extend(v: u64, bytes: u32, to: u32) -> u64 {
    if to == 0 {
        return v;
    }
    let shift = 64 - 8 * bytes;
    let wide = ((v << shift) as i64 >> shift) as u64;
    if to >= 64 { wide } else { wide & ((1 << to) - 1) }
}

/// An address resolved to the memory it lies in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Device(u64),
    Shared(u64),
    Local(u64),
    Param(u64),
}

fn window(address: u64, base: u64) -> Option<u64> {
    address.checked_sub(base).filter(|o| *o < WINDOW_BYTES)
}

impl Place {
    /// Finds the memory of an address in a state space.
    pub fn of(space: Space, address: u64) -> Place {
        match space {
            Space::Global | Space::Const => Place::Device(address),
            Space::Shared => Place::Shared(address & 0xffff_ffff),
            Space::Local => Place::Local(address.wrapping_sub(LOCAL_WINDOW)),
            Space::Param => Place::Param(address),
            Space::Generic => {
                if let Some(o) = window(address, SHARED_WINDOW) {
                    Place::Shared(o)
                } else if let Some(o) = window(address, LOCAL_WINDOW) {
                    Place::Local(o)
                } else if let Some(o) = window(address, PARAM_WINDOW) {
                    Place::Param(o)
                } else {
                    Place::Device(address)
                }
            }
        }
    }

    fn space(self) -> Space {
        match self {
            Place::Device(_) => Space::Global,
            Place::Shared(_) => Space::Shared,
            Place::Local(_) => Space::Local,
            Place::Param(_) => Space::Param,
        }
    }

    /// Whether the place belongs to a state space.
    pub fn is_in(self, space: Space, memory: &super::memory::DeviceMemory) -> bool {
        match self {
            Place::Device(a) if memory.is_read_only(a) => space == Space::Const,
            place => place.space() == space,
        }
    }

    fn address(self) -> u64 {
        match self {
            Place::Device(a) | Place::Shared(a) | Place::Local(a) | Place::Param(a) => a,
        }
    }

    /// This place, further by some bytes.
    pub fn plus(self, bytes: u64) -> Place {
        match self {
            Place::Device(a) => Place::Device(a.wrapping_add(bytes)),
            Place::Shared(a) => Place::Shared(a.wrapping_add(bytes)),
            Place::Local(a) => Place::Local(a.wrapping_add(bytes)),
            Place::Param(a) => Place::Param(a.wrapping_add(bytes)),
        }
    }

    /// Checks the alignment of a whole access.
    pub fn aligned(self, bytes: u32, access: &'static str) -> Result<(), FaultKind> {
        if self.address().is_multiple_of(u64::from(bytes)) {
            return Ok(());
        }
        Err(FaultKind::Misaligned {
            access,
            space: self.space(),
            address: self.address(),
            size: bytes,
            align: bytes,
        })
    }
}

impl Warp {
    /// The addresses of the lanes.
    pub(super) fn addresses(&self, addr: Addr, mask: u32, stack: u64) -> Step<[u64; 32]> {
        let base = if addr.frame { LOCAL_WINDOW.wrapping_add(stack) } else { 0 };
        let mut out = [base.wrapping_add_signed(addr.offset); 32];
        if let Some(slot) = addr.base {
            for (o, v) in out.iter_mut().zip(self.read(slot, mask)?) {
                *o = o.wrapping_add(*v);
            }
        }
        Ok(out)
    }

    /// Reads 1, 2, 4 or 8 bytes for one lane.
    pub(super) fn get(
        &self,
        env: &mut Env<'_>,
        place: Place,
        bytes: u32,
        lane: usize,
        weak: bool,
    ) -> Result<u64, FaultKind> {
        match place {
            Place::Device(a) => env.image.memory.load(a, bytes, self.checked),
            Place::Shared(a) => {
                let actor = Actor { warp: self.id, lane, line: env.line };
                env.shared.load(a, bytes, actor, &env.clocks, weak)
            }
            Place::Local(a) => self.load_local(env, lane, a, bytes),
            Place::Param(a) => env.image.param(a, bytes).ok_or(FaultKind::OutOfBounds {
                access: "read",
                space: Space::Param,
                address: a,
                size: bytes,
                near: String::new(),
            }),
        }
    }

    /// Writes 1, 2, 4 or 8 bytes for one lane.
    pub(super) fn set(
        &mut self,
        env: &mut Env<'_>,
        place: Place,
        bytes: u32,
        value: u64,
        lane: usize,
        weak: bool,
    ) -> Result<(), FaultKind> {
        match place {
            Place::Device(a) => env.image.memory.store(a, bytes, value),
            Place::Shared(a) => {
                let actor = Actor { warp: self.id, lane, line: env.line };
                env.shared.store(a, bytes, value, actor, &env.clocks, weak)
            }
            Place::Local(a) => {
                self.local_bounds(env, lane, a, bytes, "write")?;
                self.put_local(lane, a, bytes, value);
                Ok(())
            }
            Place::Param(a) => Err(FaultKind::ReadOnly { space: Space::Param, address: a }),
        }
    }

    pub(super) fn load(
        &mut self,
        env: &mut Env<'_>,
        access: &Access,
        mask: u32,
        stack: u64,
        _depth: usize,
    ) -> Step {
        let addresses = self.addresses(access.addr, mask, stack)?;
        let total = access.bytes * access.regs.len() as u32;
        let weak = access.order == Order::Weak;
        self.profile_access(env, access.space, &addresses, total, mask);
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            let place = Place::of(access.space, addresses[lane]);
            place.aligned(total, "read").map_err(Raise::at(lane))?;
            if !weak {
                env.clocks.strong(self.id, addresses[lane], true, false);
            }
            for (i, r) in access.regs.iter().enumerate() {
                let at = place.plus(i as u64 * u64::from(access.bytes));
                let v = self.get(env, at, access.bytes, lane, weak).map_err(Raise::at(lane))?;
                self.write_lane(*r, lane, extend(v, access.bytes, access.sign_to));
            }
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        env: &mut Env<'_>,
        access: &Access,
        mask: u32,
        stack: u64,
        _depth: usize,
    ) -> Step {
        let addresses = self.addresses(access.addr, mask, stack)?;
        let total = access.bytes * access.regs.len() as u32;
        let weak = access.order == Order::Weak;
        env.progress += 1;
        for r in &access.regs {
            self.need(*r, mask)?;
        }
        self.profile_access(env, access.space, &addresses, total, mask);
        let keep = if access.bytes == 8 { u64::MAX } else { (1 << (8 * access.bytes)) - 1 };
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            let place = Place::of(access.space, addresses[lane]);
            place.aligned(total, "write").map_err(Raise::at(lane))?;
            for (i, r) in access.regs.iter().enumerate() {
                let at = place.plus(i as u64 * u64::from(access.bytes));
                let v = self.value(*r)[lane] & keep;
                self.set(env, at, access.bytes, v, lane, weak).map_err(Raise::at(lane))?;
            }
            if !weak {
                env.clocks.strong(self.id, addresses[lane], false, true);
            }
        }
        Ok(())
    }

    pub(super) fn profile_access(
        &self,
        env: &mut Env<'_>,
        space: Space,
        addresses: &[u64; 32],
        bytes: u32,
        mask: u32,
    ) {
        if let Some(p) = &mut env.profile {
            let lanes = || (0..32).filter(|l| mask >> l & 1 == 1).map(|l| addresses[l]);
            match lanes().next().map(|a| Place::of(space, a)) {
                Some(Place::Shared(_)) => p.shared(env.line, lanes(), bytes),
                Some(Place::Device(_)) => p.global(env.line, lanes(), bytes),
                _ => {}
            }
        }
    }

    /// Marks a new frame's bytes as not written.
    pub(super) fn clear_frame(&mut self, lane: usize, stack: u64, bytes: u64) {
        let local = &mut self.local[lane];
        let (from, to) = (stack as usize, (stack + bytes) as usize);
        if local.data.len() < to {
            local.data.resize(to, 0);
            local.written.resize(to, false);
        }
        local.written[from..to].fill(false);
    }

    fn grow(local: &mut Local, end: usize) {
        if local.data.len() < end {
            local.data.resize(end, 0);
            local.written.resize(end, false);
        }
    }

    pub(super) fn copy_local(&mut self, lane: usize, from: u64, to: u64, bytes: u32) {
        let local = &mut self.local[lane];
        let (from, to, n) = (from as usize, to as usize, bytes as usize);
        Self::grow(local, from.max(to) + n);
        local.data.copy_within(from..from + n, to);
        local.written.copy_within(from..from + n, to);
    }

    pub(super) fn put_local(&mut self, lane: usize, at: u64, bytes: u32, value: u64) {
        let local = &mut self.local[lane];
        let at = at as usize;
        let end = at + bytes as usize;
        Self::grow(local, end);
        local.data[at..end].copy_from_slice(&value.to_le_bytes()[..bytes as usize]);
        local.written[at..end].fill(true);
    }

    /// Eight bytes of a lane's local memory by generic address, zero where there are none.
    pub(super) fn local_word(&self, lane: usize, address: u64) -> u64 {
        let mut word = [0; 8];
        let at = address.wrapping_sub(LOCAL_WINDOW) as usize;
        for (i, w) in word.iter_mut().enumerate() {
            *w = at.checked_add(i).and_then(|i| self.local[lane].data.get(i)).copied().unwrap_or(0);
        }
        u64::from_le_bytes(word)
    }

    fn load_local(
        &self,
        env: &Env<'_>,
        lane: usize,
        at: u64,
        bytes: u32,
    ) -> Result<u64, FaultKind> {
        self.local_bounds(env, lane, at, bytes, "read")?;
        let local = &self.local[lane];
        let (from, to) = (at as usize, at as usize + bytes as usize);
        let written = local.written.get(from..to);
        let missing = match written {
            Some(w) => w.iter().position(|w| !w),
            None => Some(0),
        };
        if let (Some(offset), true) = (missing, self.checked) {
            return Err(FaultKind::UninitialisedMemory {
                space: Space::Local,
                address: at,
                size: bytes,
                offset: offset as u32,
            });
        }
        let mut word = [0; 8];
        if let Some(data) = local.data.get(from..to) {
            word[..bytes as usize].copy_from_slice(data);
        }
        Ok(u64::from_le_bytes(word))
    }

    /// Checks that a local access lies in a variable of a frame that is in use.
    fn local_bounds(
        &self,
        env: &Env<'_>,
        _lane: usize,
        at: u64,
        bytes: u32,
        access: &'static str,
    ) -> Result<(), FaultKind> {
        let image = env.image;
        let inside = self.frames.iter().any(|&(function, stack)| {
            image.functions[function].frame.iter().any(|v| {
                let start = stack + v.offset;
                at >= start && at.saturating_add(u64::from(bytes)) <= start + v.bytes
            })
        });
        if inside {
            return Ok(());
        }
        Err(FaultKind::OutOfBounds {
            access,
            space: Space::Local,
            address: at,
            size: bytes,
            near: String::new(),
        })
    }

    pub(super) fn cp_async(
        &mut self,
        env: &mut Env<'_>,
        (dst, src, src_space): (Addr, Addr, Space),
        bytes: u32,
        src_bytes: Option<Slot>,
        ignore: Option<Pred>,
        mask: u32,
    ) -> Step {
        let to = self.addresses(dst, mask, 0)?;
        let from = self.addresses(src, mask, 0)?;
        let given = match src_bytes {
            Some(s) => Some(*self.read(s, mask)?),
            None => None,
        };
        let ignored = match ignore {
            Some(p) => self.pred(p, mask)?,
            None => 0,
        };
        self.profile_access(env, src_space, &from, bytes, mask);
        self.profile_access(env, Space::Shared, &to, bytes, mask);
        env.progress += 1;
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            let raise = Raise::at(lane);
            let mut wanted = given.map_or(u64::from(bytes), |g| g[lane]);
            if ignored >> lane & 1 == 1 {
                wanted = 0;
            }
            let result = (|| {
                if wanted > u64::from(bytes) {
                    let message = format!("source size {wanted} is more than {bytes}");
                    return Err(FaultKind::InvalidOperand(message));
                }
                let place = Place::of(Space::Shared, to[lane]);
                place.aligned(bytes, "asynchronous write")?;
                let mut data = [0u8; 16];
                if wanted > 0 {
                    let source = Place::of(src_space, from[lane]);
                    source.aligned(bytes, "asynchronous read")?;
                    for (i, b) in data.iter_mut().enumerate().take(wanted as usize) {
                        *b = self.get(env, source.plus(i as u64), 1, lane, true)? as u8;
                    }
                }
                let actor = Actor { warp: self.id, lane, line: env.line };
                let at = place.address();
                env.shared.start_copy(at, &data[..bytes as usize], actor, &env.clocks)
            })();
            let id = result.map_err(raise)?;
            self.copies[lane].open.push(id);
        }
        Ok(())
    }

    pub(super) fn commit_copies(&mut self, mask: u32) {
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            self.copies[lane].commit();
        }
    }

    pub(super) fn wait_copies(&mut self, env: &mut Env<'_>, pending: Option<u32>, mask: u32) {
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            let c = &mut self.copies[lane];
            let mut ids = c.finish(pending.unwrap_or(0) as usize);
            if pending.is_none() {
                ids.append(&mut c.open);
            }
            for id in ids {
                env.shared.finish_copy(id, self.id, lane, &env.clocks);
            }
        }
    }
}
