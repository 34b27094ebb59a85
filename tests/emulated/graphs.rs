//! Operations that are recorded once and replayed.

use ferrocerium::caps::{Arch, MemoryKind};
use ferrocerium::device::Graph;
use ferrocerium::registry::Request;
use ferrocerium::{Device, Error, Tensor, bf16};

use super::emulated;
use super::own_kernel::with_double;

#[test]
fn graphs_go_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Graph>();
}

#[test]
fn a_replay_gives_what_the_operations_give_one_by_one_as_inputs_change() {
    let Some(shared) = emulated(Arch::SM121A) else { return };
    let discrete = Device::builder().emulated_discrete(Arch::SM90A).unwrap();
    [shared, discrete, Device::cpu()].iter().for_each(check_replays);
}

/// Records a few operations, and replays them as their input changes.
pub fn check_replays(device: &Device) {
    let run = |w: &Tensor<bf16, 2>| {
        let y: Tensor<f32, 2> = w.gemm(&w.t()).run()?;
        y.softmax()?.add_scalar(1.0)
    };
    let w = Tensor::<bf16, 2>::zeros(device, [4, 16]).unwrap();
    let (graph, y) = device.capture(|| run(&w)).unwrap();
    assert_eq!(graph.len(), 3, "{graph:?}");
    assert_eq!(y.to_vec().unwrap(), [0.0; 16], "nothing ran yet");
    for round in 0..3 {
        let values = vec![bf16::from_f32(round as f32 * 0.5 + 0.25); 64];
        w.region().buffer().copy_from_host(0, bytemuck::cast_slice(&values)).unwrap();
        graph.replay().unwrap();
        assert_eq!(y.to_vec().unwrap(), run(&w).unwrap().to_vec().unwrap(), "{device:?}");
    }
    // The graph keeps the memory that only it knows.
    let used = device.memory().used;
    drop(graph);
    device.synchronize().unwrap();
    assert!(device.memory().used < used);
}

#[test]
fn preparing_compiles_and_runs_nothing() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let x = Tensor::full(&device, [4, 16], bf16::ONE).unwrap();
    let mut y = None;
    let prepared = device.prepare(|| -> ferrocerium::Result<()> {
        y = Some(x.matmul(&x.t())?);
        Ok(())
    });
    prepared.unwrap();
    assert!(device.launches().is_empty());
    assert_eq!(y.unwrap().to_vec().unwrap(), [bf16::ZERO; 16], "nothing ran");
    // What the host would have to read while nothing runs.
    let read = || x.matmul(&x.t())?.to_vec();
    assert!(matches!(device.prepare(read), Err(Error::Busy { .. })));
    assert_eq!(read().unwrap()[0].to_f32(), 16.0);
    // On the CPU there is nothing to be made ready.
    Device::cpu().prepare(|| -> ferrocerium::Result<()> { panic!("called") }).unwrap();
}

#[test]
fn replays_come_after_what_they_need_and_before_what_needs_them() {
    let Some(device) = emulated(Arch::SM90A) else { return };
    let other = device.with_new_stream().unwrap();
    let x = Tensor::full(&device, [16], 0.0f32).unwrap();
    let y = Tensor::full(&device, [16], 0.0f32).unwrap();
    let add = |from: &Tensor<f32, 1>, to: &Tensor<f32, 1>| {
        use ferrocerium::op::{Elementwise, Function, Op};
        let function = Function::Affine { scale: 1.0, shift: 1.0 };
        device.run(&Op::Elementwise(Elementwise::unary(function, from.operand(), to.operand())))
    };
    // x → y → x: each replay adds 2.
    let (graph, ()) = device.capture(|| add(&x, &y).and_then(|()| add(&y, &x))).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..5).for_each(|_| graph.replay().unwrap()));
        }
    });
    let later = x.on(&other).add_scalar(1.0).unwrap();
    graph.replay().unwrap();
    assert_eq!((later.to_vec().unwrap()[3], x.to_vec().unwrap()[3]), (21.0, 22.0));
}

