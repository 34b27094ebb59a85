//! Kernels that got worse than they are meant to be fail here.

use super::analysis::Analysis;
use super::cases::Case;
use super::machine::{Machine, PARTS, SHARED_BYTES};
use super::mix::Group;
use super::reach;

/// Other versions of compilers order and choose some instructions otherwise.
const MARGIN: f64 = 0.95;

/// Of the issue slots of products in FP4, how many are to multiply or to be hidden behind those that do.
const HIDDEN: f64 = 0.6;

/// What is wrong with the code for a case.
pub fn faults(case: &Case, machine: &Machine, analysis: &Analysis) -> Vec<String> {
    let mut faults = Vec::new();
    let mut require = |holds: bool, fault: String| {
        if !holds {
            faults.push(fault);
        }
    };
    require(analysis.spills == 0, format!("{} bytes spilled", analysis.spills));
    let in_loop = |group| analysis.main_loop.iter().any(|i| Group::of(i) == group);
    require(!in_loop(Group::Local), "local memory in the main loop".to_owned());
    require(
        analysis.resident >= analysis.declared,
        format!("{} blocks fit, {} are declared", analysis.resident, analysis.declared),
    );
    if let Some(name) = case.instruction(machine.arch).filter(|_| analysis.multiplies) {
        let found = analysis.main_loop.iter().any(|i| i.name.starts_with(name));
        require(found, format!("no {name} in the main loop"));
    }
    if analysis.is_main {
        let declared = reach::declared(&case.name, machine);
        require(analysis.reach() >= declared * MARGIN, too_slow(machine, analysis, declared));
    }
    let fp4 = |name: &&str| name.starts_with("OMMA") && case.name.starts_with("gemm");
    if case.instruction(machine.arch).filter(fp4).is_some()
        && analysis.multiplies
        && analysis.is_bound_by_products()
        && let Some([matrix, issue, shared]) = analysis.cycles_of_mma()
    {
        require(
            matrix >= HIDDEN * issue,
            format!("of {issue:.1} issue slots an OMMA no more than {matrix:.1} are behind it"),
        );
        let bytes = |cycles: f64| cycles * (SHARED_BYTES / PARTS) as f64;
        require(
            shared < matrix,
            format!("{} B of shared memory an OMMA, of {}", bytes(shared), bytes(matrix)),
        );
    }
    faults
}

fn too_slow(machine: &Machine, analysis: &Analysis, declared: f64) -> String {
    let excess = declared / analysis.reach();
    let (issue, shared, what) = match analysis.cycles_of_mma() {
        Some([_, issue, shared]) => (issue, shared, "mma"),
        None => {
            let [_, (_, issue), (_, shared)] = analysis.cycles();
            (issue, shared, "iteration")
        }
    };
    let (slowest, unit) = match issue >= shared {
        true => (issue, "instructions"),
        false => (shared, "cycles of shared memory"),
    };
    format!(
        "{} on {}: {slowest:.1} {unit} of an {what}, {:.1} are declared: {:.0}% of the rate of memory or \
         matrix units, for {:.0}%",
        analysis.kernel,
        machine.arch,
        slowest / excess,
        100.0 * analysis.reach(),
        100.0 * declared
    )
}

#[cfg(test)]
mod tests {
    use ferrocerium::Device;
    use ferrocerium::caps::Arch;

    use super::super::{analysis, cases, each, machine::MACHINES};
    use super::*;

    #[test]
    fn machine_code_is_what_the_kernels_declare() {
        // The sizes of a download that developers should ask for and CI must have.
        let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        let Some(tools) = crate::cuda::installed_sass_tools() else {
            assert!(!in_ci, "ptxas is missing: `cargo xtask cuda --sass`");
            eprintln!("skipped: ptxas is missing: `cargo xtask cuda --sass`");
            return;
        };
        if let Err(error) = Device::emulated(Arch::SM121A) {
            assert!(!in_ci, "{error}");
            eprintln!("skipped: {error}");
            return;
        }
        let cases = cases::all();
        let work: Vec<_> = cases.iter().flat_map(|case| MACHINES.map(|m| (case, m))).collect();
        let found = each(&work, |(case, machine)| {
            let analyses = analysis::analyse(case, machine, &tools).map_err(|e| format!("{e:#}"));
            match analyses {
                Err(error) => vec![error],
                Ok(analyses) => {
                    let with_account = |a: &Analysis| {
                        let faults = faults(case, machine, a);
                        faults.into_iter().map(|fault| format!("{fault}:\n{a}")).collect::<Vec<_>>()
                    };
                    analyses.iter().flat_map(with_account).collect()
                }
            }
        });
        let found: Vec<String> = found.into_iter().flatten().collect();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
