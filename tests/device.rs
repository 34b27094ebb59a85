//! Devices: what they are made with, what clones share, and that threads may share them.

#[path = "common/ops.rs"]
mod ops;

use ferrocerium::device::DeviceBuilder;
use ferrocerium::format::Nvfp4;
use ferrocerium::memory::{Buffer, Pool};
use ferrocerium::op::Op;
use ferrocerium::registry::{KernelRegistry, Request, Workers};
use ferrocerium::{AnyTensor, Device, Error, ScaledTensor, Tensor, bf16};
use ops::{error, numbers, says};

#[test]
fn devices_tensors_and_registries_go_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Device>();
    check::<DeviceBuilder>();
    check::<Buffer>();
    check::<Pool>();
    check::<KernelRegistry>();
    check::<Request>();
    check::<Workers>();
    check::<Tensor<bf16, 3>>();
    check::<ScaledTensor<Nvfp4, 2>>();
    check::<AnyTensor>();
    check::<Op>();
    check::<Error>();
}

#[test]
fn the_reference_is_alone_with_plain_loops() {
    let device = Device::reference();
    assert_eq!(device.name(), "reference");
    assert_eq!((device.caps().units, device.caps().isa.len()), (1, 0));
    assert!(device.registry().list().iter().all(|k| k.name.starts_with("reference.")));
}

#[test]
#[cfg(feature = "cpu")]
fn the_best_device_without_a_gpu_is_the_cpu_and_it_runs_everything() {
    #[cfg(feature = "cuda")]
    if Device::cuda_count() > 0 {
        return;
    }
    let device = Device::best().unwrap();
    assert_eq!(device.name(), "cpu");
    for op in ferrocerium::op::OpKind::ALL {
        assert!(!device.registry().kernels(op).is_empty(), "{}", op.name());
    }
    assert!(device.registry().list().iter().any(|k| k.name == "cpu.gemm"));
}

#[test]
#[cfg(not(feature = "cpu"))]
fn the_best_device_without_cpu_kernels_is_the_reference() {
    assert_eq!(Device::best().unwrap().name(), "reference");
}

#[test]
fn a_budget_holds_for_all_clones_and_handles() {
    let device = Device::builder().memory_limit(64).reference();
    let (clone, handle) = (device.clone(), device.with_request(Request::default()));
    let x = Tensor::<u8, 1>::zeros(&clone, [40]).unwrap();
    let failure = Tensor::<u8, 1>::zeros(&handle, [40]).unwrap_err();
    says(&failure.to_string(), &["40 B for `u8`", "reference", "40 B is in use", "24 B more"]);
    assert!(device.is_same(&clone) && device.is_same(&handle));
    assert!(!device.is_same(&Device::reference()));
    drop(x);
    Tensor::<u8, 1>::zeros(&handle, [64]).unwrap();
    // The result of an operation is charged as well.
    let x = Tensor::<f32, 1>::zeros(&device, [10]).unwrap();
    assert!(matches!(x.exp(), Err(Error::OutOfMemory { .. })));
}

#[test]
#[cfg(feature = "cpu")]
fn threads_are_as_many_as_asked_for_and_never_none() {
    let three = Device::builder().threads(3).cpu().unwrap();
    assert_eq!(three.caps().units, 3);
    says(&error(Device::builder().threads(0).cpu()), &["threads", "0", "at least 1"]);
    assert!(Device::cpu().caps().units >= 1);
}

#[test]
#[cfg(feature = "cpu")]
fn instruction_sets_can_be_held_back_but_not_made_up() {
    use ferrocerium::caps::Isa;
    let plain = Device::builder().isa(&[]).cpu().unwrap();
    assert!(plain.caps().isa.is_empty());
    let all = Device::cpu().caps().isa.clone();
    let asked =
        [Isa::Avx2Fma, Isa::Avx512, Isa::Avx512Vnni, Isa::Neon, Isa::NeonDot, Isa::NeonI8mm];
    assert_eq!(Device::builder().isa(&asked).cpu().unwrap().caps().isa, all);
}

/// Not a test: says which kernel multiplies, and on what, in a process of its own.
#[test]
#[cfg(feature = "cpu")]
fn operands_of_two_devices_do_not_mix_unless_told_to() {
    let (a, b) = (Device::cpu(), Device::reference());
    let x = Tensor::from_host(&a, [1, 2], &[1.0f32, 2.0]).unwrap();
    let y = Tensor::from_host(&b, [2, 1], &[3.0f32, 4.0]).unwrap();
    says(&error(x.matmul(&y)), &["cpu", "reference", "copy", "`on`"]);
    assert_eq!(x.matmul(&y.on(&a)).unwrap().to_vec().unwrap(), [11.0]);
}