#[test]
fn the_host_can_not_use_what_is_only_recorded() {
    for device in [emulated(Arch::SM121A), Some(Device::cpu())].into_iter().flatten() {
        let x = Tensor::full(&device, [16], 1.0f32).unwrap();
        let recorded = |result: ferrocerium::Result<(Graph, ())>| {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Busy { .. }), "{error:?}");
            assert!(error.to_string().contains("being recorded"), "{error}");
        };
        recorded(device.capture(|| x.add_scalar(1.0)?.to_vec().map(drop)));
        recorded(device.capture(|| {
            x.add_scalar(1.0)?;
            x.host_mut().map(drop)
        }));
        // A device that does not record would run too early.
        recorded(device.capture(|| {
            let y = x.add_scalar(1.0)?;
            y.on(&Device::reference()).add_scalar(1.0).map(drop)
        }));
        // Reading an input is harmless, and the recording ends with the call.
        let (_, y) = device.capture(|| x.to_vec().and_then(|_| x.add_scalar(1.0))).unwrap();
        y.host_mut().unwrap();
        x.host_mut().unwrap();
        let nested = device.capture(|| device.capture(|| Ok::<_, Error>(())).map(drop));
        assert!(nested.unwrap_err().to_string().contains("records already"));
    }
}

#[test]
fn operations_of_other_threads_and_devices_run_as_ever() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let x = Tensor::full(&device, [16], 1.0f32).unwrap();
    let (graph, z) = device
        .capture(|| {
            let y = std::thread::scope(|scope| {
                scope.spawn(|| x.add_scalar(1.0).unwrap().to_vec().unwrap()).join().unwrap()
            });
            assert_eq!(y[0], 2.0);
            assert_eq!(x.on(&Device::cpu()).add_scalar(2.0)?.to_vec()?[0], 3.0);
            x.add_scalar(3.0)
        })
        .unwrap();
    assert_eq!(graph.len(), 1);
    graph.replay().unwrap();
    assert_eq!(z.to_vec().unwrap()[0], 4.0);
}

#[test]
fn what_needs_the_host_can_not_be_recorded_on_a_gpu_and_says_which_kernel_it_is() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let x = Tensor::full(&device, [4, 16], 1.0f64).unwrap();
    let error = device.capture(|| x.softmax()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Kernel { .. }), "{text}");
    assert!(text.contains("reference.softmax") && text.contains("recorded"), "{text}");
    // Nothing is left behind.
    x.softmax().unwrap().to_vec().unwrap();
    let cpu = Tensor::full(&Device::cpu(), [4, 16], 1.0f64).unwrap();
    let (graph, y) = cpu.device().capture(|| cpu.softmax()).unwrap();
    graph.replay().unwrap();
    assert_eq!(y.to_vec().unwrap()[0], 1.0 / 16.0);
}

#[test]
fn a_failure_in_a_replay_is_the_error_of_who_reads_the_result() {
    let Some(device) = with_double(true) else { return };
    let x = Tensor::full(&device, [64], 1.0f32).unwrap();
    let double = device.with_request(Request::kernel("test.double"));
    // The kernel is of another GPU than the device: its launches are not the device's to record.
    let refused = device.capture(|| x.on(&double).cast::<f32>()).unwrap_err().to_string();
    assert!(refused.contains("another device"), "{refused}");
    let kept = Tensor::full(&device, [64], 0.0f32).unwrap();
    assert_eq!(kept.region().buffer().kind(), MemoryKind::Host);
    x.host_mut().unwrap();
}

#[test]
fn lengths_and_places_are_data_that_each_replay_reads() {
    let Some(shared) = emulated(Arch::SM121A) else { return };
    let discrete = Device::builder().emulated_discrete(Arch::SM90A).unwrap();
    [shared, discrete].iter().for_each(check_lengths);
}

