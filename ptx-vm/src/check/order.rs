//! What happens before what, inside one block.
//!
//! Every warp has a clock that ticks at each synchronisation, and knows up to which tick of
//! every other warp it is synchronised. Lanes of one warp are ordered by the tick of the
//! last synchronisation that both took part in: lock-step execution orders nothing.

use std::collections::HashMap;

/// A moment of every warp, then one of every warp's writes that passed a proxy fence.
pub(crate) type Moments = Vec<u32>;

/// Who touched a byte last: thread, PTX line, clock and whether strongly (an atomic or a
/// volatile access) in one word. Zero is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp(u64);

/// Lines past this are stamped as this.
const MAX_LINE: u32 = (1 << 21) - 1;
const STRONG: u64 = 1 << 53;

impl Stamp {
    pub fn new(thread: u32, line: u32, clock: u32) -> Stamp {
        let line = u64::from(line.min(MAX_LINE));
        Stamp(u64::from(thread & 1023) << 54 | line << 32 | u64::from(clock))
    }

    /// The same of an access that is ordered by itself.
    pub fn strong(self) -> Stamp {
        Stamp(self.0 | STRONG)
    }

    pub fn is_strong(self) -> bool {
        self.0 & STRONG != 0
    }

    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    pub fn thread(self) -> u32 {
        (self.0 >> 54) as u32
    }

    pub fn line(self) -> u32 {
        (self.0 >> 32) as u32 & MAX_LINE
    }

    fn clock(self) -> u32 {
        self.0 as u32
    }
}

struct WarpClock {
    now: u32,
    /// Accesses of warp `i` at clocks below `seen[i]` are ordered before this warp's; writes
    /// below `seen[warps + i]` are visible to its asynchronous reads too.
    seen: Moments,
    /// The same between lanes; clocks below are ordered.
    lanes: Box<[[u32; 32]; 32]>,
    /// All lanes are synchronised up to here.
    all_lanes: u32,
}

/// The clocks of a block.
pub(crate) struct Clocks {
    warps: Vec<WarpClock>,
    /// What strong writes and atomics published, by address.
    published: HashMap<u64, Moments>,
}

impl WarpClock {
    fn release(&mut self, own: usize, moments: &mut Moments) {
        self.now += 1;
        self.seen[own] = self.now;
        merge(moments, &self.seen);
    }
}

impl Clocks {
    pub fn new(warps: usize) -> Clocks {
        let clock = || WarpClock {
            now: 1,
            seen: vec![0; 2 * warps],
            lanes: Box::new([[0; 32]; 32]),
            all_lanes: 0,
        };
        Clocks { warps: (0..warps).map(|_| clock()).collect(), published: HashMap::new() }
    }

    /// A stamp for an access made now.
    #[inline]
    pub fn stamp(&self, warp: usize, lane: usize, line: u32) -> Stamp {
        Stamp::new((warp * 32 + lane) as u32, line, self.warps[warp].now)
    }

    /// Whether the stamped access is ordered before one that this lane makes now.
    #[inline]
    pub fn ordered(&self, stamp: Stamp, warp: usize, lane: usize) -> bool {
        let other = stamp.thread() as usize;
        let (w, l) = (other / 32, other % 32);
        let mine = &self.warps[warp];
        if w != warp {
            return stamp.clock() < mine.seen[w];
        }
        l == lane || stamp.clock() < mine.all_lanes || stamp.clock() < mine.lanes[lane][l]
    }

    /// Whether the stamped access is ordered before one that the whole warp makes now.
    pub fn ordered_for_warp(&self, stamp: Stamp, warp: usize) -> bool {
        let w = stamp.thread() as usize / 32;
        w == warp || stamp.clock() < self.warps[warp].seen[w]
    }

    /// Whether the stamped write passed a proxy fence on its way to this warp.
    pub fn past_proxy_fence(&self, stamp: Stamp, warp: usize) -> bool {
        let w = stamp.thread() as usize / 32;
        stamp.clock() < self.warps[warp].seen[self.warps.len() + w]
    }

    /// A proxy fence: everything ordered before it becomes visible to asynchronous reads.
    pub fn proxy_fence(&mut self, warp: usize) {
        let n = self.warps.len();
        let w = &mut self.warps[warp];
        w.now += 1;
        w.seen[warp] = w.now;
        for i in 0..n {
            w.seen[n + i] = w.seen[n + i].max(w.seen[i]);
        }
    }

    /// Everything this warp did becomes part of `moments`.
    pub fn release(&mut self, warp: usize, moments: &mut Moments) {
        self.warps[warp].release(warp, moments);
    }

    /// What `moments` holds comes before everything this warp does from now on.
    pub fn acquire(&mut self, warp: usize, moments: &Moments) {
        merge(&mut self.warps[warp].seen, moments);
    }

    /// Orders the lanes of a warp among each other.
    pub fn sync_lanes(&mut self, warp: usize, mask: u32, live: u32) {
        let w = &mut self.warps[warp];
        w.now += 1;
        if mask & live == live {
            w.all_lanes = w.now;
            return;
        }
        for a in (0..32).filter(|a| mask >> a & 1 == 1) {
            for b in (0..32).filter(|b| mask >> b & 1 == 1) {
                w.lanes[a][b] = w.now;
            }
        }
    }

    /// A strong access: reads take over what earlier strong writes of the address
    /// published, writes publish.
    pub fn strong(&mut self, warp: usize, address: u64, reads: bool, writes: bool) {
        let w = &mut self.warps[warp];
        if writes {
            let moments = self.published.entry(address).or_default();
            if reads {
                merge(&mut w.seen, moments);
            }
            w.release(warp, moments);
        } else if reads && let Some(moments) = self.published.get(&address) {
            merge(&mut w.seen, moments);
        }
    }
}

fn merge(into: &mut Moments, from: &Moments) {
    if into.len() < from.len() {
        into.resize(from.len(), 0);
    }
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_orders_warps() {
        let mut c = Clocks::new(2);
        let s = c.stamp(0, 3, 7);
        assert!(!c.ordered(s, 1, 0));
        let mut m = Moments::new();
        c.release(0, &mut m);
        c.release(1, &mut m);
        c.acquire(1, &m);
        assert!(c.ordered(s, 1, 0));
        let later = c.stamp(0, 3, 8);
        assert!(!c.ordered(later, 1, 0));
        assert_eq!((s.thread(), s.line()), (3, 7));
    }

    #[test]
    fn lanes_are_ordered_only_by_what_both_take_part_in() {
        let mut c = Clocks::new(1);
        let s = c.stamp(0, 1, 1);
        assert!(c.ordered(s, 0, 1) && !c.ordered(s, 0, 2));
        c.sync_lanes(0, 0b110, u32::MAX);
        assert!(c.ordered(s, 0, 2) && !c.ordered(s, 0, 3));
        c.sync_lanes(0, u32::MAX, u32::MAX);
        assert!(c.ordered(s, 0, 3));
    }
}
