//! Any text: it is refused, or its first kernel ends in a report or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ptx_vm::{Arg, LaunchConfig, Machine, Module};

fuzz_target!(|text: &str| {
    let Ok(module) = Module::from_ptx(text) else { return };
    let Some(kernel) = module.kernels().next().map(str::to_string) else { return };
    let mut machine = Machine::new();
    let Ok(memory) = machine.upload(&[3; 4096]) else { return };
    let parameters = module.parameters(&kernel).unwrap_or_default();
    let args: Vec<Arg> = parameters
        .into_iter()
        .map(|(_, bytes)| match bytes {
            8 => memory.into(),
            n => Arg::bytes(&vec![1; n as usize]),
        })
        .collect();
    let config = LaunchConfig::new(1, 40).host_threads(1).max_instructions(2000);
    let _ = machine.launch(&module, &kernel, &config, &args);
});