/// Records attention over a cache that fills as it is replayed.
pub fn check_lengths(device: &Device) {
    const ROOM: usize = 600;
    let wave = |[_, i, h, j]: [usize; 4]| bf16::from_f32(((i * 7 + h * 5 + j) as f32).sin());
    let q = Tensor::from_fn(device, [1, 1, 4, 64], wave).unwrap();
    let row = Tensor::from_fn(device, [1, 1, 2, 64], wave).unwrap();
    let keys = Tensor::from_fn(device, [1, ROOM, 2, 64], wave).unwrap();
    let (at, len) = (Tensor::full(device, [1], 0u32), Tensor::full(device, [1], 0u32));
    let (at, len) = (at.unwrap(), len.unwrap());
    for window in [None, Some(70)] {
        let attend = |keys: &Tensor<bf16, 4>, lens: Option<&Tensor<u32, 1>>| {
            let attention = q.attention(keys, keys).causal();
            let attention = window.into_iter().fold(attention, |a, window| a.window(window));
            match lens {
                Some(lens) => attention.kv_lens(lens).run::<bf16>(),
                None => attention.run::<bf16>(),
            }
        };
        let step = || {
            keys.scatter_from(1, &at, &row)?;
            attend(&keys, Some(&len))
        };
        let (graph, out) = device.capture(step).unwrap();
        for count in [1u32, 64, 257, 600] {
            at.region().buffer().copy_from_host(0, &(count - 1).to_ne_bytes()).unwrap();
            len.region().buffer().copy_from_host(0, &count.to_ne_bytes()).unwrap();
            graph.replay().unwrap();
            let there = keys.slice(1, 0..count as usize).unwrap();
            let (last, _) = (there.slice(1, count as usize - 1..count as usize), ());
            assert_eq!(last.unwrap().to_vec().unwrap(), row.to_vec().unwrap());
            let expected = attend(&there, None).unwrap().to_vec().unwrap();
            assert_eq!(out.to_vec().unwrap(), expected, "{count} keys, {window:?}, {device:?}");
        }
    }
    // More than there is room for.
    let (graph, out) =
        device.capture(|| q.attention(&keys, &keys).kv_lens(&len).run::<bf16>()).unwrap();
    len.region().buffer().copy_from_host(0, &601u32.to_ne_bytes()).unwrap();
    graph.replay().unwrap();
    let error = out.to_vec().unwrap_err();
    assert!(matches!(error, Error::Value { .. }), "{error:?}");
    assert!(error.to_string().contains("kv_lens: element 0 is not 0 to 600"), "{error}");
}

#[test]
fn what_is_wrong_with_the_data_of_a_replay_is_the_error_of_who_reads_the_result() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    let table = Tensor::full(&device, [4, 64], bf16::ONE).unwrap();
    let at = Tensor::from_host(&device, [3], &[1u32, 2, 3]).unwrap();
    let pick = || -> ferrocerium::Result<Tensor<bf16, 2>> { table.embed(&at) };
    let (graph, picked) = device.capture(pick).unwrap();
    let (narrow, blocks) =
        device.capture(|| table.quantize::<ferrocerium::format::Nvfp4>()).unwrap();
    for graph in [&graph, &narrow] {
        graph.replay().unwrap();
    }
    assert_eq!(picked.to_vec().unwrap(), [bf16::ONE; 192]);
    assert_eq!(blocks.dequantize::<f32>().unwrap().to_vec().unwrap()[9], 1.0);
    at.host_mut().unwrap()[[1]] = 4;
    graph.replay().unwrap();
    let error = picked.add_scalar(1.0).unwrap().to_vec().unwrap_err();
    assert!(matches!(error, Error::Value { .. }), "{error:?}");
    for part in ["gather: indices", "position 1", "dimension 0 of table"] {
        assert!(error.to_string().contains(part), "no {part:?} in {error}");
    }
    table.host_mut().unwrap()[[2, 5]] = bf16::NAN;
    narrow.replay().unwrap();
    let error = blocks.dequantize::<f32>().unwrap().to_vec().unwrap_err().to_string();
    assert!(error.contains("value 133 ([0, 2, 5]"), "{error}");
}
