//! Kernels that got worse than they are meant to be fail here.

use super::analysis::Analysis;
use super::cases::Case;
use super::machine::Machine;
use super::mix::Group;

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
    faults
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
