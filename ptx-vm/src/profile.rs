//! What a kernel did, counted.

use std::collections::BTreeMap;

/// Counts of one PTX line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineCount {
    /// Times a warp ran it.
    pub warps: u64,
    /// Lanes that took part, over all times.
    pub lanes: u64,
    /// Shared-memory requests (a warp's access, or eight rows of `ldmatrix`).
    pub shared_requests: u64,
    /// Passes over the banks that these took; one per request is the best.
    pub shared_passes: u64,
    /// Global-memory requests.
    pub global_requests: u64,
    /// 32-byte sectors that these touched.
    pub global_sectors: u64,
}

/// What a launch did, if asked for by `LaunchConfig::profile`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// By PTX line.
    pub lines: BTreeMap<u32, LineCount>,
    /// Matrix multiplications.
    pub mma: u64,
    names: Vec<String>,
}

impl Profile {
    pub(crate) fn new(text: &str) -> Profile {
        let names = text
            .lines()
            .map(|l| {
                let l = l.trim().trim_start_matches('{').trim();
                let l = if l.starts_with('@') {
                    l.split_once(char::is_whitespace).map_or("", |x| x.1.trim_start())
                } else {
                    l
                };
                l.split([' ', '\t', ';']).next().unwrap_or("").to_string()
            })
            .collect();
        Profile { names, ..Profile::default() }
    }

    pub(crate) fn count(&mut self, line: u32, mask: u32) {
        let c = self.lines.entry(line).or_default();
        c.warps += 1;
        c.lanes += u64::from(mask.count_ones());
    }

    /// Banks are four bytes wide, 32 of them; accesses of 8 and 16 bytes a lane are made by
    /// half and quarter warps.
    pub(crate) fn shared(&mut self, line: u32, addresses: impl Iterator<Item = u64>, bytes: u32) {
        let c = self.lines.entry(line).or_default();
        c.shared_requests += 1;
        let all: Vec<u64> = addresses.collect();
        let lanes = match bytes {
            0..=4 => 32,
            5..=8 => 16,
            _ => 8,
        };
        for part in all.chunks(lanes) {
            let mut words: Vec<u64> = part
                .iter()
                .flat_map(|a| a / 4..a.saturating_add(u64::from(bytes)).div_ceil(4))
                .collect();
            words.sort_unstable();
            words.dedup();
            let mut banks = [0u64; 32];
            words.iter().for_each(|w| banks[(w % 32) as usize] += 1);
            c.shared_passes += banks.iter().copied().max().unwrap_or(0);
        }
        // The best possible for wide accesses is one pass per part: count these as one
        // request each.
        c.shared_requests += (all.len().div_ceil(lanes) as u64).saturating_sub(1);
    }

    pub(crate) fn global(&mut self, line: u32, addresses: impl Iterator<Item = u64>, bytes: u32) {
        let c = self.lines.entry(line).or_default();
        c.global_requests += 1;
        let mut sectors: Vec<u64> =
            addresses.flat_map(|a| a / 32..=a.saturating_add(u64::from(bytes) - 1) / 32).collect();
        sectors.sort_unstable();
        sectors.dedup();
        c.global_sectors += sectors.len() as u64;
    }

    pub(crate) fn add(&mut self, other: &Profile) {
        self.mma += other.mma;
        if self.names.is_empty() {
            self.names.clone_from(&other.names);
        }
        for (line, n) in &other.lines {
            let c = self.lines.entry(*line).or_default();
            c.warps += n.warps;
            c.lanes += n.lanes;
            c.shared_requests += n.shared_requests;
            c.shared_passes += n.shared_passes;
            c.global_requests += n.global_requests;
            c.global_sectors += n.global_sectors;
        }
    }

    /// Warp instructions by name, the most frequent first.
    pub fn histogram(&self) -> Vec<(String, u64)> {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (line, n) in &self.lines {
            let name = self.names.get(*line as usize - 1).map_or("?", String::as_str);
            *counts.entry(name).or_default() += n.warps;
        }
        let mut out: Vec<_> = counts.into_iter().map(|(n, c)| (n.to_string(), c)).collect();
        out.sort_by_key(|x| std::cmp::Reverse(x.1));
        out
    }

    /// Warp instructions in all.
    pub fn instructions(&self) -> u64 {
        self.lines.values().map(|l| l.warps).sum()
    }

    /// Matrix multiplications per warp instruction.
    pub fn mma_per_issue(&self) -> f64 {
        self.mma as f64 / self.instructions().max(1) as f64
    }

    /// Passes over the shared-memory banks per request: 1 is free of conflicts.
    pub fn shared_passes_per_request(&self) -> f64 {
        let (r, p) = self
            .lines
            .values()
            .fold((0, 0), |(r, p), l| (r + l.shared_requests, p + l.shared_passes));
        p as f64 / r.max(1) as f64
    }

    /// 32-byte sectors per global request.
    pub fn sectors_per_request(&self) -> f64 {
        let (r, s) = self
            .lines
            .values()
            .fold((0, 0), |(r, s), l| (r + l.global_requests, s + l.global_sectors));
        s as f64 / r.max(1) as f64
    }
}