#[test]
fn what_is_wrong_with_an_operation_is_said_before_it_runs() {
    let device = Device::reference();
    let x = Tensor::<f32, 2>::zeros(&device, [2, 3]).unwrap();
    let spec = x.gemm(&x.t()).spec::<f32>().unwrap();
    says(&error(device.run(&spec)), &["no data", "explained, not run"]);
    device.explain(&spec).unwrap();
    assert!(error(x.gemm(&x).run::<f32>()).contains("inner sizes 3 and 2 differ"));
    assert!(device.launches().is_empty(), "nothing ran");
}

#[test]
fn a_device_prints_its_name_and_machine() {
    assert_eq!(format!("{:?}", Device::reference()), "Device(reference: cpu × 1)");
}

#[test]
fn many_threads_use_one_device_and_get_what_one_gets() {
    for (device, _) in ops::devices() {
        let n = 24;
        let w = Tensor::from_host(&device, [n, n], &numbers(n * n, 1)).unwrap();
        let w4 = w.quantize::<Nvfp4>().unwrap();
        let work = |seed: u64| -> Vec<f32> {
            let x = Tensor::from_host(&device, [5, n], &numbers(5 * n, seed)).unwrap();
            let y = x.matmul(&w4.t()).unwrap().silu().unwrap().softmax().unwrap();
            y.add(&x).unwrap().to_vec().unwrap()
        };
        let alone: Vec<_> = (0..8).map(work).collect();
        let before = device.memory().used;
        let launches: u64 = device.launches().values().sum();
        let together: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|seed| {
                    let work = &work;
                    scope.spawn(move || {
                        let runs: Vec<_> = (0..5).map(|_| work(seed)).collect();
                        assert!(runs.iter().all(|run| run == &runs[0]));
                        runs[0].clone()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(alone, together, "{device:?}");
        assert_eq!(device.memory().used, before, "every temporary is freed");
        let after: u64 = device.launches().values().sum();
        // The first launch of all was that of the quantisation.
        assert_eq!(after - launches, 5 * (launches - 1), "every launch is counted");
    }
}

#[test]
fn threads_that_write_parts_of_one_tensor_in_turn_lose_nothing() {
    let device = Device::reference();
    let out = Tensor::<i32, 2>::zeros(&device, [8, 100]).unwrap();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let (out, device) = (&out, &device);
            scope.spawn(move || {
                let row = Tensor::from_fn(device, [1, 100], |[_, j]| (i * 100 + j) as i32).unwrap();
                out.slice(0, i..i + 1).unwrap().copy_from(&row).unwrap();
            });
        }
    });
    assert_eq!(out.to_vec().unwrap(), (0..800).collect::<Vec<_>>());
}

#[test]
fn replays_on_several_threads_run_one_after_the_other() {
    let device = Device::reference();
    let x = Tensor::from_host(&device, [2], &[0.0f32, 100.0]).unwrap();
    let step = || x.copy_from(&x.add_scalar(1.0)?.add_scalar(1.0)?);
    let (graph, ()) = device.capture(step).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..50).for_each(|_| graph.replay().unwrap()));
        }
    });
    assert_eq!(x.to_vec().unwrap(), [300.0, 400.0]);
}

#[test]
fn a_replay_runs_nothing_while_a_guard_holds_what_a_later_operation_writes() {
    let device = Device::reference();
    let x = Tensor::from_host(&device, [2], &[1.0f32, 2.0]).unwrap();
    let (graph, (first, second)) = device
        .capture(|| {
            let first = x.add_scalar(1.0)?;
            let second = first.add_scalar(1.0)?;
            Ok::<_, Error>((first, second))
        })
        .unwrap();
    let guard = second.host().unwrap();
    assert!(matches!(graph.replay(), Err(Error::Busy { .. })));
    drop(guard);
    assert_eq!(first.to_vec().unwrap(), [0.0, 0.0]);
    graph.replay().unwrap();
    assert_eq!(second.to_vec().unwrap(), [3.0, 4.0]);
}

#[test]
fn results_of_a_recording_that_are_dropped_give_later_ones_their_memory() {
    let device = Device::reference();
    let x = Tensor::from_host(&device, [2], &[1.0f32, 2.0]).unwrap();
    let before = device.memory().buffers;
    let (graph, (kept, last)) = device
        .capture(|| {
            let kept = x.add_scalar(1.0)?;
            let mut last = kept.add_scalar(1.0)?;
            for _ in 0..10 {
                last = last.add_scalar(1.0)?;
            }
            // Of another type: memory of its own.
            assert_eq!(last.cast::<i32>()?.shape(), [2]);
            Ok::<_, Error>((kept, last))
        })
        .unwrap();
    assert_eq!(device.memory().buffers, before + 4);
    for _ in 0..2 {
        graph.replay().unwrap();
        assert_eq!(kept.to_vec().unwrap(), [2.0, 3.0]);
        assert_eq!(last.to_vec().unwrap(), [13.0, 14.0]);
    }
}
