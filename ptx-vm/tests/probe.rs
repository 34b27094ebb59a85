//! The probe's half that needs no GPU: every case runs on the emulator, on every target that
//! has its instruction; and what it says without a driver.

#[path = "../examples/probe/cases.rs"]
mod cases;
#[path = "../examples/probe/driver.rs"]
#[allow(dead_code)]
mod driver;
mod support;

use ptx_vm::{Arithmetic, Error};

#[test]
fn every_probe_runs_on_the_emulator_where_its_target_has_the_instruction() {
    for (target, least) in [("sm_80", 110), ("sm_90a", 150), ("sm_120a", 210), ("sm_121a", 210)] {
        let mut ran = 0;
        for case in cases::all(target, 1) {
            match case.emulate(Arithmetic::Hardware) {
                Ok(out) => {
                    assert!(!out.is_empty() && case.unit <= 4, "{}", case.name);
                    ran += 1;
                }
                Err(Error::IllegalForTarget { .. }) => {}
                Err(e) => panic!("{} `{}` on {target}: {e}", case.class, case.name),
            }
        }
        assert!(ran >= least, "{ran} cases ran on {target}");
    }
}

#[test]
fn a_missing_driver_is_said_in_words_and_a_present_one_agrees_on_integers() {
    let gpu = match driver::Gpu::open() {
        Ok(gpu) => gpu,
        Err(e) => return assert!(e.contains("driver") || e.contains("cu"), "{e}"),
    };
    for case in cases::all(&gpu.target, 1).into_iter().filter(|c| c.class == "integers") {
        let theirs = gpu.run(&case.ptx, &case.args, case.threads, case.out);
        assert_eq!(theirs, Ok(case.emulate(Arithmetic::Hardware).expect("runs")), "{}", case.name);
    }
}
