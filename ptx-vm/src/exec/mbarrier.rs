//! `mbarrier` objects.
//!
//! The eight bytes in shared memory hold a mark only; what the object knows is kept beside
//! it. The opaque state that `arrive` gives is the number of the phase.

use super::access::Place;
use super::block::Env;
use super::warp::{Raise, Step, Warp};
use crate::check::order::Moments;
use crate::error::{FaultKind, Space};
use crate::lower::ops::{Addr, MbarOp};

/// What the bytes of a live object look like.
const MARK: u64 = 0x6d62_6172_7269_6572;
/// The largest count.
const MAX_COUNT: u64 = (1 << 20) - 1;

/// A live object.
#[derive(Debug, Default)]
pub(crate) struct MbarState {
    phase: u64,
    expected: u64,
    pending: u64,
    /// Bytes announced less bytes that came.
    tx: i64,
    gathered: Moments,
    released: Moments,
    /// Copies that count against the current phase: (copy, bytes).
    pub copies: Vec<(u32, u32)>,
    /// Copies of phases that are over, to be released by whoever waits.
    done: Vec<u32>,
}

impl MbarState {
    fn settle(&mut self) {
        if self.pending == 0 && self.tx == 0 {
            self.phase += 1;
            self.pending = self.expected;
            self.released = std::mem::take(&mut self.gathered);
        }
    }
}

impl Warp {
    pub(super) fn mbarrier(
        &mut self,
        env: &mut Env<'_>,
        op: MbarOp,
        addr: Addr,
        space: Space,
        mask: u32,
    ) -> Step {
        if let MbarOp::PendingCount { d, state } = op {
            let v = self.read(state, mask)?.map(|s| s >> 40);
            self.write(d, &v, mask);
            return Ok(());
        }
        let addresses = self.addresses(addr, mask, 0)?;
        for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
            let raise = Raise::at(lane);
            self.mbarrier_lane(env, op, Place::of(space, addresses[lane]), lane).map_err(raise)?;
        }
        Ok(())
    }

    fn mbarrier_lane(
        &mut self,
        env: &mut Env<'_>,
        op: MbarOp,
        place: Place,
        lane: usize,
    ) -> Result<(), FaultKind> {
        let operand = |w: &Warp, slot| -> Result<u64, FaultKind> {
            Ok(w.read(slot, 1 << lane).map_err(|r| r.kind)?[lane])
        };
        place.aligned(8, "mbarrier operation")?;
        let Place::Shared(at) = place else {
            let message = "an mbarrier object lies in shared memory".to_string();
            return Err(FaultKind::InvalidOperand(message));
        };
        let misuse = |m: &str| FaultKind::BarrierMisuse(format!("the mbarrier at {at:#x} {m}"));
        if let MbarOp::Init { count } = op {
            let count = operand(self, count)?;
            if !(1..=MAX_COUNT).contains(&count) {
                return Err(misuse(&format!("is initialised with count {count}")));
            }
            // The initialisation is an ordinary write: using the object elsewhere needs a
            // barrier after it.
            self.set(env, place, 8, MARK, lane, true)?;
            let state = MbarState { expected: count, pending: count, ..MbarState::default() };
            env.mbarriers.insert(at, state);
            return Ok(());
        }
        // Operations on the object are ordered among themselves, not against its set-up.
        if self.get(env, place, 8, lane, false)? != MARK || !env.mbarriers.contains_key(&at) {
            return Err(misuse("is not initialised"));
        }
        let line = env.line;
        match op {
            MbarOp::Invalidate => {
                env.mbarriers.remove(&at);
                self.set(env, place, 8, 0, lane, false)?;
            }
            MbarOp::ExpectTx { bytes } => {
                let bytes = operand(self, bytes)? as i64;
                if let Some(m) = env.mbarriers.get_mut(&at) {
                    m.tx += bytes;
                }
            }
            MbarOp::CompleteTx { bytes } => {
                let bytes = operand(self, bytes)? as i64;
                if let Some(m) = env.mbarriers.get_mut(&at) {
                    m.tx -= bytes;
                    m.settle();
                }
                env.progress += 1;
            }
            MbarOp::Arrive { state, count, drop, expect_tx, no_complete } => {
                let count = match count {
                    Some(c) => operand(self, c)?,
                    None => 1,
                };
                let bytes = match expect_tx {
                    Some(b) => operand(self, b)? as i64,
                    None => 0,
                };
                if let Some(d) = state {
                    let m = env.mbarriers.get(&at).map_or(0, |m| m.phase | m.pending << 40);
                    self.write_lane(d, lane, m);
                }
                let Some(m) = env.mbarriers.get_mut(&at) else { return Ok(()) };
                if count == 0 || count > m.pending {
                    return Err(misuse(&format!(
                        "gets {count} arrivals, {} are expected in this phase",
                        m.pending
                    )));
                }
                if no_complete && count == m.pending {
                    return Err(misuse("ends its phase by an arrival that says `.noComplete`"));
                }
                if drop {
                    m.expected = m.expected.saturating_sub(count);
                }
                m.tx += bytes;
                m.pending -= count;
                env.clocks.release(self.id, &mut m.gathered);
                m.settle();
                env.progress += 1;
            }
            MbarOp::CopyArrive { noinc } => {
                // The arrival happens once the copies are there: here, at the next wait of
                // anybody, since they are there already.
                let open = std::mem::take(&mut self.copies[lane].open);
                let older: Vec<u32> = self.copies[lane].groups.iter().flatten().copied().collect();
                let Some(m) = env.mbarriers.get_mut(&at) else { return Ok(()) };
                self.copies[lane].open.clone_from(&open);
                m.done.extend(open.into_iter().chain(older));
                if noinc {
                    if m.pending == 0 {
                        return Err(misuse("gets more arrivals than it expects"));
                    }
                    m.pending -= 1;
                }
                env.clocks.release(self.id, &mut m.gathered);
                m.settle();
                env.progress += 1;
            }
            MbarOp::Test { done, state, parity, may_wait } => {
                let state = operand(self, state)?;
                let Some(m) = env.mbarriers.get_mut(&at) else { return Ok(()) };
                // Bulk copies come in when somebody looks.
                let arrived = std::mem::take(&mut m.copies);
                for (id, bytes) in arrived {
                    m.tx -= i64::from(bytes);
                    m.done.push(id);
                    env.progress += 1;
                }
                let before = m.phase;
                m.settle();
                debug_assert!(m.phase >= before);
                let open = if parity {
                    if state > 1 {
                        return Err(misuse(&format!("is waited for with parity {state}")));
                    }
                    m.phase & 1 != state
                } else {
                    m.phase != state & ((1 << 40) - 1)
                };
                if open {
                    let released = std::mem::take(&mut m.released);
                    env.clocks.acquire(self.id, &released);
                    let copies: Vec<u32> = m.done.clone();
                    m.released = released;
                    if m.copies.is_empty() {
                        m.done.clear();
                    }
                    for id in copies {
                        env.shared.finish_copy_for_all(id);
                    }
                } else {
                    env.polled = Some(line);
                }
                let _ = may_wait;
                self.write_pred(done, if open { u32::MAX } else { 0 }, 1 << lane);
            }
            MbarOp::Init { .. } | MbarOp::PendingCount { .. } => {}
        }
        Ok(())
    }
}
