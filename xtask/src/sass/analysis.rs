//! What a kernel's machine code needs of a machine.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use ferrocerium::Device;
use ferrocerium::backend::cuda::Launched;
use ferrocerium::caps::Arch;
use ferrocerium::registry::Request;

use super::cases::{self, Case};
use super::listing::{self, Instruction};
use super::machine::{Footprint, Machine, PARTS, SHARED_BYTES};
use super::mix::{self, Group};
use super::{flow, tools};

/// Kernels that multiply: others of an operation finish what those leave.
const MULTIPLIERS: [&str; 3] = ["gemm", "stream", "attention"];

/// How the names of those end that join what blocks left of an operation that is no product.
const JOINERS: &str = "_parts";

/// One launch of an operation.
#[derive(Debug)]
pub struct Analysis {
    case: String,
    pub kernel: String,
    /// Whether it multiplies, where the operation does.
    pub multiplies: bool,
    /// Whether it does what the operation takes long for: others finish what it leaves.
    pub is_main: bool,
    machine: Machine,
    blocks: u32,
    pub footprint: Footprint,
    /// Blocks that a multiprocessor is to hold.
    pub declared: u32,
    /// Blocks that it holds.
    pub resident: u32,
    pub spills: u32,
    pub stack: u32,
    /// One steady iteration of the main loop.
    pub main_loop: Vec<Instruction>,
    /// How many there are of all warps together, if that is known: where each takes one way through the
    /// whole kernel.
    known_iterations: Option<f64>,
    /// Multiply-adds of the operation, and those by this kernel.
    products: f64,
    multiplied: f64,
    /// Bytes of the operation's operands.
    bytes: f64,
}

/// The launches of an operation; none where the machine has no kernel for it.
pub fn analyse(case: &Case, machine: &Machine, tools: &Path) -> Result<Vec<Analysis>> {
    if !case.is_of(machine.arch) {
        return Ok(Vec::new());
    }
    let arch = Arch::ALL.into_iter().find(|arch| arch.name() == machine.arch);
    let arch = arch.with_context(|| format!("{} is no architecture", machine.arch))?;
    let (device, recording) = Device::builder().recorded(arch, machine.units as usize)?;
    let kernel = case.kernel.map(str::to_owned);
    let request = Request { numerics: case.numerics, kernel, ..Request::default() };
    let device = device.with_request(request);
    let op = case.op(&device)?;
    let explanation = device.explain(&op)?;
    let chosen = explanation.chosen().map(|kernel| kernel.name.clone()).unwrap_or_default();
    if !chosen.starts_with("cuda.") {
        return Ok(Vec::new());
    }
    match case.captured {
        true => device.capture(|| device.run(&op)).map(drop)?,
        false => device.run(&op)?,
    }
    let bytes = cases::bytes(&op);
    let launches = recording.take();
    let of_launch = |launch: &Launched| Analysis::new(case, machine, &chosen, launch, bytes, tools);
    launches.iter().map(of_launch).collect::<Result<_>>().with_context(|| case.name.clone())
}

impl Analysis {
    fn new(
        case: &Case,
        machine: &Machine,
        kernel: &str,
        launch: &Launched,
        bytes: f64,
        tools: &Path,
    ) -> Result<Self> {
        let code = tools::assemble(tools, machine.arch, &launch.ptx, &launch.entry)?;
        let blocks = listing::blocks(&code.listing, &launch.entry)
            .with_context(|| format!("the listing has no `{}`", launch.entry))?;
        let multiplies = MULTIPLIERS.contains(&launch.entry.as_str());
        let footprint = Footprint {
            threads: launch.grid.threads,
            registers: code.registers,
            shared_memory: code.shared_memory + launch.grid.shared_memory,
        };
        let warps = f64::from(launch.grid.blocks) * f64::from(launch.grid.threads) / 32.0;
        // What finds scales before only reads, and on ways for some types less is moved.
        let is_all = |of_warp: u64| of_warp as f64 * warps > bytes / 2.0;
        let flow::Steady { path, once } = flow::main_loop(&blocks, is_all);
        Ok(Analysis {
            case: case.name.clone(),
            kernel: format!("{kernel} ({})", launch.entry),
            multiplies,
            is_main: match case.products > 0.0 {
                true => multiplies,
                false => !launch.entry.ends_with(JOINERS),
            },
            machine: *machine,
            blocks: launch.grid.blocks,
            footprint,
            declared: tools::declared_blocks(&launch.ptx, &launch.entry).unwrap_or(1),
            resident: machine.resident(footprint),
            spills: code.spills,
            stack: code.stack,
            main_loop: path.into_iter().cloned().collect(),
            known_iterations: once.then_some(warps),
            products: if multiplies { case.products } else { 0.0 },
            multiplied: if multiplies { case.products_by(kernel) } else { 0.0 },
            bytes,
        })
    }

    fn sum(&self, f: impl Fn(&Instruction) -> f64) -> f64 {
        self.main_loop.iter().map(f).sum()
    }

    fn count(&self, group: Group) -> usize {
        self.main_loop.iter().filter(|i| Group::of(i) == group).count()
    }

