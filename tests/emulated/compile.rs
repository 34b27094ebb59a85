//! Every program of every kernel compiles for every architecture.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ferrocerium::backend::cuda::{self, Gpu, Program};
use ferrocerium::caps::{Arch, Caps, MemoryKind};

use super::emulated;

#[test]
#[ignore = "compiles about two thousand programs for each architecture: hours"]
fn every_program_compiles_for_every_architecture() {
    compiles_for_every_architecture(|programs| programs);
}

#[test]
#[ignore = "compiles some two hundred programs for each architecture: an hour"]
fn every_two_options_compile_together_for_every_architecture() {
    compiles_for_every_architecture(|programs| of_all_pairs(&programs));
}

fn compiles_for_every_architecture(pick: fn(Vec<Program>) -> Vec<Program>) {
    if emulated(Arch::SM121A).is_none() {
        return;
    }
    let mut failed = Vec::new();
    for arch in Arch::ALL {
        let all = cuda::programs(&Caps::gpu(arch, 48, &[MemoryKind::Host]));
        let count = all.len();
        let programs = pick(all);
        println!("{arch}: {} of {count} programs", programs.len());
        let start = Instant::now();
        let (faults, busy) = compile_all(arch, &programs);
        let (wall, busy) = (start.elapsed().as_secs_f64(), busy.as_secs_f64());
        let each = busy / programs.len().max(1) as f64;
        println!("{arch}: {wall:.0} s, {each:.2} s each");
        failed.extend(faults);
    }
    assert!(failed.is_empty(), "{} programs:\n{}", failed.len(), failed.join("\n"));
}

/// A source and two of its macros with their values.
type Pair = (&'static str, [(&'static str, u32); 2]);

/// Programs in which all pairs of macros' values occur that do in some program. Most programs are
/// products of choices that know nothing of each other, such as how each operand is loaded.
fn of_all_pairs(programs: &[Program]) -> Vec<Program> {
    let pairs = |program: &Program| -> Vec<Pair> {
        let defines = program.defines.iter().enumerate();
        let with_later =
            |(i, &a)| program.defines[i..].iter().map(move |&b| (program.name, [a, b]));
        defines.flat_map(with_later).collect()
    };
    let all: Vec<Vec<Pair>> = programs.iter().map(pairs).collect();
    let mut missing: HashSet<Pair> = all.iter().flatten().copied().collect();
    // Those without macros have no pairs.
    let plain = programs.iter().filter(|program| program.defines.is_empty());
    let mut picked: Vec<Program> = plain.cloned().collect();
    while !missing.is_empty() {
        let gain = |pairs: &Vec<Pair>| pairs.iter().filter(|pair| missing.contains(*pair)).count();
        let Some(best) = (0..all.len()).max_by_key(|&i| gain(&all[i])) else { break };
        for pair in &all[best] {
            missing.remove(pair);
        }
        picked.push(programs[best].clone());
    }
    picked
}

/// What fails to compile or to load, and the time of all threads together.
fn compile_all(arch: Arch, programs: &[Program]) -> (Vec<String>, Duration) {
    let (next, found) = (AtomicUsize::new(0), Mutex::new((Vec::new(), Duration::ZERO)));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(program) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    // A GPU of its own, so that the modules of thousands are not kept.
                    let loaded = Gpu::emulated(arch, 1).and_then(|gpu| gpu.module(program));
                    let mut found = found.lock().unwrap();
                    found.1 += start.elapsed();
                    if let Err(error) = loaded {
                        let (name, defines) = (program.name, &program.defines);
                        found.0.push(format!("{name} {defines:?} for {arch}: {error}"));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}
