//! Instruction sets that the environment allows: read once a process, so in processes of their own.
#![cfg(feature = "cpu")]

use ferrocerium::caps::Isa;
use ferrocerium::device::ISA_VARIABLE;
use ferrocerium::{Device, Tensor};

#[test]
#[ignore = "run by another test"]
fn child_explains() {
    let device = Device::cpu();
    let x = Tensor::<f32, 2>::zeros(&device, [4, 4]).unwrap();
    println!("{}", device.explain(&x.gemm(&x).spec::<f32>().unwrap()).unwrap());
    if let Err(error) = Device::builder().cpu() {
        println!("refused: {error}");
    }
}

#[test]
fn what_the_environment_allows_is_what_kernels_are_explained_with() {
    let explained = |allowed: &str| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "child_explains", "--ignored", "--nocapture"]);
        let output = child.env(ISA_VARIABLE, allowed).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("→ cpu.gemm"), "{allowed}: {text}");
        text
    };
    let all = [Isa::Avx2Fma, Isa::Avx512, Isa::Avx512Vnni, Isa::Neon, Isa::NeonDot, Isa::NeonI8mm];
    for (allowed, levels) in [
        ("portable", &[] as &[Isa]),
        ("avx2", &[Isa::Avx2Fma]),
        ("avx2,avx512", &[Isa::Avx2Fma, Isa::Avx512]),
        ("avx2,avx512,avx512vnni", &all[..3]),
        ("neon", &[Isa::Neon]),
        ("neon,dotprod", &all[3..5]),
        ("neon,dotprod,i8mm", &all[3..]),
    ] {
        // Of these levels the machine may lack some.
        let caps = Device::builder().isa(levels).cpu().unwrap().caps().to_string();
        let line = format!(" on {caps}\n");
        let text = explained(allowed);
        assert!(text.contains(&line) && !text.contains("refused"), "{allowed}, {caps}: {text}");
    }
    let caps = Device::builder().isa(&all).cpu().unwrap().caps().to_string();
    let text = explained("sse9");
    assert!(text.contains(&format!(" on {caps}\n")), "a wrong name holds nothing back: {text}");
    assert!(text.contains("refused") && text.contains("`sse9`"), "{text}");
}
