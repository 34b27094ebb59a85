//! `cargo xtask sass-report`: what the machine code of the GPU kernels says about their speed, on
//! a machine without a GPU.
//!
//! ```text
//! Case ── recording device ──► PTX, grid ── ptxas, nvdisasm ──► listing, registers, …
//!                                                                 │
//!                     limits of a Machine ── Analysis ◄── main loop: its instruction mix
//! ```
//!
//! Times are floors: of the matrix units, the issue slots, shared memory and memory, whichever
//! is slowest, each at its full rate. Latencies, the second-level cache and bank conflicts are
//! left out.

mod analysis;
mod cases;
mod flow;
mod gate;
mod listing;
mod machine;
mod mix;
mod reach;
mod tools;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

use analysis::Analysis;
use cases::Case;
use machine::{MACHINES, Machine};

/// Which kernels to look at.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The architecture, for all if none.
    pub arch: Option<String>,
    /// Part of a kernel's or an operation's name.
    pub kernel: Option<String>,
}

/// Prints an account of each kernel.
pub fn report(filter: &Filter) -> Result<ExitCode> {
    let tools = crate::cuda::fetch_sass_tools()?;
    crate::cuda::fetch()?;
    let machines: Vec<Machine> = MACHINES
        .into_iter()
        .filter(|m| filter.arch.as_ref().is_none_or(|arch| arch == m.arch))
        .collect();
    if machines.is_empty() {
        let known = MACHINES.map(|m| m.arch).join(", ");
        bail!("no machine with such an architecture is described; {known} are");
    }
    let cases = cases::all();
    // By the names of operations if some have it: those of kernels are known later.
    let named = |case: &Case| filter.kernel.as_ref().is_some_and(|part| case.name.contains(part));
    let all = !cases.iter().any(named);
    let work: Vec<(&Case, &Machine)> = cases
        .iter()
        .filter(|case| all || named(case))
        .flat_map(|case| machines.iter().map(move |m| (case, m)))
        .collect();
    let found = each(&work, |(case, machine)| -> Result<String> {
        let analyses = analysis::analyse(case, machine, &tools)?;
        let wanted = |name: &str| filter.kernel.as_ref().is_none_or(|part| name.contains(part));
        let shown = analyses.iter().filter(|a| !all || wanted(&a.kernel));
        let account = |a: &Analysis| {
            let faults = gate::faults(case, machine, a);
            let faults: String = faults.iter().map(|fault| format!("  FAULT: {fault}\n")).collect();
            format!("{a}{faults}\n")
        };
        Ok(shown.map(account).collect())
    });
    for text in found {
        print!("{}", text?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Does it for each item, on all cores; the results are in the order of the items.
fn each<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { break };
                    let result = f(item);
                    found.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, result)| result).collect()
}
