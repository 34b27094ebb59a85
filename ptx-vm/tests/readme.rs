//! What the READMEs show is what happens.

mod support;

use ptx_vm::{Error, LaunchConfig, Machine, Module};

const KERNEL: &str = include_str!("../examples/block_sum.cu");
const PTX: &str = include_str!("../examples/block_sum.ptx");
const READMES: [(&str, &str); 2] = [
    ("README.md", include_str!("../../README.md")),
    ("ptx-vm/README.md", include_str!("../README.md")),
];

/// The lines of a code block that starts with this one.
fn block<'a>(text: &'a str, first: &str) -> Option<&'a str> {
    let start = text.find(first)?;
    text[start..].split("\n```").next()
}

fn launch(module: &Module) -> Result<Vec<f32>, Error> {
    let mut machine = Machine::new();
    let x = support::upload_f32(&mut machine, &[1.0; 1000]);
    let sums = machine.alloc(16)?;
    let args = [sums.into(), x.into(), 1000i32.into()];
    machine.launch(module, "block_sum", &LaunchConfig::new(4, 256), &args)?;
    Ok(support::read_f32(&machine, sums, 4))
}

#[test]
fn the_readmes_show_the_kernel_and_its_report() {
    let module = Module::from_ptx(PTX).expect("legal");
    let report = launch(&module).expect_err("the bug is planted").to_string();
    // Shown on lines of their own, for want of width.
    let words = |s: &str| s.split_whitespace().map(str::to_string).collect::<Vec<_>>();
    for (name, readme) in READMES {
        assert!(readme.contains(KERNEL.trim()), "{name} shows another kernel than block_sum.cu");
        let shown = block(readme, "kernel `block_sum`").unwrap_or_default();
        assert_eq!(
            words(shown),
            words(&report),
            "{name} shows another report; this is it:\n{report}"
        );
    }
}

#[test]
fn the_compiled_kernel_is_that_of_its_source() {
    let Some(ptx) = support::nvrtc::compile(KERNEL, "compute_90") else { return };
    let code = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|l| !l.starts_with("//"));
        lines.filter(|l| !l.starts_with(".file")).map(str::to_string).collect()
    };
    assert_eq!(code(&ptx), code(PTX), "compile examples/block_sum.cu again");
}

#[test]
fn the_kernel_is_right_with_the_barrier_in_the_loop() {
    let fixed = KERNEL
        .replace("    __syncthreads();\n    for", "    for")
        .replace("d /= 2)\n        if", "d /= 2) {\n        __syncthreads();\n        if")
        .replace("part[t + d];", "part[t + d];\n    }");
    let Some(module) = support::compile(&fixed, "compute_90") else { return };
    assert_eq!(launch(&module), Ok(vec![256.0, 256.0, 256.0, 232.0]));
}
