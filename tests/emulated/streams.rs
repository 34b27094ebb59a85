//! Work in flight: who waits for whom, what becomes of failures and of memory.

use ferrocerium::caps::{Arch, MemoryKind};
use ferrocerium::op::{Elementwise, Function, Op};
use ferrocerium::registry::Request;
use ferrocerium::{Device, Error, Tensor};
use proptest::prelude::*;

use super::emulated;
use super::own_kernel::with_double;

/// Values that elementwise sums keep exact.
fn vector(device: &Device, first: usize) -> Tensor<f32, 1> {
    Tensor::from_fn(device, [16], |[i]| (first + i) as f32).unwrap()
}

/// Adds into memory that is there.
fn add_into(device: &Device, a: &Tensor<f32, 1>, b: &Tensor<f32, 1>, out: &Tensor<f32, 1>) {
    let op = Elementwise::binary(Function::Add, a.operand(), b.operand(), out.operand());
    device.run(&Op::Elementwise(op)).unwrap();
}

#[test]
fn a_failure_is_the_error_of_who_waits_for_the_result_with_the_kernel_s_name() {
    let Some(device) = with_double(true) else { return };
    let double = device.with_request(Request::kernel("test.double"));
    let x = Tensor::from_fn(&device, [64], |[i]| i as f32).unwrap();
    // Enqueued: nothing is known to be wrong.
    let bad = x.on(&double).cast::<f32>().unwrap();
    let sum = bad.on(&device).add_scalar(1.0).unwrap();
    let good = x.add_scalar(1.0).unwrap();
    for result in [bad.to_vec(), bad.to_vec(), sum.to_vec()] {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, Error::Kernel { kernel, .. } if kernel == "test.double"),
            "{error}"
        );
    }
    assert_eq!(good.to_vec().unwrap()[63], 64.0, "what does not need it is right");
    // Reported once to a writer, whose values are right afterwards.
    assert!(matches!(bad.host_mut(), Err(Error::Kernel { .. })));
    bad.host_mut().unwrap().as_mut_slice().unwrap().fill(1.0);
    assert_eq!(bad.to_vec().unwrap(), [1.0; 64]);
}

#[test]
fn failures_that_nobody_read_are_reported_once_when_synchronizing() {
    let Some(device) = with_double(true) else { return };
    let double = device.with_request(Request::kernel("test.double"));
    device.synchronize().unwrap();
    drop(Tensor::<f32, 1>::zeros(&double, [64]).unwrap().cast::<f32>().unwrap());
    drop(vector(&device, 0).add_scalar(1.0).unwrap());
    let x = vector(&device, 3);
    // What a device of the kernel's own ran, the other device does not know of.
    x.add_scalar(1.0).unwrap();
    device.synchronize().unwrap();
    let bad = Tensor::<f32, 1>::zeros(&double, [64]).unwrap().cast::<f32>().unwrap();
    drop(bad.on(&device).add_scalar(1.0).unwrap());
    drop(bad);
    assert!(matches!(device.synchronize(), Err(Error::Kernel { .. })));
    device.synchronize().unwrap();
}

#[test]
fn memory_in_flight_outlives_its_handles_and_no_more() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let mut x = vector(&device, 0);
    for _ in 0..40 {
        // The handle of what the kernel reads goes while it may still run.
        x = x.add_scalar(1.0).unwrap();
    }
    let view = x.slice(0, 3..4).unwrap();
    drop(x);
    assert_eq!(view.to_vec().unwrap(), [43.0]);
    device.synchronize().unwrap();
    assert_eq!(device.memory().used, 64);
    drop(view);
    assert_eq!(device.memory().used, 0);
}

#[test]
fn a_device_may_go_while_its_work_runs() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let y = {
        let x = vector(&device, 0).add_scalar(1.0).unwrap().add_scalar(1.0).unwrap();
        x.on(&Device::cpu())
    };
    drop(device);
    assert_eq!(y.to_vec().unwrap()[0], 2.0);
}

