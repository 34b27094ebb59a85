//! What a kernel did, counted.

use std::collections::BTreeMap;
use std::fmt;

/// Counts of one PTX line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineCount {
    /// Times a warp ran it.
    pub warps: u64,
    /// Lanes that took part, over all times.
    pub lanes: u64,
    /// Shared-memory requests: a warp's access of up to 4 bytes a lane, half a warp's of 8, a
    /// quarter's of 16, or eight rows of a matrix move.
    pub shared_requests: u64,
    /// Passes over the banks that these took; one per request is the best.
    pub shared_passes: u64,
    /// Global-memory requests.
    pub global_requests: u64,
    /// 32-byte sectors that these touched.
    pub global_sectors: u64,
}

/// What a launch did, if asked for by [`LaunchConfig::profile`](crate::LaunchConfig::profile).
///
/// These are counts, not times: they tell how well a kernel uses the issue slots, the banks
/// of shared memory and the sectors of global memory, which is what stays true on every GPU.
///
/// Banks: 32 of 4 bytes; lanes that touch different words of one bank take passes one after
/// the other, the same word is read once for all. Sectors: the 32-byte pieces that a warp's
/// access touches; 32 lanes that read 4 bytes each side by side touch 4, the fewest possible.
///
/// ```
/// # use ptx_vm::{LaunchConfig, Machine, Module};
/// # let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry column(\
/// #   .param .u64 p)\n{ .reg .b64 %d<4>; .reg .b32 %r<3>;\n ld.param.u64 %d1, [p];\n\
/// #   mov.u32 %r1, %tid.x;\n mad.wide.u32 %d2, %r1, 128, %d1;\n\
/// #   ld.global.u32 %r2, [%d2];\n ret;\n}";
/// # let module = Module::from_ptx(ptx)?;
/// # let mut machine = Machine::new();
/// # let matrix = machine.upload(&[0; 4096])?;
/// // A warp that reads a column of 32 × 32 words: every lane has a sector of its own.
/// let config = LaunchConfig::new(1, 32).profile(true);
/// let report = machine.launch(&module, "column", &config, &[matrix.into()])?;
/// let profile = report.profile.expect("asked for");
/// assert_eq!(profile.sectors_per_request(), 32.0);
/// println!("{profile}");
/// # Ok::<(), ptx_vm::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// By PTX line.
    pub lines: BTreeMap<u32, LineCount>,
    /// Matrix multiplications (`mma`, `wgmma`), one for each warp that takes part.
    pub mma: u64,
    names: Vec<String>,
}

/// The instruction that a line of PTX starts with, past labels, braces and guards.
fn instruction(line: &str) -> &str {
    let words = line.split([' ', '\t', ';']).filter(|w| !w.is_empty());
    let mut rest = words.skip_while(|w| w.ends_with(':') || matches!(*w, "{" | "}"));
    match rest.next() {
        Some(w) if w.starts_with('@') => rest.next().unwrap_or(""),
        w => w.unwrap_or(""),
    }
}

impl Profile {
    /// Learns the instructions' names.
    pub(crate) fn name(&mut self, text: &str) {
        self.names = text.lines().map(|l| instruction(l).to_string()).collect();
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
            *counts.entry(self.name_of(*line)).or_default() += n.warps;
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

/// Instructions shown of the histogram, and lines of each list of offenders.
const SHOWN: usize = 16;

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.instructions();
        let lanes: u64 = self.lines.values().map(|l| l.lanes).sum();
        writeln!(f, "{all} warp instructions, {:.1} lanes each", lanes as f64 / all.max(1) as f64)?;
        let histogram = self.histogram();
        for (name, count) in histogram.iter().take(SHOWN) {
            let share = 100.0 * *count as f64 / all.max(1) as f64;
            writeln!(f, "{count:>12} {share:>5.1} %  {name}")?;
        }
        if histogram.len() > SHOWN {
            let rest: u64 = histogram[SHOWN..].iter().map(|x| x.1).sum();
            writeln!(f, "{rest:>12}          {} others", histogram.len() - SHOWN)?;
        }
        writeln!(
            f,
            "matrix multiplications: {}, {:.3} per issue slot",
            self.mma,
            self.mma_per_issue()
        )?;
        let shared: u64 = self.lines.values().map(|l| l.shared_requests).sum();
        if shared > 0 {
            let passes = self.shared_passes_per_request();
            writeln!(f, "shared memory: {shared} requests, {passes:.2} passes each (1 is best)")?;
            let by = |l: &LineCount| (l.shared_passes, l.shared_requests);
            self.worst(f, "passes", &|l| by(l).0 > by(l).1, &by)?;
        }
        let global: u64 = self.lines.values().map(|l| l.global_requests).sum();
        if global > 0 {
            let sectors = self.sectors_per_request();
            writeln!(f, "global memory: {global} requests, {sectors:.2} sectors each")?;
            let by = |l: &LineCount| (l.global_sectors, l.global_requests);
            self.worst(f, "sectors", &|l| l.global_requests > 0, &by)?;
        }
        Ok(())
    }
}

impl Profile {
    /// The lines with the most of something per request.
    fn worst(
        &self,
        f: &mut fmt::Formatter<'_>,
        what: &str,
        shown: &dyn Fn(&LineCount) -> bool,
        by: &dyn Fn(&LineCount) -> (u64, u64),
    ) -> fmt::Result {
        let ratio = |l: &LineCount| by(l).0 as f64 / by(l).1.max(1) as f64;
        let mut lines: Vec<_> = self.lines.iter().filter(|(_, l)| shown(l)).collect();
        lines.sort_by(|a, b| ratio(b.1).total_cmp(&ratio(a.1)));
        for (line, l) in lines.into_iter().take(SHOWN) {
            writeln!(f, "{:>12.2} {what} at PTX line {line}: {}", ratio(l), self.name_of(*line))?;
        }
        Ok(())
    }

    fn name_of(&self, line: u32) -> &str {
        (line as usize).checked_sub(1).and_then(|i| self.names.get(i)).map_or("?", String::as_str)
    }
}
