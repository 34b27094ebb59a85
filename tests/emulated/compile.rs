//! Programs of every kernel compile for every architecture: to machine code, where it matters
//! without spilled registers, and to what the emulator runs.

use std::collections::HashSet;
use std::time::Instant;

use ferrocerium::backend::cuda::{self, Gpu, Program};
use ferrocerium::caps::{Arch, Caps, MemoryKind};

use super::emulated;

/// Tests of one architecture each, so that one can be run by itself.
macro_rules! for_each_architecture {
    ($($(#[$attribute:meta])* $name:ident: $pick:expr;)*) => {$(
        mod $name {
            use super::*;
            for_each_architecture!(@tests [$(#[$attribute])*] $pick;
                sm_80: SM80, sm_86: SM86, sm_89: SM89, sm_90a: SM90A, sm_100a: SM100A, sm_120a: SM120A,
                sm_121a: SM121A);
        }
    )*};
    (@tests $attributes:tt $pick:expr; $($test:ident: $arch:ident),*) => {
        $(for_each_architecture!(@test $attributes $pick; $test: $arch);)*
    };
    (@test [$($attribute:tt)*] $pick:expr; $test:ident: $arch:ident) => {
        #[test]
        $($attribute)*
        fn $test() {
            compiles(Arch::$arch, $pick);
        }
    };
}

for_each_architecture! {
    each_option: |arch, programs| covering(programs, if TUNED.contains(&arch) { each_and_wide } else { each });
    #[ignore = "some 240 to 300 programs, 4 to 8 minutes of a processor for each architecture"]
    every_two_options: |_, programs| covering(programs, pairs);
    #[ignore = "1885 to 3123 programs, about an hour of a processor for each architecture"]
    all: |_, programs| programs;
}

fn compiles(arch: Arch, pick: fn(Arch, Vec<Program>) -> Vec<Program>) {
    if emulated(arch).is_none() {
        return;
    }
    let all = cuda::programs(&Caps::gpu(arch, 48, &[MemoryKind::Host]));
    let count = all.len();
    let (programs, start) = (pick(arch, all), Instant::now());
    let gpu = Gpu::emulated(arch, 1).unwrap();
    let fault = |program: &Program| {
        let fault = check(&gpu, program).err()?;
        let fault = format!("{} {:?} for {arch}: {fault}", program.name, program.defines);
        // At once, since all of them take long.
        println!("{fault}");
        Some(fault)
    };
    let faults: Vec<String> = programs.iter().filter_map(fault).collect();
    println!("{arch}: {} of {count} programs in {:.0?}", programs.len(), start.elapsed());
    assert!(faults.is_empty(), "{} programs:\n{}", faults.len(), faults.join("\n"));
}

/// A source, and two of its macros with their values: the same twice for one by itself.
type Choice = (&'static str, [(&'static str, u32); 2]);

/// Every macro with its value.
fn each(program: &Program) -> Vec<Choice> {
    program.defines.iter().map(|&a| (program.name, [a; 2])).collect()
}

/// The same, and of attention over wide heads, which has hardly enough registers, the head size with
/// each other macro.
fn each_and_wide(program: &Program) -> Vec<Choice> {
    let wide = program.defines.iter().find(|(name, size)| *name == "D" && *size > 128);
    let with = |&wide| program.defines.iter().map(move |&other| (program.name, [wide, other]));
    each(program).into_iter().chain(wide.into_iter().flat_map(with)).collect()
}

/// Every two macros with their values. Most programs are products of choices that know nothing of
/// each other, such as how each operand is loaded.
fn pairs(program: &Program) -> Vec<Choice> {
    let defines = program.defines.iter().enumerate();
    let with_later = |(i, &a)| program.defines[i..].iter().map(move |&b| (program.name, [a, b]));
    defines.flat_map(with_later).collect()
}

/// Programs in which all choices occur that do in some program.
fn covering(programs: Vec<Program>, choices: fn(&Program) -> Vec<Choice>) -> Vec<Program> {
    let all: Vec<Vec<Choice>> = programs.iter().map(choices).collect();
    let mut missing: HashSet<Choice> = all.iter().flatten().copied().collect();
    // Those without macros have no choices.
    let plain = programs.iter().filter(|program| program.defines.is_empty());
    let mut picked: Vec<Program> = plain.cloned().collect();
    while !missing.is_empty() {
        let gain = |of: &Vec<Choice>| of.iter().filter(|choice| missing.contains(*choice)).count();
        let Some(best) = (0..all.len()).max_by_key(|&i| gain(&all[i])) else { break };
        for choice in &all[best] {
            missing.remove(choice);
        }
        picked.push(programs[best].clone());
    }
    picked
}

fn check(gpu: &Gpu, program: &Program) -> Result<(), String> {
    let compiled = gpu.compile(program).map_err(|e| e.to_string())?;
    if !compiled.cubin.starts_with(b"\x7fELF") {
        return Err("its machine code is no ELF file".to_owned());
    }
    ptx_vm::Module::from_ptx(&compiled.ptx).map_err(|e| e.to_string())?;
    match spilled(&compiled.log) {
        None => Err(format!("the assembler does not say what it spills: {}", compiled.log)),
        Some(bytes) if bytes > 0 && TUNED.contains(&gpu.arch()) => {
            Err(format!("{bytes} bytes spilled"))
        }
        Some(_) => Ok(()),
    }
}

/// Architectures whose tiles were cut to their registers; on others a few spilled ones are no fault.
const TUNED: [Arch; 4] = [Arch::SM90A, Arch::SM100A, Arch::SM120A, Arch::SM121A];

/// Bytes of registers that kernels spill, by the assembler's words; `None` where it says nothing.
fn spilled(log: &str) -> Option<u64> {
    let stores = log.split(" bytes spill stores").map(|before| before.rsplit(' ').next());
    stores.filter_map(|number| number?.parse::<u64>().ok()).reduce(|sum, bytes| sum + bytes)
}

#[test]
fn spilled_bytes_are_found_in_what_the_assembler_says() {
    let log = "ptxas         .     0 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads\n\
               ptxas         .     0 bytes stack frame, 4 bytes spill stores, 16 bytes spill loads\n";
    assert_eq!(spilled(log), Some(12));
    assert_eq!(spilled(&log.replace(['8', '4'], "0")), Some(0));
    assert_eq!(spilled("ptxas info    : Used 8 registers, used 0 barriers"), None);
}

#[test]
fn a_covering_has_every_choice_and_programs_without_any() {
    let program = |name, defines: &[_]| Program { name, source: "", defines: defines.to_vec() };
    let mut programs = vec![program("plain", &[])];
    for (a, b, c) in (0..8).map(|i| (i & 1, i >> 1 & 1, i >> 2)) {
        programs.push(program("all", &[("A", a), ("B", b), ("C", c)]));
    }
    assert_eq!(covering(programs.clone(), each).len(), 1 + 2);
    let picked = covering(programs.clone(), pairs);
    let of = |programs: &[Program]| programs.iter().flat_map(pairs).collect::<HashSet<_>>();
    assert_eq!(of(&picked), of(&programs));
    assert!(picked.len() < programs.len(), "{}", picked.len());
}
