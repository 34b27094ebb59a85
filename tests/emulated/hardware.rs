//! The same on the machine's first GPU, where there is one: by its driver, in each kind of memory
//! that results can live in there.

use ferrocerium::Device;
use ferrocerium::caps::{Isa, MemoryKind};

use super::{conforms, driver, graphs, narrowing_conforms, own_kernel, streams};

/// Does it on a device for each kind of memory, the one first that the device has by itself.
fn in_each_memory(check: impl Fn(&Device)) {
    if Device::cuda_count() == 0 {
        eprintln!("skipped: no GPU");
        return;
    }
    let device = Device::cuda(0).unwrap();
    println!("{}", device.caps());
    check(&device);
    let others = device.caps().memory_kinds.iter().copied();
    for kind in others.filter(|&kind| kind != device.memory_kind() && kind != MemoryKind::Mapped) {
        println!("results in {kind} memory");
        check(&Device::builder().memory(kind).cuda(0).unwrap());
    }
}

#[test]
fn every_kernel_agrees_with_the_reference_on_a_gpu() {
    in_each_memory(|device| conforms(device, if driver::stands_in() { 10 } else { 1 }));
}

#[test]
fn attention_that_narrows_operands_agrees_with_the_reference_on_a_gpu() {
    in_each_memory(|device| {
        if device.caps().has(Isa::MmaBlockScaled) {
            narrowing_conforms(device);
        }
    });
}

#[test]
fn streams_of_a_gpu_and_the_host_see_what_came_before() {
    in_each_memory(streams::check_streams);
}

#[test]
fn graphs_of_a_gpu_read_what_is_there_when_they_are_replayed() {
    in_each_memory(|device| {
        graphs::check_replays(device);
        graphs::check_lengths(device);
    });
}

#[test]
fn a_kernel_of_one_s_own_runs_on_a_gpu() {
    in_each_memory(own_kernel::check);
}