    /// Cycles that an iteration of one warp takes of what: matrix units, issue slots and shared
    /// memory. A part of a multiprocessor has a quarter of the last.
    pub fn cycles(&self) -> [(&'static str, f64); 3] {
        let shared = self.sum(|i| (mix::shared_read(i) + mix::shared_written(i)) as f64);
        [
            ("matrix units", self.sum(|i| self.machine.matrix_cycles(i))),
            ("issue slots", self.main_loop.len() as f64),
            ("shared memory", shared / (SHARED_BYTES / PARTS) as f64),
        ]
    }

    /// Iterations of all warps together, at least: those that the products or the operands take.
    fn iterations(&self) -> f64 {
        if let Some(known) = self.known_iterations {
            return known;
        }
        let products = self.sum(|i| mix::products(i) as f64);
        let bytes = self.sum(|i| mix::global_bytes(i) as f64);
        // Bulk copies do not tell how much they move.
        let bulk = self.main_loop.iter().any(|i| mix::global_bytes(i) == 1);
        let by = |all: f64, each: f64| if each > 0.0 { all / each } else { 0.0 };
        by(self.multiplied, products).max(if bulk { 0.0 } else { by(self.bytes, bytes) })
    }

    /// Seconds that each of the limits takes at its full rate: memory first, then as `cycles`.
    fn times(&self) -> [(&'static str, f64); 4] {
        let rounds = f64::from(self.blocks).max(1.0) / self.machine.units as f64;
        let waste = rounds.ceil() / rounds;
        let iterations = self.iterations() * waste / (self.machine.units * PARTS) as f64;
        let cycles = self.cycles().map(|(what, c)| (what, c * iterations / self.machine.clock));
        let [matrix, issue, shared] = cycles;
        [("memory", self.bytes / self.machine.bandwidth), matrix, issue, shared]
    }

    /// What share of the rate of memory, or of matrix units if those are slower, is left by issue slots
    /// and shared memory: 1 where those are hidden.
    pub fn reach(&self) -> f64 {
        let [memory, matrix, issue, shared] = self.times().map(|(_, time)| time);
        let meant = memory.max(matrix);
        meant / meant.max(issue).max(shared)
    }

    /// Whether matrix units take longer than memory.
    pub fn is_bound_by_products(&self) -> bool {
        let [memory, matrix, ..] = self.times().map(|(_, time)| time);
        matrix > memory
    }

    /// The same as `cycles` for each matrix instruction, if there are some.
    pub fn cycles_of_mma(&self) -> Option<[f64; 3]> {
        let mma = self.count(Group::Matrix);
        (mma > 0).then(|| self.cycles().map(|(_, cycles)| cycles / mma as f64))
    }
}

impl fmt::Display for Analysis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Footprint { threads, registers, shared_memory } = self.footprint;
        writeln!(f, "{} on {}: {}", self.case, self.machine.name, self.kernel)?;
        writeln!(
            f,
            "  {} blocks of {threads} threads, {registers} registers, {shared_memory} B of shared \
             memory: {} resident ({} declared), {} B spilled, {} B of local memory",
            self.blocks, self.resident, self.declared, self.spills, self.stack
        )?;
        let groups = Group::ALL.into_iter().map(|(group, name)| (self.count(group), name));
        let groups: Vec<_> =
            groups.filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect();
        writeln!(f, "  loop: {} instructions: {}", self.main_loop.len(), groups.join(", "))?;
        let mma = self.count(Group::Matrix);
        if let Some([matrix, issue, shared]) = self.cycles_of_mma() {
            let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
            let multiply = self.main_loop.iter().filter(|i| Group::of(i) == Group::Matrix);
            multiply.for_each(|i| *kinds.entry(&i.name).or_default() += 1);
            let kinds: Vec<_> = kinds.iter().map(|(name, n)| format!("{n} {name}")).collect();
            let each = |sum: f64| sum / mma as f64;
            let slowest = matrix.max(issue).max(shared);
            writeln!(f, "  {}", kinds.join(", "))?;
            writeln!(
                f,
                "  each mma: {matrix:.1} cycles of a matrix unit, {issue:.1} issue slots ({:.0}% \
                 mma), {:.0} + {:.0} B of shared memory read and written ({shared:.1} cycles), \
                 {:.0} B of global memory: at most {:.0}% of the matrix units' rate",
                100.0 / issue,
                each(self.sum(|i| mix::shared_read(i) as f64)),
                each(self.sum(|i| mix::shared_written(i) as f64)),
                each(self.sum(|i| mix::global_bytes(i) as f64)),
                100.0 * matrix / slowest
            )?;
        }
        let mut times = self.times();
        times.sort_by(|a, b| b.1.total_cmp(&a.1));
        let [(what, seconds), others @ ..] = times;
        write!(f, "  at least {:.1} µs, by {what}", seconds * 1e6)?;
        let share = |(what, time): (&str, f64)| format!("{what} {:.0}%", 100.0 * time / seconds);
        write!(f, " ({} of that)", others.map(share).join(", "))?;
        if mma > 0 {
            write!(f, "; {:.1} TFLOP/s", 2.0 * self.products / seconds / 1e12)?;
        }
        writeln!(f, ", {:.0} GB/s", self.bytes / seconds / 1e9)
    }
}
