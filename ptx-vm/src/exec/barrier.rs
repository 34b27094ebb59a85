//! Block barriers.

use crate::check::order::Moments;
use crate::lower::ops::BarRed;

/// One of a block's named barriers.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    pub generation: u64,
    /// Threads that arrived in this generation.
    pub arrived: u32,
    /// Threads needed, if given; otherwise all that live.
    pub count: Option<u32>,
    /// What those that arrived had done.
    pub gathered: Moments,
    /// The same of the generation before, for those that wake up.
    pub released: Moments,
    pub red: Option<BarRed>,
    pub ones: u32,
    pub inputs: u32,
    /// The result of the generation before.
    pub result: u64,
    /// Line of the first arrival, for reports.
    pub line: u32,
}

impl Barrier {
    /// Opens the barrier if enough threads are there.
    pub fn settle(&mut self, live: u32) -> bool {
        let needed = self.count.unwrap_or(live);
        if self.arrived == 0 || self.arrived < needed {
            return false;
        }
        self.result = match self.red {
            Some(BarRed::Popc) => u64::from(self.ones),
            Some(BarRed::And) => u64::from(self.ones == self.inputs),
            Some(BarRed::Or) => u64::from(self.ones > 0),
            None => 0,
        };
        self.generation += 1;
        self.arrived = 0;
        self.count = None;
        self.red = None;
        self.ones = 0;
        self.inputs = 0;
        self.released = std::mem::take(&mut self.gathered);
        true
    }
}