#[test]
fn threads_with_streams_of_their_own_share_inputs_and_the_host_reads_between() {
    let Some(device) = emulated(Arch::SM90A) else { return };
    let shared = vector(&device, 1);
    let total = Tensor::<f32, 1>::zeros(&device, [16]).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (device, shared, total) = (&device, &shared, &total);
            scope.spawn(move || {
                let own = device.with_new_stream().unwrap();
                let mut x = shared.on(&own);
                for round in 1..=10 {
                    x = x.add(&shared.on(&own)).unwrap();
                    if round % 3 == thread % 3 {
                        assert_eq!(x.host().unwrap()[[2]], 3.0 * (round + 1) as f32);
                    }
                }
                assert_eq!(x.to_vec().unwrap()[15], 16.0 * 11.0);
                assert_eq!(total.to_vec().unwrap()[0], 0.0);
            });
        }
    });
    device.synchronize().unwrap();
    drop((shared, total));
    assert_eq!(device.memory().used, 0);
}

/// What happens to one of a few tensors.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// `to = a + b`, in a stream.
    Add { stream: usize, a: usize, b: usize, to: usize },
    /// A new tensor, `a + 1`, takes the place of another while that may be in use.
    Replace { stream: usize, a: usize, to: usize },
    /// The host adds to it in place.
    Write { to: usize },
    /// The host reads it.
    Read { from: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || 0usize..4;
    prop::collection::vec(
        prop_oneof![
            4 => (0usize..3, at(), at(), at())
                .prop_map(|(stream, a, b, to)| Step::Add { stream, a, b, to }),
            2 => (0usize..3, at(), at()).prop_map(|(stream, a, to)| Step::Replace { stream, a, to }),
            1 => at().prop_map(|to| Step::Write { to }),
            1 => at().prop_map(|from| Step::Read { from }),
        ],
        1..24,
    )
}

/// Runs the steps on the devices, in turn with numbers that are right by themselves.
fn check_steps(devices: &[Device], readable: bool, steps: &[Step]) {
    let mut tensors: Vec<_> = (0..4).map(|i| vector(&devices[0], i)).collect();
    let mut numbers: Vec<f64> = (0..4).map(f64::from).collect();
    for &step in steps {
        match step {
            Step::Add { stream, a, b, to } if to != a && to != b => {
                add_into(&devices[stream], &tensors[a], &tensors[b], &tensors[to]);
                numbers[to] = numbers[a] + numbers[b];
            }
            Step::Add { .. } => {}
            Step::Replace { stream, a, to } => {
                tensors[to] = tensors[a].on(&devices[stream]).add_scalar(1.0).unwrap();
                numbers[to] = numbers[a] + 1.0;
            }
            Step::Write { to } if readable => {
                let mut host = tensors[to].host_mut().unwrap();
                host.as_mut_slice().unwrap().iter_mut().for_each(|x| *x += 1.0);
                numbers[to] += 1.0;
            }
            Step::Write { .. } => {}
            Step::Read { from } => {
                assert_eq!(f64::from(tensors[from].to_vec().unwrap()[0]), numbers[from]);
            }
        }
    }
    for (tensor, number) in tensors.iter().zip(&numbers) {
        assert_eq!(f64::from(tensor.to_vec().unwrap()[0]), *number, "{steps:?}");
    }
    devices[0].synchronize().unwrap();
    assert_eq!(devices[0].memory().used, 4 * 64);
}

#[test]
fn whatever_streams_and_the_host_do_in_turn_everybody_sees_what_came_before() {
    let Some(shared) = emulated(Arch::SM121A) else { return };
    let discrete = Device::builder().emulated_discrete(Arch::SM121A).unwrap();
    assert_eq!(
        [&shared, &discrete].map(|d| d.memory_kind()),
        [MemoryKind::Host, MemoryKind::Device]
    );
    [shared, discrete].iter().for_each(check_streams);
}

/// Runs random steps on three streams of a device.
pub fn check_streams(device: &Device) {
    let streams: Vec<_> = (0..3).map(|_| device.with_new_stream().unwrap()).collect();
    let readable = device.memory_kind().host_writable();
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() };
    proptest!(config, |(steps in steps())| check_steps(&streams, readable, &steps));
}
